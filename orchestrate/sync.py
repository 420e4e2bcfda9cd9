"""Starting and stopping a run of the pipeline, for the API and the scheduler alike.

A run is a `meltano run` in a session of its own: it outlives who started it. One at a time:
starting takes a lock in the database, and is refused while a run is under way, also one that
someone started in a shell. Meltano needs a second or two to record a run; until it has,
`public.sync_requests` shows it, and keeps it if it dies before.
"""

import os
import re
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil
import psycopg
from psycopg.rows import dict_row

from orchestrate.settings import DATA, ROOT

MELTANO = str(Path(sys.executable).with_name("meltano"))
"""Meltano's command in this Python's environment."""
PIPELINE = ("tap-oracle-crm", "target-postgres", "dbt-postgres:run")
LOGS = DATA / "logs"
KEPT_LOGS = 200
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

Run = dict[str, Any]


class SyncRunningError(Exception):
    """A sync is under way already: `run` is that one."""

    def __init__(self, run: Run) -> None:
        super().__init__(f"sync {run['run_id']} is under way")
        self.run = run


class CannotCancelError(Exception):
    """A run can't be stopped from here; the message says why."""


def command(full: bool) -> list[str]:
    """Return the command of a run."""
    return [MELTANO, "run", *(["--full-refresh"] if full else []), *PIPELINE]


def start(
    url: str,
    full: bool,
    trigger: str,
    requested_by: str | None = None,
    argv: Sequence[str] | None = None,
) -> Run:
    """Start a run and return it, a row of `public.syncs`.

    Raises:
        SyncRunningError: one is under way.
    """
    run_id = str(uuid.uuid4())
    with psycopg.connect(url, row_factory=dict_row, connect_timeout=10) as connection:
        connection.execute("select pg_advisory_xact_lock(hashtext('oracle_crm_sync.start'))")
        settle(connection)
        running = connection.execute(
            "select * from public.syncs where status = 'RUNNING' limit 1"
        ).fetchone()
        if running is not None:
            raise SyncRunningError(running)
        process = _spawn(run_id, list(argv or command(full)), trigger)
        try:
            connection.execute(
                """
                insert into public.sync_requests (
                    run_id, sync_type, trigger, requested_by, host, pid, process_started_at
                )
                values (%s, %s, %s, %s, %s, %s, %s)
                -- The run's recorder writes its process down too, and may have been faster.
                on conflict (run_id) do update
                set trigger = excluded.trigger, requested_by = excluded.requested_by
                """,
                [run_id, "FULL" if full else "INCREMENTAL", trigger, requested_by,
                 socket.gethostname(), process.pid, psutil.Process(process.pid).create_time()],
            )  # fmt: skip
            connection.commit()
        except BaseException:
            process.terminate()  # nobody would know of it
            raise
        finally:
            # Without someone to wait for it, an ended child would look alive. Not before: one
            # that is waited for is gone, and when it was started with it.
            threading.Thread(target=process.wait, name=f"sync {run_id}", daemon=True).start()
        run = connection.execute(
            "select * from public.syncs where run_id = %s", [run_id]
        ).fetchone()
    assert run is not None  # noqa: S101 - inserted above
    return run


def settle(connection: psycopg.Connection[Run]) -> None:
    """Record the end of the runs whose process has ended."""
    for request in connection.execute(UNSETTLED).fetchall():
        if has_ended(request):
            connection.execute(SETTLE, [last_words(request["run_id"]), request["run_id"]])


UNSETTLED = """
select run_id, host, pid, process_started_at,
    requested_at > clock_timestamp() - interval '2 minutes' as is_fresh
from public.sync_requests
where ended_at is null
"""
# A run that Meltano has recorded tells its own story in sync_logs.
SETTLE = """
update public.sync_requests
set
    ended_at = clock_timestamp(),
    error_message = case
        when not exists (select from public.sync_loads as l where l.run_id = sync_requests.run_id)
            then coalesce(
                'Cancelled by ' || cancelled_by || '.', %s, 'The sync ended before it began.'
            )
    end
where run_id = %s and ended_at is null
"""


def has_ended(request: Run) -> bool:
    """Tell whether the process of a row of `sync_requests` is gone."""
    if request["host"] != socket.gethostname():
        # Out of sight: after two minutes it has shown itself in sync_logs, or never will.
        return not request["is_fresh"]
    return _process(request) is None


def last_words(run_id: object) -> str | None:
    """Return the last line of what a run printed, if that is to be had here."""
    try:
        printed = log_file(run_id).read_text(errors="replace")
    except FileNotFoundError:
        return None
    lines = [line.strip() for line in _ANSI.sub("", printed).splitlines() if line.strip()]
    return lines[-1][:1000] if lines else None


def cancel(url: str, run_id: str, cancelled_by: str) -> None:
    """Ask a run's Meltano process to end, which ends the plugins and keeps what is loaded.

    Who started it is of no matter: the recorder writes down the process of each run, with
    when it began, so that the number of one that is gone is never taken for it.

    Raises:
        CannotCancelError: it is not under way, or no process of this machine.
    """
    with psycopg.connect(url, row_factory=dict_row, connect_timeout=10) as connection:
        request = connection.execute(
            "select * from public.sync_requests where run_id = %s for update", [run_id]
        ).fetchone()
        if request is None:
            raise CannotCancelError(
                "Its process is not known here: stop it where it runs, or try again in a moment."
            )
        if request["host"] != socket.gethostname():
            raise CannotCancelError(f"It runs on {request['host']}: stop it there.")
        process = _process(request)
        if process is None:
            raise CannotCancelError("It has ended.")
        connection.execute(
            "update public.sync_requests set cancelled_by = %s where run_id = %s",
            [cancelled_by, run_id],
        )
        try:
            process.terminate()
        except psutil.NoSuchProcess as error:
            raise CannotCancelError("It has ended.") from error
        except psutil.AccessDenied as error:
            raise CannotCancelError(
                f"It runs as another user of {request['host']}: stop it there."
            ) from error


def log_file(run_id: object) -> Path:
    """Return where the output of a run goes."""
    return LOGS / f"sync-{run_id}.log"


def _spawn(run_id: str, argv: list[str], trigger: str) -> subprocess.Popen[bytes]:
    LOGS.mkdir(parents=True, exist_ok=True)
    for old in sorted(LOGS.glob("sync-*.log"), key=lambda log: log.stat().st_mtime)[:-KEPT_LOGS]:
        old.unlink(missing_ok=True)
    log = os.open(log_file(run_id), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            env=os.environ | {"MELTANO_RUN_ID": run_id, "MELTANO_JOB_TRIGGER": trigger},
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(log)


def _process(request: Run) -> psutil.Process | None:
    """Return the process of a row of `sync_requests`, or None if it is gone."""
    try:
        process = psutil.Process(request["pid"])
        # The number may be another process's by now.
        is_same = abs(process.create_time() - request["process_started_at"]) < 1
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None
