"""A database with loaded records, without a CRM or Meltano: for tests of dbt alone."""

import os
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import psycopg
import yaml
from psycopg import sql
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

from database.address import libpq_environment, url_for
from database.environment import DBT_SETTINGS, ROOT
from tests.warm import WarmProject

# Copying files is half the work of writing each page to the log, where no file is synced.
CREATE = "create database {} template {} owner oracle_crm_migrate strategy file_copy"


def create_database(server: str, name: str, template: str) -> str:
    """Create a database as a copy of another; replace a database of the same name.

    dbt parses the whole project again for each new database name.

    Args:
        server: the server's URL, without a database.
        name: the name of the new database.
        template: the name of the database to copy.

    Returns:
        The new database's URL.
    """
    new, old = sql.Identifier(name), sql.Identifier(template)
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("drop database if exists {} with (force)").format(new))
        connection.execute(sql.SQL(CREATE).format(new, old))
    return f"{server}/{name}"


def rename_database(server: str, name: str, new_name: str) -> str:
    """Rename a database, to use it as a template; return the new name."""
    old, new = sql.Identifier(name), sql.Identifier(new_name)
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute(sql.SQL("alter database {} rename to {}").format(old, new))
    return new_name


class Warehouse:
    """A database with raw tables, from which dbt builds the marts."""

    def __init__(
        self, postgres: str, template: str, scratch: Path, warm: WarmProject | None = None
    ) -> None:
        """Create the database on the server as a copy of another.

        Args:
            postgres: the server's URL, without a database.
            template: the database to copy.
            scratch: the folder for dbt's files.
            warm: the project in which to call dbt, if not the real one.
        """
        self._bin = warm.bin if warm else Path(sys.executable).parent
        self.url = create_database(postgres, "test", template)
        self.target = scratch / "dbt"

    def query(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Run a statement and return its rows, if it has any."""
        with psycopg.connect(self.url, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def load(self, *records: dict[str, Any]) -> None:
        """Load records of the stream `opportunities`, like the target."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            for record in records:
                names = sql.SQL(", ").join(map(sql.Identifier, record))
                values = sql.SQL(", ").join(map(sql.Placeholder, record))
                connection.execute(
                    'delete from raw.opportunities where "OptyId" = %(OptyId)s', record
                )
                connection.execute(
                    sql.SQL("insert into raw.opportunities ({}) values ({})").format(names, values),
                    {
                        name: Jsonb(value) if isinstance(value, dict) else value
                        for name, value in record.items()
                    },
                )

    def environment(self) -> dict[str, str]:
        """Return dbt's environment, as Meltano's add-on sets it."""
        project = str(ROOT / "transform")
        return (
            os.environ
            | libpq_environment(url_for("transform", self.url))
            | DBT_SETTINGS
            | {
                "DATABASE_URL": self.url,
                "DBT_PROJECT_DIR": project,
                "DBT_PROFILES_DIR": project,
                "DBT_TARGET_PATH": str(self.target),
                "DBT_LOG_PATH": str(self.target),
            }
        )

    def dbt(self, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
        """Call dbt, without a check of the exit code; `stdout` has all its output."""
        return subprocess.run(
            [self._bin / "dbt-frozen", *arguments],
            cwd=ROOT,
            env=self.environment() | environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            check=False,
        )

    def merge(self, **environment: str) -> None:
        """Run the models, with the options of a sync."""
        plugins = yaml.safe_load((ROOT / "meltano.yml").read_text())["plugins"]["utilities"]
        (commands,) = (one["commands"] for one in plugins if one["name"] == "dbt-postgres")
        done = self.dbt(*shlex.split(commands["run"]["args"]), **environment)
        assert done.returncode == 0, done.stdout
