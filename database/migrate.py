"""Bring the database up to date: our tables, what is made again each time, and Meltano's tables.

`python -m database migrate` is part of `make setup`. A run does the same by itself when it
finds the database behind, which costs one query when it is not.

Tables change by migrations. The raw tables, functions and views are files in `sql/`, each of
which is run at each migration: to change a view, change its file. Its columns may change as well;
dbt's views on it are then dropped until the next run. A migration that alters what a view reads
drops the view first.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
from psycopg import sql

from database import preflight
from database.address import database_url, sqlalchemy_url, url_setting
from database.environment import ROOT
from database.preflight import MIGRATIONS, Purpose

_SQL = Path(__file__).parent / "sql"
_FUNCTIONS = [_SQL / "raw.sql", *sorted(_SQL.glob("functions/*.sql"))]
_VIEWS = sorted(_SQL.glob("views/*.sql"))


def newest_migration() -> str:
    """Return the number of the newest migration that there is."""
    return max(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def migrate_if_needed(url: str) -> None:
    """Migrate when the database is behind, or a raw table is gone; in a process of its own.

    Raises:
        SystemExit: the database can't be reached or can't be used, or a migration failed.
    """
    preflight.require(url, Purpose.RUN)
    if _state(url) == (newest_migration(), _fingerprint()):
        return
    done = subprocess.run(
        [sys.executable, "-m", "database", "migrate"],
        cwd=ROOT,
        check=False,
        env=os.environ | {url_setting(): url},
    )
    if done.returncode != 0:
        sys.exit("The database could not be brought up to date: see above.")


def _fingerprint() -> str:
    """Return what differs as soon as one of the files in `sql/` does."""
    return hashlib.sha256(b"".join(map(Path.read_bytes, _FUNCTIONS + _VIEWS))).hexdigest()


def _state(url: str) -> tuple[str, str] | None:
    """Return the number of the last migration, and the fingerprint of what was made again."""
    with psycopg.connect(url, connect_timeout=10) as connection:
        table = connection.execute("select to_regclass('public.alembic_version')").fetchone()
        if table is None or table[0] is None:
            return None
        return connection.execute(
            """
            select version_num, obj_description('public.alembic_version'::regclass, 'pg_class')
            from public.alembic_version
            where to_regclass('raw.opportunities') is not null
            """
        ).fetchone()


def migrate(url: str) -> None:
    """Create or update everything that lies in the database.

    Raises:
        SystemExit: it can't be used, see `database.preflight`, or a migration failed.
    """
    preflight.require(url, Purpose.MIGRATE)
    bring_up_to_date(url)


def bring_up_to_date(
    url: str,
    before: Callable[[psycopg.Connection[Any]], None] = lambda _: None,
    after: Callable[[psycopg.Connection[Any]], None] = lambda _: None,
) -> None:
    """Run the migrations, in a database that is known to be fit for them.

    Args:
        url: the database.
        before: what comes first in the transaction of the migrations.
        after: what comes last in it.

    Raises:
        SystemExit: a migration failed.
    """
    from alembic import command
    from alembic.config import Config
    from meltano.core.migration_service import MigrationService
    from sqlalchemy import create_engine
    from sqlalchemy.exc import DBAPIError

    alchemy = sqlalchemy_url(url, "migration")
    with psycopg.connect(url, autocommit=True) as connection:
        # Two migrations at once would trip over each other: the second waits here.
        connection.execute("select pg_advisory_lock(hashtext('oracle_crm_sync.migrate'))")
        # Ours come first: earlier releases had views on Meltano's tables, which these could not
        # change. All of it or nothing.
        try:
            with create_engine(alchemy).begin() as alembic:
                driver: Any = alembic.connection.driver_connection
                before(driver)
                driver.execute("create schema if not exists meltano")
                config = Config(attributes={"connection": alembic})
                config.set_main_option("script_location", str(MIGRATIONS))
                command.upgrade(config, "head")
                _make_again(driver)
                after(driver)
        except (psycopg.Error, DBAPIError) as error:
            said = str(error.orig if isinstance(error, DBAPIError) else error).strip()
            sys.exit(f"The database could not be brought up to date, and is as it was: {said}")
        in_meltano = {"options": "-csearch_path=meltano"}
        MigrationService(create_engine(alchemy, connect_args=in_meltano)).upgrade(silent=True)


def _make_again(connection: Any) -> None:
    """Run the files in `sql/`, in the transaction that is open on a connection of psycopg's."""
    for path in _FUNCTIONS:
        connection.execute(path.read_bytes())
    for path in _VIEWS:
        try:
            with connection.transaction():
                connection.execute(path.read_bytes())
        except psycopg.errors.InvalidTableDefinition:  # it has other columns now
            drop = sql.SQL("drop view {} cascade").format(sql.Identifier(path.stem))
            connection.execute(drop)
            connection.execute(path.read_bytes())
    fingerprint = sql.Literal(_fingerprint())
    connection.execute(sql.SQL("comment on table alembic_version is {}").format(fingerprint))


def main() -> None:
    """Migrate the database of `DATABASE_URL`."""
    migrate(database_url())
