"""The only module that touches Meltano's own table of runs.

After a run was killed, Meltano refuses a new run of the pipeline until five minutes after the last
heartbeat, by the clocks of the machines. Our register knows at once that the run is dead. Any
release of Meltano may change this table. Then a killed run costs those five minutes again, and old
rows stay; nothing else breaks.
"""

import logging
from typing import Any, LiteralString

import psycopg

log = logging.getLogger(__name__)

# A hanging session of Meltano may lock such a row: do not wait for it.
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
        -- Its end may be missing there, if the database could not be reached.
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
    """Mark the runs as failed that have ended by our register, so that the next can begin."""
    _execute(
        connection,
        _CLOSE,
        {},
        "after a killed run, it may refuse the next one for five minutes",
    )


def remove_old_ones(connection: psycopg.Connection[Any], days: int, batch: int) -> int:
    """Remove old rows, except the last success of each pipeline; return their number."""
    return _execute(
        connection, _REMOVE, {"days": days, "batch": batch}, "its old rows are not removed"
    )


def _execute(
    connection: psycopg.Connection[Any],
    statement: LiteralString,
    values: dict[str, object],
    otherwise: str,
) -> int:
    """Execute a statement if the table still has its columns; return the number of rows."""
    try:
        with connection.transaction():
            return connection.execute(statement, values).rowcount
    except (psycopg.ProgrammingError, psycopg.DataError, psycopg.IntegrityError) as error:
        reason = str(error).partition("\n")[0]
        log.warning("Meltano has changed its table of runs (%s): %s", reason, otherwise)
        return 0
