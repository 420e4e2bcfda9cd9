"""Start and cancel runs of the pipeline, for the API and the scheduler.

A run is a `meltano run` in a session of its own: it continues if its starter ends. It is
registered before its process starts, so that each run has a row even if its process fails.
"""

import logging
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from database.environment import ROOT
from runs import processes, registry
from runs.registry import Job, RunningError

MELTANO = str(Path(sys.executable).with_name("meltano"))
"""Meltano's command in this Python's environment."""
PIPELINE = ("tap-oracle-crm", "target-postgres", "dbt-postgres:run")
REFRESH = ("tap-oracle-crm-deal", "target-postgres", "dbt-postgres:run")
KEPT_LOGS = 200

Run = dict[str, Any]

log = logging.getLogger(__name__)

__all__ = ["CannotCancelError", "RunningError", "cancel", "refresh", "start"]


class CannotCancelError(Exception):
    """A run can't be cancelled from here; the message says why."""


def command(full: bool) -> list[str]:
    """Return the command of a run."""
    return [MELTANO, "run", *(["--full-refresh"] if full else []), *PIPELINE]


def refresh_command() -> list[str]:
    """Return the command of a run that reads one deal, as if it was never read before."""
    return [MELTANO, "run", "--full-refresh", *REFRESH]


def refresh(url: str, remote_id: str, trigger: str, requested_by: str | None = None) -> Run:
    """Start a run that reads one deal; return it, a row of `public.run_logs`.

    Args:
        url: the database.
        remote_id: the deal's OptyId.
        trigger: what starts the run.
        requested_by: the user who asked for it.

    Raises:
        ValueError: that is no OptyId.
        RunningError: another load is running.
    """
    if not (remote_id.isascii() and remote_id.isdecimal()):  # it becomes a part of a filter
        raise ValueError(f"{remote_id!r} is no OptyId")
    return start(
        url,
        True,
        trigger,
        requested_by,
        refresh_command(),
        Job.of(REFRESH),
        {"TAP_ORACLE_CRM_DEAL_FILTER": f"OptyId = {remote_id}"},
    )


def start(
    url: str,
    full: bool,
    trigger: str,
    requested_by: str | None = None,
    argv: Sequence[str] | None = None,
    job: Job | None = None,
    environment: Mapping[str, str] | None = None,
) -> Run:
    """Start a run and return it, a row of `public.run_logs`.

    Args:
        url: the database.
        full: read everything.
        trigger: what starts the run.
        requested_by: the user who asked for it.
        argv: the command, if it is not a sync.
        job: the job of that command.
        environment: more variables of its process.

    Raises:
        RunningError: another load is running.
    """
    run_id = str(uuid.uuid4())
    registry.register(
        url,
        run_id,
        job or Job.of(PIPELINE),
        None,
        full=full,
        trigger=trigger,
        requested_by=requested_by,
    )
    try:
        process = _spawn(run_id, list(argv or command(full)), trigger, environment or {})
    except OSError as error:
        registry.end(url, run_id, f"It could not be started: {error}")
        raise
    # Read now: once a thread waits for the process, it may be gone, with its start time.
    known = processes.columns(psutil.Process(process.pid)) | {"run_id": run_id}
    # If nobody waits for an ended child process, it still looks alive.
    threading.Thread(
        target=_wait_for, args=(url, run_id, process), name=f"sync {run_id}", daemon=True
    ).start()
    with registry.transaction(url) as connection:
        # The run writes this itself, too, but only after a second or more.
        connection.execute(
            "update public.sync_runs set pid = %(pid)s, process_started_at = %(process_started_at)s"
            " where run_id = %(run_id)s",
            known,
        )
        row = connection.execute(
            "select * from public.run_logs where run_id = %s", [run_id]
        ).fetchone()
    assert row is not None  # noqa: S101 - registered above
    return row


def _wait_for(url: str, run_id: str, process: subprocess.Popen[bytes]) -> None:
    code = process.wait()
    words = processes.last_words(run_id) if code else None
    try:
        registry.end(url, run_id, words, died=code < 0)
    except psycopg.OperationalError as error:
        # The next check of the runs finds that the process is gone.
        log.warning("the end of run %s could not be recorded: %s", run_id, error)


def cancel(url: str, run_id: str, cancelled_by: str) -> None:
    """End every process of a run; loaded records stay.

    This works for all runs, however started: each registers its process with its start time, so
    that a new process with the same number is never mistaken for it.

    Raises:
        CannotCancelError: the run has ended, or its process is on another machine.
    """
    with registry.transaction(url) as connection:
        run = connection.execute(
            "select * from public.sync_runs where run_id = %s for update", [run_id]
        ).fetchone()
        if run is None or run["ended_at"] is not None:
            raise CannotCancelError("It has ended.")
        if run["pid"] is None:
            raise CannotCancelError("It is starting: try again in a moment.")
        if not processes.is_here(run):
            raise CannotCancelError(f"It runs on {run['host']}: stop it there.")
        process = processes.process_of(run)
        if process is None:
            raise CannotCancelError("It has ended.")
        connection.execute(
            "update public.sync_runs set cancelled_by = %s where run_id = %s",
            [cancelled_by, run_id],
        )
        try:
            # dbt continues when Meltano ends: so terminate each process, the plugins first.
            for one in [*process.children(recursive=True), process]:
                with suppress(psutil.NoSuchProcess):  # it ended by itself meanwhile
                    one.terminate()
        except psutil.AccessDenied as error:
            raise CannotCancelError(
                f"It runs as another user of {run['host']}: stop it there."
            ) from error


def _spawn(
    run_id: str, argv: list[str], trigger: str, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    logs = processes.LOGS
    logs.mkdir(parents=True, exist_ok=True)
    for old in sorted(logs.glob("sync-*.log"), key=lambda file: file.stat().st_mtime)[:-KEPT_LOGS]:
        old.unlink(missing_ok=True)
    output = os.open(processes.log_file(run_id), os.O_CREAT | os.O_WRONLY | os.O_APPEND, 0o600)
    try:
        return subprocess.Popen(
            argv,
            cwd=ROOT,
            env=os.environ
            | environment
            | {"MELTANO_RUN_ID": run_id, "MELTANO_JOB_TRIGGER": trigger},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    finally:
        os.close(output)
