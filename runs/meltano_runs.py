"""Meltano's own table of runs: the one place that touches it.

Meltano refuses a new run of a pipeline for five minutes after the last heartbeat of one that was
killed, by the clocks of the machines. Our register knows at once that it is dead. The table is
Meltano's, which may change it with any release: then a killed run costs those minutes again, old
rows stay, and nothing else comes of it.
"""

import logging
from typing import Any, LiteralString

import psycopg

log = logging.getLogger(__name__)

# A session of Meltano's that hangs may hold such a row: it is not waited for.
_CLOSE: LiteralString = """
    update meltano.runs
    set
        state = 'FAIL',
        ended_at = coalesce(last_heartbeat_at, started_at),
        payload = (
            payload::jsonb
            || '{"error": "The run died while it loaded: its process is gone."}'::jsonb
        )::text
    where id in (
        select runs.id
        from meltano.runs
        inner join public.sync_runs on sync_runs.run_id = runs.run_id
        -- Its end may not have got into that table: the database was away.
        where runs.state = 'RUNNING' and sync_runs.ended_at is not null
        for update of runs skip locked
    )
"""
_REMOVE: LiteralString = """
    delete from meltano.runs where id in (
        select id
        from meltano.runs
        where
            coalesce(ended_at, last_heartbeat_at, started_at) at time zone 'UTC'
                < now() - make_interval(days => %(days)s)
            and state is distinct from 'RUNNING'
            and id not in (
                select max(id) from meltano.runs where state = 'SUCCESS' group by job_name
            )
        limit %(batch)s
    )
"""


def close_ended_ones(connection: psycopg.Connection[Any]) -> None:
    """Mark runs as failed that our register knows to have ended, so that the next can begin."""
    _execute(
        connection,
        _CLOSE,
        {},
        "after a run that was killed, it may refuse the next one for five minutes",
    )


def remove_old_ones(connection: psycopg.Connection[Any], days: int, batch: int) -> int:
    """Remove rows that are older, but for the last success of each pipeline; return how many."""
    return _execute(
        connection, _REMOVE, {"days": days, "batch": batch}, "its old rows are not removed"
    )


def _execute(
    connection: psycopg.Connection[Any],
    statement: LiteralString,
    values: dict[str, object],
    otherwise: str,
) -> int:
    """Do it if the table is as it was; return the number of rows."""
    try:
        with connection.transaction():
            return connection.execute(statement, values).rowcount
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError) as error:
        said = str(error).partition("\n")[0]
        log.warning("Meltano's table of runs is not as it was (%s): %s", said, otherwise)
        return 0
