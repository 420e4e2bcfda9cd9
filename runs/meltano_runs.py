"""Meltano's own table of runs: the one place that touches it.

Meltano refuses a new run of a pipeline for five minutes after the last heartbeat of one that was
killed, by the clocks of the machines. Our register knows at once that it is dead. The table is
Meltano's, which may change it with any release: then a killed run costs those minutes again, and
nothing else.
"""

import logging
from collections.abc import Sequence
from typing import Any

import psycopg

log = logging.getLogger(__name__)

_CLOSE = """
    update meltano.runs
    set
        state = 'FAIL',
        ended_at = coalesce(last_heartbeat_at, started_at),
        payload = (
            payload::jsonb
            || '{"error": "The run died while it loaded: its process is gone."}'::jsonb
        )::text
    where run_id = any(%s) and state = 'RUNNING'
"""


def close(connection: psycopg.Connection[Any], run_ids: Sequence[object]) -> None:
    """Mark runs as failed that are dead, so that Meltano lets the next one begin."""
    try:
        with connection.transaction():
            connection.execute(_CLOSE, [list(run_ids)])
    except psycopg.Error as error:
        log.warning(
            "Meltano's table of runs is not as it was (%s): after a run that was killed, Meltano "
            "may refuse the next one for five minutes",
            str(error).partition("\n")[0],
        )
