"""Clear up after runs whose Meltano process died, so that the next run can begin at once.

A killed Meltano leaves its row in `meltano.runs` at RUNNING, and refuses a new run of that
pipeline, be it the sync, the reconcile or a partition, for five minutes because of it. The lock
that the run recorder holds tells a dead run from a live one, so there is no need to wait.
"""

import time

import psycopg

HEARTBEAT_SECONDS = 5
"""Meltano beats every second; a run without a lock that beat this long ago is dead."""

# Of every pipeline: Meltano records and refuses each of them alike.
_UNLOCKED = """
    select
        id,
        coalesce(
            last_heartbeat_at at time zone 'UTC' > now() - make_interval(secs => %s), false
        ) as beats
    from meltano.runs
    where state = 'RUNNING' and not public.sync_run_is_alive(run_id)
"""
_CLOSE = """
    update meltano.runs
    set
        state = 'FAIL',
        ended_at = coalesce(last_heartbeat_at, started_at),
        payload = (
            payload::jsonb
            || '{"error": "The run died while it loaded: its process is gone."}'::jsonb
        )::text
    where id = any(%s) and state = 'RUNNING'
"""
# The loader of a dead run may still be writing what it had read: an older version of a row
# must not land after the newer one that the next run brings.
_STOP_LOADERS = """
    select pg_terminate_backend(pid)
    from pg_stat_activity
    where
        application_name = 'target-postgres'
        and datname = current_database()
        and usename = current_user
        -- A loader does not tell whose it is: where one pipeline lives, all are left alone.
        and not exists (
            select from meltano.runs
            where
                state = 'RUNNING'
                and (
                    public.sync_run_is_alive(run_id)
                    or last_heartbeat_at at time zone 'UTC' > now() - make_interval(secs => %s)
                )
        )
"""


def clear_dead_runs(connection: psycopg.Connection) -> None:
    """Mark dead runs as failed and stop what is left of them.

    Waits for up to five seconds where a run may just be starting, or have just died.
    """
    deadline = time.monotonic() + HEARTBEAT_SECONDS
    while True:
        unlocked = connection.execute(_UNLOCKED, [HEARTBEAT_SECONDS]).fetchall()
        if not any(beats for _, beats in unlocked) or time.monotonic() > deadline:
            break
        time.sleep(0.2)
    connection.execute(_CLOSE, [[run for run, beats in unlocked if not beats]])
    if not any(beats for _, beats in unlocked):
        connection.execute(_STOP_LOADERS, [HEARTBEAT_SECONDS])
