"""Starting and cancelling runs of the pipeline, for the API and the scheduler alike.

A run is a `meltano run` in a session of its own: it outlives who started it. It is in the
register from the moment it is started, whatever becomes of its process.
"""

import os
import re
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import psutil

from orchestrate.settings import DATA, ROOT
from runs import registry
from runs.registry import Job, RunningError

MELTANO = str(Path(sys.executable).with_name("meltano"))
"""Meltano's command in this Python's environment."""
PIPELINE = ("tap-oracle-crm", "target-postgres", "dbt-postgres:run")
LOGS = DATA / "logs"
KEPT_LOGS = 200
_ANSI = re.compile(r"\x1b\[[0-9;]*m")

Run = dict[str, Any]

__all__ = ["CannotCancelError", "RunningError", "cancel", "last_words", "start"]


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
    """Start a sync and return it, a row of `public.sync_logs`.

    Raises:
        RunningError: a run that loads is under way.
    """
    run_id = str(uuid.uuid4())
    registry.register(
        url, run_id, Job.of(PIPELINE), full=full, trigger=trigger, requested_by=requested_by
    )
    try:
        process = _spawn(run_id, list(argv or command(full)), trigger)
    except OSError as error:
        registry.end(url, run_id, f"It could not be started: {error}")
        raise
    with closing(registry.connect(url)) as connection:
        # Until the run names its process itself, which may be some seconds.
        connection.execute(
            "update public.sync_runs set pid = %s, process_started_at = %s where run_id = %s",
            [process.pid, psutil.Process(process.pid).create_time(), run_id],
        )
        # Without someone to wait for it, an ended child would look alive.
        threading.Thread(
            target=_wait_for, args=(url, run_id, process), name=f"sync {run_id}", daemon=True
        ).start()
        row = connection.execute(
            "select * from public.sync_logs where run_id = %s", [run_id]
        ).fetchone()
    assert row is not None  # noqa: S101 - registered above
    return row


def _wait_for(url: str, run_id: str, process: subprocess.Popen[bytes]) -> None:
    process.wait()
    # One that ended before it could tell of itself has said why on its way.
    registry.end(url, run_id, last_words(run_id) if process.returncode else None)


def last_words(run_id: object) -> str | None:
    """Return the last line of what a run printed, if that is to be had here."""
    try:
        printed = log_file(run_id).read_text(errors="replace")
    except FileNotFoundError:
        return None
    lines = [line.strip() for line in _ANSI.sub("", printed).splitlines() if line.strip()]
    return lines[-1][:1000] if lines else None


def cancel(url: str, run_id: str, cancelled_by: str) -> None:
    """End every process of a run; what is loaded stays.

    Who started it is of no matter: each run registers its process, with when it began, so that
    the number of one that is gone is never taken for it.

    Raises:
        CannotCancelError: it is not under way, or no process of this machine.
    """
    with closing(registry.connect(url)) as connection, connection.transaction():
        run = connection.execute(
            "select * from public.sync_runs where run_id = %s for update", [run_id]
        ).fetchone()
        if run is None or run["ended_at"] is not None:
            raise CannotCancelError("It has ended.")
        if run["host"] != socket.gethostname():
            raise CannotCancelError(f"It runs on {run['host']}: stop it there.")
        process = registry.process_of(run)
        if process is None:
            raise CannotCancelError("It has ended.")
        connection.execute(
            "update public.sync_runs set cancelled_by = %s where run_id = %s",
            [cancelled_by, run_id],
        )
        # dbt goes on merging when Meltano ends: each process is told, the plugins first.
        try:
            for one in [*process.children(recursive=True), process]:
                one.terminate()
        except psutil.NoSuchProcess:
            pass  # it ended by itself meanwhile
        except psutil.AccessDenied as error:
            raise CannotCancelError(
                f"It runs as another user of {run['host']}: stop it there."
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
