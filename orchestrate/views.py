"""Whether dbt's views are up to date, so that a run can leave them out.

To compare them takes dbt longer than to merge a few changes. After dbt has built all views, its
macro `note_views` notes as the comment of one of them what they were made of, and their state.
"""

import hashlib
import os
from importlib.metadata import version
from typing import Any

import psycopg

from database.environment import DBT_SETTINGS, ROOT

PROJECT = "ORACLE_CRM_TRANSFORM"
"""The variable that tells dbt of what it makes the views."""
EXCLUDED = "ORACLE_CRM_EXCLUDED"
"""The variable with the models that `dbt-postgres:run` leaves out, see `meltano.yml`."""


def prepare() -> None:
    """Set the variables for a run that builds all views."""
    os.environ[PROJECT] = _fingerprint()
    os.environ[EXCLUDED] = "tag:reconcile"


def leave_out_unchanged(connection: psycopg.Connection[Any]) -> None:
    """Let the run leave the views out, if they are what dbt would make."""
    is_current = connection.execute(
        """
        select from pg_class
        inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
        where
            nspname = 'staging'
            and relname = 'stg_opportunities'
            and obj_description(pg_class.oid, 'pg_class') = %s || ' ' || public.state_of_views()
        """,
        [os.environ[PROJECT]],
    ).fetchone()
    if is_current is not None:
        os.environ[EXCLUDED] += " config.materialized:view"


def _fingerprint() -> str:
    """Return what differs as soon as dbt could make another view."""
    transform = ROOT / "transform"
    files = [
        *transform.glob("*.yml"),
        *transform.glob("macros/**/*.*"),
        *transform.glob("models/**/*.*"),
    ]
    parts = [version("dbt-core"), version("dbt-postgres")]
    parts += [os.environ[name] for name in DBT_SETTINGS]
    parts += [path.read_text() for path in sorted(files)]
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()
