"""Meltano's add-on: what every Meltano process of this project needs before it does anything.

Meltano loads the packages that offer a `meltano.settings` entry point while it starts, whoever
calls it: cron, a shell, the scheduler or the API. Here the one address of `DATABASE_URL` is
put into the forms that Meltano, target-postgres and dbt each ask for, so that nothing needs
to be said twice and `meltano run` works without a wrapper.
"""

import atexit
import gc
import logging
import os
import shutil
import sqlite3
import sys
import uuid
from contextlib import closing
from importlib import import_module
from pathlib import Path
from typing import Any, cast

import click
import meltano.core.db
import psutil
import psycopg
import sqlalchemy
import yaml
from meltano.core.setting_definition import SettingDefinition
from psycopg.rows import DictRow
from sqlalchemy import Engine, Pool, make_url

from database import preflight
from database.address import database_url, libpq_environment, sqlalchemy_url, url_for
from database.environment import DBT_SETTINGS, ROOT, export_settings, setting
from database.locks import LockedError
from database.migrate import migrate_if_behind
from database.preflight import Purpose
from declared.fields import field_settings
from declared.file import DeclarationError, Declared, declare, read_declared
from notifications import run_end
from orchestrate import meltano_environment
from runs import registry
from runs.control import PIPELINE
from runs.recorder import RunRecorder
from runs.registry import Job


def prepare_environment() -> None:
    """Give this process and the plugins it starts their database, and the run its id."""
    # Meltano writes the plugins' configuration, passwords among it, to files of its own.
    os.umask(0o077)
    export_settings()
    # Meltano passes it on to the plugins, so that dbt can name the run it belongs to.
    os.environ["MELTANO_RUN_ID"] = setting("MELTANO_RUN_ID") or str(uuid.uuid4())
    options = _run_options()
    _refuse_el()
    if {"--help", "--version"} & set(sys.argv) or (options and options["dry_run"]):
        _give_meltano_an_empty_database()
        return
    declared, problem = _read_declared()
    os.environ |= {name: setting(name) or default for name, default in DBT_SETTINGS.items()}
    os.environ |= field_settings(declared.fields)
    url = database_url()
    if options is not None:
        run_end.prepare(url, str(options["run_id"]))
    os.environ |= libpq_environment(url_for("transform", url)) | {
        # Meltano's session stays in a transaction, and idle, for as long as a run takes.
        "MELTANO_DATABASE_URI": sqlalchemy_url(
            url_for("run", url),
            "meltano",
            search_path="meltano",
            idle_in_transaction_session_timeout="0",
        ),
        # The loader drops the offsets of timestamps; in UTC that changes nothing.
        "TARGET_POSTGRES_SQLALCHEMY_URL": sqlalchemy_url(
            url_for("load", url), "target-postgres", timezone="UTC"
        ),
        # Read by the tap itself: Meltano would write it to a file.
        "TAP_ORACLE_CRM_LIMITS_DATABASE_URL": url_for("run", url),
        "TARGET_POSTGRES_LOCK_TIMEOUT": os.environ["SYNC_LOCK_TIMEOUT"],
    }
    if options is None and not _calls_dbt():
        # Whatever Meltano is called for, it migrates its own tables.
        preflight.require(url_for("run", url), Purpose.QUERY)
        return
    preflight.require(url_for("run", url), Purpose.RUN)
    with closing(registry.connect(url)) as connection:
        migrate_if_behind(url, connection)
        try:
            if problem is not None:
                raise problem
            with registry.transaction(connection):
                declare(connection, declared)
        except DeclarationError as error:
            if options is not None:  # the log and the alerts should know
                register_run(url, connection, options)
                registry.end(url, str(options["run_id"]), str(error))
            sys.exit(str(error))
        except LockedError as error:
            sys.exit(str(error))
        if options is not None:
            register_run(url, connection, options)
            import_module("orchestrate.meltano_pipe").use()


def _keep_connection() -> None:
    """Let Meltano keep its connection to PostgreSQL.

    It connects for each transaction, thus also for each heartbeat, one a second. And it asks for a
    type, hstore, that its tables do not have.
    """

    def create_engine(address: str, poolclass: type[Pool], **options: Any) -> Engine:
        if make_url(address).get_backend_name() != "postgresql":
            return sqlalchemy.create_engine(address, poolclass=poolclass, **options)
        # The ping finds out if the server has closed a connection that was idle.
        return sqlalchemy.create_engine(
            address, pool_pre_ping=True, use_native_hstore=False, **options
        )

    meltano_database: Any = meltano.core.db
    meltano_database.create_engine = create_engine


def _read_declared() -> tuple[Declared, DeclarationError | None]:
    """Return what is declared; where the file has an error, the defaults and the error."""
    try:
        return read_declared(), None
    except DeclarationError as error:
        return Declared(), error


def _give_meltano_an_empty_database() -> None:
    """Meltano wants a database for whatever it does: here one in memory, for this process."""
    name = "file:meltano?mode=memory&cache=shared"
    # It lasts as long as a connection to it is open.
    atexit.register(sqlite3.connect(name, uri=True).close)
    os.environ["MELTANO_DATABASE_URI"] = f"sqlite:///{name}&uri=true"
    RunRecorder.is_off = True


def register_run(
    url: str, connection: psycopg.Connection[DictRow], options: dict[str, Any]
) -> None:
    """Register this run, and hand its number to the loader and to dbt.

    Args:
        url: the database.
        connection: to it.
        options: what `meltano run` was given, by parameter.

    Raises:
        SystemExit: another run that loads is under way, or has taken this one's place, or another
            session holds a lock.
    """
    run_id = str(options["run_id"])
    os.environ["MELTANO_RUN_ID"] = run_id
    try:
        number = registry.register(
            connection,
            run_id,
            Job.of(_blocks(options["blocks"]), options["state_id_suffix"]),
            psutil.Process(),
            full=options["full_refresh"],
            trigger=os.environ.get("MELTANO_JOB_TRIGGER", "shell"),
            number=registry.number_from_environment(),
            force=options["force"],
        )
    except (registry.RunningError, registry.SupersededError, LockedError) as refused:
        sys.exit(str(refused))
    # Empty where nothing is loaded: a merge is fenced by the number of the run it belongs to.
    os.environ[registry.NUMBER] = "" if number is None else str(number)
    if number is not None:
        os.environ["TARGET_POSTGRES_RUN_NUMBER"] = str(number)
    _use_own_folder(connection, run_id)
    atexit.register(_end_run, url, run_id)


def _use_own_folder(connection: psycopg.Connection[DictRow], run_id: str) -> None:
    """Let Meltano keep the files of this run apart from those of others, until it ends.

    Meltano has one file for the catalog of a plugin, which runs at once would tear up
    (meltano/meltano#8763). It reads the variable when it activates an environment.
    """
    runs = Path(os.environ.get("MELTANO_SYS_DIR_ROOT") or ROOT / ".meltano") / "runs"
    if runs.exists():  # also what runs left that were killed
        for ended in registry.ended(connection, [folder.name for folder in runs.iterdir()]):
            shutil.rmtree(runs / ended, ignore_errors=True)
    os.environ["MELTANO_SYS_DIR_ROOT"] = str(runs / run_id)
    atexit.register(shutil.rmtree, runs / run_id, ignore_errors=True)


def _end_run(url: str, run_id: str) -> None:
    logging.shutdown()  # the recorder's last words come first
    registry.end(url, run_id)


def _run_options() -> dict[str, Any] | None:
    """Return the options of `meltano run`; None for another command."""
    context = click.get_current_context(silent=True)
    if context is None or context.invoked_subcommand != "run":
        return None
    command = cast(click.Group, context.command).get_command(context, "run")
    assert command is not None  # noqa: S101 - it is being called
    arguments = sys.argv[sys.argv.index("run") + 1 :]
    # Meltano's own parser, which knows the short options and the variables of the environment.
    options = command.make_context("run", arguments, parent=context, resilient_parsing=True).params
    # Without an id the one that was given is none, which Meltano will say.
    return options if options["run_id"] else None


def _refuse_el() -> None:
    """Refuse `meltano el` into our tables: it gets no number, and its log events differ.

    Raises:
        SystemExit: the command is `meltano el` or `meltano elt` with our loader.
    """
    context = click.get_current_context(silent=True)
    command = context.invoked_subcommand if context else None
    if command in {"el", "elt"} and registry.LOADER in sys.argv and "--help" not in sys.argv:
        sys.exit(
            f"meltano {command} is not logged, and another load could run at the same time: use "
            f"`meltano run` with the same plugins, such as meltano run {' '.join(PIPELINE)}. "
            "--state-id-suffix gives such a run a state of its own."
        )


def _calls_dbt() -> bool:
    return any(argument.startswith("dbt-postgres") for argument in sys.argv[1:])


def _blocks(arguments: tuple[str, ...]) -> list[str]:
    """Return the plugins that a run consists of, those of named jobs too."""
    with (ROOT / "meltano.yml").open() as file:
        declared = yaml.safe_load(file).get("jobs", [])
    jobs = {job["name"]: job["tasks"] for job in declared}
    blocks: list[str] = []
    for argument in arguments:
        for task in jobs.get(argument, [argument]):
            blocks += task.split() if isinstance(task, str) else task
    return blocks


prepare_environment()
_keep_connection()
meltano_environment.use()
# Imported objects stay; collecting garbage among them costs each run up to a third of a second.
gc.freeze()

settings = SettingDefinition(
    name="oracle_crm_sync.database_url",
    env="DATABASE_URL",
    kind="string",
    sensitive=True,
    description="The PostgreSQL database; an embedded one when unset.",
)
