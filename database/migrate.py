"""Bring the database up to date: our tables, what is made again each time, and Meltano's tables.

`python -m database migrate` is part of `make setup`. A run does the same by itself when it
finds the database behind, which costs one query when it is not.

Tables change by migrations. The raw tables, functions and views are files in `sql/`, each of
which is run at each migration: to change a view, change its file. Its columns may change as well;
dbt's views on it are then dropped until the next run. A migration that alters what a view reads
drops the view first.

What somebody has dropped since is made again in the same way. Only the tables that migrations
create can't be: their rows are in a backup.
"""

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

from database import objects, preflight, roles
from database.address import database_url, role_of, sqlalchemy_url, url_for, url_setting
from database.environment import ROOT, setting
from database.locks import LockedError, bounded, lock_seconds, naming_holder, wait_at_most
from database.preflight import MIGRATIONS, Purpose


def newest_migration() -> str:
    """Return the number of the newest migration that there is."""
    return max(path.name.split("_")[0] for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def migrate_if_needed(url: str) -> None:
    """Migrate when the database is behind, or something in it is gone; in a process of its own.

    Raises:
        SystemExit: the database can't be reached or can't be used, another session holds a lock, or
            a migration failed.
    """
    own = url_for("run", url)
    preflight.require(own, Purpose.RUN)
    with psycopg.connect(own, connect_timeout=10, autocommit=True) as connection:
        migrate_if_behind(url, connection)


def migrate_if_behind(url: str, connection: psycopg.Connection[Any]) -> None:
    """Do the same in a database that is known to be fit for it.

    Args:
        url: the database.
        connection: to it, without a transaction.

    Raises:
        SystemExit: another session holds a lock, or a migration failed.
    """
    try:
        if _is_current(connection):
            return
    except LockedError as error:
        sys.exit(str(error))
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
    return hashlib.sha256(
        b"".join(map(Path.read_bytes, [*objects.FILES, roles.GRANTS]))
    ).hexdigest()


def _is_current(connection: psycopg.Connection[Any]) -> bool:
    """Whether the last migration is the newest, with the same files, and all is still there."""
    with bounded(connection, lock_seconds()):
        if objects.missing(connection):
            return False
        cursor = connection.cursor(row_factory=tuple_row)
        state = cursor.execute(
            """
            select version_num, obj_description('public.alembic_version'::regclass, 'pg_class')
            from public.alembic_version
            """
        ).fetchone()
    return state == (newest_migration(), _fingerprint())


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
        SystemExit: a migration failed, another session holds a lock, or rows are lost.
    """
    from alembic import command
    from alembic.config import Config
    from meltano.core.job.job import Job
    from meltano.core.job_state import JobState
    from meltano.core.migration_service import MigrationService
    from meltano.core.setting import Setting
    from sqlalchemy import Table, create_engine
    from sqlalchemy.exc import DBAPIError

    alchemy, seconds = sqlalchemy_url(url, "migration"), lock_seconds()
    with psycopg.connect(url, autocommit=True) as connection:
        # Two migrations at once would trip over each other: the second waits here.
        connection.execute("select pg_advisory_lock(hashtext('oracle_crm_sync.migrate'))")
        # Ours come first: earlier releases had views on Meltano's tables, which these could not
        # change. All of it or nothing.
        try:
            with create_engine(alchemy).begin() as alembic:
                driver: Any = alembic.connection.driver_connection
                with naming_holder(driver, seconds):
                    wait_at_most(driver, seconds)
                    before(driver)
                    driver.execute("create schema if not exists meltano")
                    config = Config(attributes={"connection": alembic})
                    config.set_main_option("script_location", str(MIGRATIONS))
                    command.upgrade(config, "head")
                    _make_again(driver)
                    # Where this database was copied to another server, by whatever means.
                    driver.execute("select public.renew_change_feed(false)")
                    with_roles = roles.are_used(driver)
                    if with_roles:
                        roles.grant(driver)
                    after(driver)
        except (psycopg.Error, DBAPIError) as error:
            said = str(error.orig if isinstance(error, DBAPIError) else error).strip()
            sys.exit(f"The database could not be brought up to date, and is as it was: {said}")
        # Meltano's tables belong to who runs it.
        owner = {"role": role_of("run")} if with_roles else {}
        engine = create_engine(sqlalchemy_url(url, "migration", search_path="meltano", **owner))
        MigrationService(engine).upgrade(silent=True)
        tables = [cast(Table, model.__table__) for model in (Job, JobState, Setting)]
        Job.metadata.create_all(engine, tables)  # where somebody has dropped one


def _make_again(connection: psycopg.Connection[Any]) -> None:
    """Run the files in `sql/`, in the transaction that is open."""
    missing = objects.missing(connection)
    if lost := objects.lost(missing):
        sys.exit(
            f"{objects.in_words(lost)} of the database is gone, and its rows with it: restore a "
            "backup (docs/restore.md)."
        )
    connection.execute("create schema if not exists staging")
    for path in objects.FILES:
        try:
            with connection.transaction():
                connection.execute(path.read_bytes())
        except psycopg.errors.InvalidTableDefinition:  # a view that has other columns now
            drop = sql.SQL("drop view {} cascade").format(sql.Identifier(path.stem))
            connection.execute(drop)
            connection.execute(path.read_bytes())
    (before,) = connection.execute(
        "select obj_description('public.alembic_version'::regclass, 'pg_class')"
    ).fetchone() or (None,)
    # A table that a new release brings was not dropped.
    known = missing if before == _fingerprint() else {"table raw.opportunities"} & set(missing)
    if any(name.startswith("table raw.") for name in known):
        _forget_bookmarks(connection)
    fingerprint = sql.Literal(_fingerprint())
    connection.execute(sql.SQL("comment on table alembic_version is {}").format(fingerprint))


def _forget_bookmarks(connection: psycopg.Connection[Any]) -> None:
    """Let the next sync read everything, since the raw tables have lost what was read before."""
    print("The raw tables were gone: the next sync reads everything.", file=sys.stderr)
    if setting("MELTANO_STATE_BACKEND_URI"):
        print(
            "The state is not in this database, so say it: meltano run --full-refresh ...",
            file=sys.stderr,
        )
    if connection.execute("select to_regclass('meltano.state')").fetchone() != (None,):
        connection.execute("delete from meltano.state")


def main() -> None:
    """Migrate the database of `DATABASE_URL`."""
    migrate(url_for("migrate", database_url()))
