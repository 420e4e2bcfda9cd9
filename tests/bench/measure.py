"""Runs a command and measures its resources, and those of the servers that it uses."""

from __future__ import annotations

import os
import re
import subprocess
import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from database.environment import ROOT

SAMPLE_SECONDS = 0.1
SETTLE_SECONDS = 0.1
"""PostgreSQL needs a moment to notice that a client has disconnected."""
OTHER = "script"
ROLES = {
    "tap": r"/tap-oracle-crm ",
    "loader": r"/target-postgres(-copy)? ",
    "dbt": r"/dbt(-frozen)? ",
    "Meltano": r"/meltano ",
}


@dataclass
class ProcessUse:
    """The CPU seconds of one process, and its largest resident memory in bytes."""

    cpu: float = 0.0
    peak_memory: int = 0


@dataclass(frozen=True)
class Measurement:
    """The resources that a command used.

    Attributes:
        wall: seconds from start to end.
        cpu: CPU seconds, user and system, of the command and all its child processes.
        servers: CPU seconds of each server meanwhile.
        processes: by role, as last seen at most a tenth of a second before the process ended.
    """

    wall: float
    cpu: float
    servers: Mapping[str, float]
    processes: Mapping[str, ProcessUse]


@dataclass
class _Sampler:
    """Measures the processes of a tree while they run."""

    root: int
    seen: dict[int, tuple[str, ProcessUse]] = field(default_factory=dict)
    _ended: threading.Event = field(default_factory=threading.Event)

    def __enter__(self) -> _Sampler:
        self._thread = threading.Thread(target=self._sample, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        self._thread.join()

    def _sample(self) -> None:
        while not self._ended.is_set():
            with suppress(psutil.NoSuchProcess):
                root = psutil.Process(self.root)
                for process in [root, *root.children(recursive=True)]:
                    with suppress(psutil.NoSuchProcess, FileNotFoundError, ProcessLookupError):
                        self._look_at(process)
            self._ended.wait(SAMPLE_SECONDS)

    def _look_at(self, process: psutil.Process) -> None:
        status = Path(f"/proc/{process.pid}/status").read_text()
        peak = re.search(r"VmHWM:\s+(\d+) kB", status)
        if peak is None:  # it is a zombie
            return
        times = process.cpu_times()
        use = ProcessUse(times.user + times.system, int(peak[1]) * 1024)
        # A process that is ending has no command line any more.
        known = self.seen.get(process.pid, (OTHER, use))[0]
        self.seen[process.pid] = (_role(" ".join(process.cmdline()), known), use)

    def by_role(self) -> dict[str, ProcessUse]:
        roles: dict[str, ProcessUse] = {}
        for role, use in self.seen.values():
            known = roles.setdefault(role, ProcessUse())
            known.cpu += use.cpu
            known.peak_memory = max(known.peak_memory, use.peak_memory)
        return roles


def _role(command: str, otherwise: str) -> str:
    return next((role for role, found in ROLES.items() if re.search(found, command)), otherwise)


def run(
    command: Sequence[str | Path], environment: Mapping[str, str], servers: Mapping[str, int]
) -> Measurement:
    """Run a command in the project's root and measure it.

    Args:
        command: the command and its arguments.
        environment: all of its environment.
        servers: name and process id of the servers whose CPU is measured.

    Raises:
        RuntimeError: the command failed; the message ends with its last output.
    """
    before = {name: _server_cpu(pid) for name, pid in servers.items()}
    with tempfile.TemporaryFile() as output:
        begun = time.perf_counter()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=output, stderr=output)
        with _Sampler(process.pid) as sampler:
            _, status, usage = os.wait4(process.pid, 0)
            wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            printed = output.read().decode(errors="replace")[-3000:]
            raise RuntimeError(f"{command} ended with {process.returncode}:\n{printed}")
    time.sleep(SETTLE_SECONDS)
    return Measurement(
        wall=wall,
        cpu=usage.ru_utime + usage.ru_stime,
        servers={name: _server_cpu(pid) - before[name] for name, pid in servers.items()},
        processes=sampler.by_role(),
    )


def _server_cpu(pid: int) -> float:
    """CPU seconds of a server, including its processes that have ended."""
    return float(sum(psutil.Process(pid).cpu_times()[:4]))
