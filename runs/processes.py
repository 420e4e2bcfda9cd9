"""Find the process of a run, and its output."""

import os
import re
import socket
from functools import cache
from pathlib import Path
from typing import Any

import psutil

from database.environment import DATA

LOGS = DATA / "logs"
MOST_OF_LOG = 64 * 1024
_ANSI = re.compile(r"\x1b\[[0-9;]*m")


@cache
def namespace() -> str:
    """Return a name for this machine's or container's own numbering of processes.

    A host's name is not enough: containers in their host's network share it.
    """
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {Path('/proc/self/ns/pid').readlink()}"
    except OSError:  # not on Linux: there, containers are virtual machines of their own
        return socket.gethostname()


def columns(process: psutil.Process) -> dict[str, Any]:
    """Return the columns of `sync_runs` for a process of this machine."""
    return {
        "host": socket.gethostname(),
        "pid_namespace": namespace(),
        "pid": process.pid,
        "process_started_at": _started_at(process),
    }


def is_here(run: dict[str, Any]) -> bool:
    """Tell whether a run has a process, and this machine or container can see it."""
    return run["pid"] is not None and run["pid_namespace"] == namespace()


def process_of(run: dict[str, Any]) -> psutil.Process | None:
    """Return the process of a run on this machine, or None if it is gone."""
    try:
        process = psutil.Process(run["pid"])
        # Another process may have the number by now.
        is_same = abs(_started_at(process) - run["process_started_at"]) < 1
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def _started_at(process: psutil.Process) -> float:
    """Return the start time in seconds since boot, since the clock may be set meanwhile."""
    return process.create_time() - psutil.boot_time()


def log_file(run_id: object) -> Path:
    """Return the file with the output of a run that `control` has started."""
    return LOGS / f"sync-{run_id}.log"


def end_of_log(run_id: object) -> str | None:
    """Return the last 64 KiB of a run's output; None if this process can't read its log."""
    try:
        with log_file(run_id).open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(0, size - MOST_OF_LOG))
            printed = file.read(MOST_OF_LOG)
    except OSError:
        return None
    if size > MOST_OF_LOG:
        _, _, printed = printed.partition(b"\n")  # the rest of a line that began before
    return _ANSI.sub("", printed.decode(errors="replace"))


def last_words(run_id: object) -> str | None:
    """Return the last line of a run's output, if its log is on this machine."""
    lines = [line.strip() for line in (end_of_log(run_id) or "").splitlines() if line.strip()]
    return lines[-1][:1000] if lines else None
