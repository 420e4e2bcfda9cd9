"""The soak's own database, CRM, API and scheduler."""

import os
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime, timedelta
from pathlib import Path
from zoneinfo import TZPATH

import psutil
import psycopg
from oracle_crm_sandbox import Sandbox

from api.auth import Role
from api.token import make_token
from database.embedded import start_embedded, stop_embedded
from database.environment import ROOT
from tests.conftest import Pipeline

SERVICES = {"api": "api", "scheduler": "orchestrate.scheduler"}
PLUGINS = ("tap-oracle-crm", "target-postgres", "target-postgres-copy", "dbt-frozen", "meltano")
STARTED_SECONDS = 60


def time_zone(seconds: int) -> bytes:
    """Return the file of a time zone with this offset to UTC, in the format of RFC 9636."""
    header = struct.pack(">4sc15x6I", b"TZif", b"\0", 0, 0, 0, 0, 1, 5)
    return header + struct.pack(">iBB5s", seconds, 0, 0, b"SOAK\0")


class World:
    """The parts of the system; they can be killed and started again."""

    def __init__(self, crm: Sandbox, scratch: Path) -> None:
        self.crm = crm
        self._scratch = scratch
        self._cluster = scratch / "postgres"
        self.url = start_embedded(self._cluster)
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = str(free.getsockname()[1])
        self.api = f"http://127.0.0.1:{port}"
        self.pipeline = Pipeline(self.url, crm, scratch)
        self.pipeline.environment |= {
            "API_PORT": port,
            "SCHEDULE_RETRY_MINUTES": "0.05,0.1,0.2",
            "API_LOCK_TIMEOUT": "5",
        }
        self._log = (scratch / "services.log").open("ab")
        self._services: dict[str, subprocess.Popen[bytes]] = {}
        self._began: dict[str, float] = {}
        self._lock = threading.Lock()
        subprocess.run(
            [sys.executable, "-m", "database", "migrate"],
            cwd=ROOT,
            check=True,
            env=self.pipeline.environment,
        )
        self.token = make_token(self.url, Role.ADMIN, timedelta(days=1))

    def make_it_midnight(self, at: datetime) -> None:
        """Set the CRM's clock and the scheduler's time zone so that it is then midnight."""
        midnight = at.replace(hour=0, minute=0, second=0, microsecond=0)
        ahead = (midnight + timedelta(days=1) - at).total_seconds()
        self.crm.clock(ahead)
        zones = self._scratch / "zones"
        (zones / "Soak").mkdir(parents=True)
        (zones / "Soak" / "Midnight").write_bytes(time_zone(round(ahead)))
        self.pipeline.environment |= {
            "PYTHONTZPATH": os.pathsep.join([str(zones), *TZPATH]),
            "SCHEDULE_TIMEZONE": "Soak/Midnight",
        }

    def keep_running(self) -> list[str]:
        """Start the services that are not running, like systemd.

        Returns:
            The services that had ended, except at their start, when the database may be down.
        """
        ended = []
        for name, module in SERVICES.items():
            service = self._services.get(name)
            if service is None or service.poll() is not None:
                if service is not None and time.monotonic() - self._began[name] > STARTED_SECONDS:
                    ended.append(name)
                self._began[name] = time.monotonic()
                self._services[name] = subprocess.Popen(
                    [sys.executable, "-m", module],
                    cwd=ROOT,
                    env=self.pipeline.environment,
                    stdout=self._log,
                    stderr=subprocess.STDOUT,
                )
        return ended

    def is_up(self) -> bool:
        """Start missing services; return whether the scheduler has planned its runs."""
        self.keep_running()
        return bool(self.pipeline.query("select name from schedules where next_run_at > now()"))

    def processes(self) -> dict[str, list[psutil.Process]]:
        """Return the live processes of services and syncs, by name."""
        found: dict[str, list[psutil.Process]] = {
            name: [psutil.Process(service.pid)]
            for name, service in self._services.items()
            if service.poll() is None and psutil.pid_exists(service.pid)
        }
        for process in psutil.process_iter():
            try:
                if process.environ().get("DATABASE_URL") != self.url:
                    continue
                for name in PLUGINS:
                    if any(part.endswith(f"bin/{name}") for part in process.cmdline()[:2]):
                        found.setdefault(name, []).append(process)
            except (psutil.NoSuchProcess, psutil.AccessDenied):
                continue  # it has ended, or is not ours
        return found

    def crash_database(self) -> None:
        """Crash PostgreSQL, and start it again."""
        with self._lock:
            pid = int((self._cluster / "postmaster.pid").read_text().splitlines()[0])
            os.kill(pid, signal.SIGQUIT)
            while psutil.pid_exists(pid):
                time.sleep(0.05)
            assert start_embedded(self._cluster) == self.url, "its address has changed"

    def miss_midnight(self, name: str) -> bool:
        """Make a schedule look missed, for the scheduler's next start."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            missed = connection.execute(
                "update schedules set next_run_at = now() - interval '1 day' where name = %s",
                [name],
            ).rowcount
        if missed:
            self._services["scheduler"].kill()
        return bool(missed)

    def stop(self) -> None:
        """End the services and the running syncs, and wait for them."""
        for service in self._services.values():
            service.terminate()
        for processes in self.processes().values():
            for process in processes:
                try:
                    process.kill()
                    process.wait(timeout=30)
                except psutil.NoSuchProcess:
                    continue  # it ended by itself
        for service in self._services.values():
            service.wait(timeout=120)

    def close(self) -> None:
        """Stop everything."""
        self.stop()
        self._log.close()
        stop_embedded(self._cluster)


@contextmanager
def world(records: int, seed: int, scratch: Path) -> Iterator[World]:
    """Yield a world with this number of deals in its CRM."""
    with ExitStack() as stack:
        crm = stack.enter_context(Sandbox(records=records, seed=seed))
        made = World(crm, scratch)
        stack.callback(made.close)
        yield made
