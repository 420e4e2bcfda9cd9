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
import sys
import uuid
from contextlib import closing

import yaml
from meltano.core.setting_definition import SettingDefinition

from orchestrate.declared import DeclarationError, declare, read_declared
from orchestrate.migrate import migrate_if_needed
from orchestrate.postgres import database_url, libpq_environment, sqlalchemy_url
from orchestrate.settings import ROOT, export_settings, setting
from runs import registry
from runs.registry import Job


def prepare_environment() -> None:
    """Give this process and the plugins it starts their database, and the run its id."""
    # Meltano writes the plugins' configuration, passwords among it, to files of its own.
    os.umask(0o077)
    export_settings()
    url = database_url()
    os.environ |= libpq_environment(url) | {
        "MELTANO_DATABASE_URI": sqlalchemy_url(url, "meltano", search_path="meltano"),
        # The loader drops the offsets of timestamps; in UTC that changes nothing.
        "TARGET_POSTGRES_SQLALCHEMY_URL": sqlalchemy_url(url, "target-postgres", timezone="UTC"),
    }
    defaults = {
        # Meltano passes it on to the plugins, so that dbt can name the run it belongs to.
        "MELTANO_RUN_ID": str(uuid.uuid4()),
        # What a customer calls the custom fields: for the tap to read and for dbt to map.
        "ORACLE_PRACTICE_FIELD": "Practice_c",
        "ORACLE_GEO_FIELD": "GEO_c",
        "ORACLE_REGION_FIELD": "Region_c",
        "ORACLE_SECTOR_FIELD": "Sector_c",
    }
    for name, value in defaults.items():
        os.environ[name] = setting(name) or value
    if {"--help", "--dry-run"} & set(sys.argv):
        return
    runs_pipeline = "run" in sys.argv
    if runs_pipeline or any(argument.startswith("dbt-postgres") for argument in sys.argv):
        try:
            declared = read_declared()
        except DeclarationError as error:
            sys.exit(str(error))
        migrate_if_needed(url)
        with closing(registry.connect(url)) as connection:
            declare(connection, declared)
    if runs_pipeline:
        register_run(url)


def register_run(url: str) -> None:
    """Register this run, and hand its number to the loader and to dbt.

    Raises:
        SystemExit: another run that loads is under way, or has taken this one's place.
    """
    options = _run_options()
    run_id = options.get("--run-id") or os.environ["MELTANO_RUN_ID"]
    os.environ["MELTANO_RUN_ID"] = run_id
    suffix = options.get("--state-id-suffix") or os.environ.get("MELTANO_RUN_STATE_ID_SUFFIX")
    try:
        number = registry.register(
            url,
            run_id,
            Job.of(_blocks(), suffix),
            full="--full-refresh" in sys.argv,
            trigger=os.environ.get("MELTANO_JOB_TRIGGER", "shell"),
            number=registry.number_from_environment(),
            force="--force" in sys.argv,
        )
    except (registry.RunningError, registry.SupersededError) as refused:
        sys.exit(str(refused))
    # Empty where nothing is loaded: a merge is fenced by the number of the run it belongs to.
    os.environ[registry.NUMBER] = "" if number is None else str(number)
    if number is not None:
        os.environ["TARGET_POSTGRES_RUN_NUMBER"] = str(number)
    atexit.register(_end_run, url, run_id)


def _end_run(url: str, run_id: str) -> None:
    logging.shutdown()  # the recorder's last words come first
    registry.end(url, run_id)


def _run_options() -> dict[str, str]:
    """Return the options of `meltano run` that have a value, by name."""
    arguments = sys.argv[sys.argv.index("run") + 1 :]
    options = {}
    for name, value in zip(arguments, [*arguments[1:], ""], strict=True):
        key, _, own = name.partition("=")
        if key in {"--run-id", "--state-id-suffix"}:
            options[key] = own or value
    return options


def _blocks() -> list[str]:
    """Return the plugins that this run consists of, those of named jobs too."""
    with (ROOT / "meltano.yml").open() as file:
        declared = yaml.safe_load(file).get("jobs", [])
    jobs = {job["name"]: job["tasks"] for job in declared}
    blocks: list[str] = []
    for argument in sys.argv[sys.argv.index("run") + 1 :]:
        for task in jobs.get(argument, [argument]):
            blocks += task.split() if isinstance(task, str) else task
    return blocks


prepare_environment()
# What is imported stays; looking through it for garbage costs each run up to a third of a second.
gc.freeze()

settings = SettingDefinition(
    name="oracle_crm_sync.database_url",
    env="DATABASE_URL",
    kind="string",
    sensitive=True,
    description="The PostgreSQL database; an embedded one when unset.",
)
