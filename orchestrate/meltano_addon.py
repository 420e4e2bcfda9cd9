"""Meltano's add-on: what every Meltano process of this project needs before it does anything.

Meltano loads the packages that offer a `meltano.settings` entry point while it starts, whoever
calls it: cron, a shell, the scheduler or the API. Here the one address of `DATABASE_URL` is
put into the forms that Meltano, target-postgres and dbt each ask for, so that nothing needs
to be said twice and `meltano run` works without a wrapper.
"""

import gc
import os
import sys
import uuid

import psycopg
from meltano.core.setting_definition import SettingDefinition

from orchestrate.dead_runs import clear_dead_runs
from orchestrate.declared import DeclarationError, declare, read_declared
from orchestrate.migrate import migrate_if_needed
from orchestrate.postgres import database_url, libpq_environment, sqlalchemy_url
from orchestrate.settings import export_settings, setting


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
    runs_pipeline = "run" in sys.argv
    if runs_pipeline or any(argument.startswith("dbt-postgres") for argument in sys.argv):
        try:
            declared = read_declared()
        except DeclarationError as error:
            sys.exit(str(error))
        migrate_if_needed(url)
        with psycopg.connect(url, autocommit=True) as connection:
            declare(connection, declared)
            if runs_pipeline:
                clear_dead_runs(connection)


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
