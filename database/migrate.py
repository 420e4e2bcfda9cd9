"""Bring the database up to date: Meltano's own tables first, then the application's.

`python -m database migrate` is part of `make setup`. A run does the same by itself when it
finds the database behind, which costs one query when it is not.
"""

import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import psycopg

from database.address import database_url, sqlalchemy_url
from database.environment import ROOT

MIGRATIONS = Path(__file__).parent / "migrations"


def newest_migration() -> str:
    """Return the number of the newest migration that there is."""
    return max(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def migrate_if_needed(url: str) -> None:
    """Migrate when the database is behind, or a raw table is gone; in a process of its own.

    Raises:
        SystemExit: the database can't be reached, or a migration failed.
    """
    if _revision(url) == newest_migration():
        return
    done = subprocess.run([sys.executable, "-m", "database", "migrate"], cwd=ROOT, check=False)
    if done.returncode != 0:
        sys.exit("The database could not be brought up to date: see above.")


def _unreachable(error: psycopg.OperationalError) -> NoReturn:
    sys.exit(f"The database of DATABASE_URL can't be reached: {error}".strip())


def _revision(url: str) -> str | None:
    try:
        with psycopg.connect(url, connect_timeout=10) as connection:
            table = connection.execute("select to_regclass('public.alembic_version')").fetchone()
            if table is None or table[0] is None:
                return None
            row = connection.execute(
                "select version_num from public.alembic_version"
                " where to_regclass('raw.opportunities') is not null"
            ).fetchone()
            return None if row is None else str(row[0])
    except psycopg.OperationalError as error:
        _unreachable(error)


def migrate(url: str) -> None:
    """Create or update everything that lies in the database."""
    from alembic import command
    from alembic.config import Config
    from meltano.core.migration_service import MigrationService
    from sqlalchemy import create_engine

    alchemy = sqlalchemy_url(url, "migration")
    with psycopg.connect(url, autocommit=True) as connection:
        # Two migrations at once would trip over each other: the second waits here.
        connection.execute("select pg_advisory_lock(hashtext('oracle_crm_sync.migrate'))")
        connection.execute("create schema if not exists meltano")
        in_meltano = {"options": "-csearch_path=meltano"}
        MigrationService(create_engine(alchemy, connect_args=in_meltano)).upgrade(silent=True)
        config = Config(attributes={"engine": create_engine(alchemy)})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, "head")
        connection.execute((MIGRATIONS / "raw.sql").read_bytes())


def main() -> None:
    """Migrate the database of `DATABASE_URL`."""
    try:
        migrate(database_url())
    except psycopg.OperationalError as unreachable:
        _unreachable(unreachable)
