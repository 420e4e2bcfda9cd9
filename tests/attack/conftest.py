"""A server of its own in a process of its own, and what is asserted of it after each attack."""

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import psycopg
import pytest

from api.auth import Role
from api.token import make_token
from database.environment import ROOT
from tests.api.conftest import fill
from tests.conftest import free_port, wait_until

SECRET = "of the webhook"
DEALS = 50_000
SECONDS_AT_MOST = 1.0
GROWTH_AT_MOST = 96_000_000


@pytest.hookimpl(tryfirst=True)  # before pytest looks at the markers
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave what is here to `make attack`: it takes minutes, and measures time."""
    for item in items:
        if item.path.is_relative_to(Path(__file__).parent):
            item.add_marker(pytest.mark.attack)


@dataclass
class Target:
    """The server under attack."""

    port: int
    database: str
    process: psutil.Process
    log: Path

    @property
    def address(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.port}"

    def memory(self) -> int:
        """Return the bytes of memory that it holds."""
        return int(self.process.memory_info().rss)

    def client(self, role: Role | None) -> httpx.Client:
        """Return a client with a token of a role's user."""
        headers = {}
        if role is not None:
            token = make_token(self.database, role, timedelta(hours=1))
            headers["Authorization"] = f"Bearer {token}"
        return httpx.Client(
            base_url=self.address,
            headers=headers,
            timeout=90,
            limits=httpx.Limits(max_connections=None),
            verify=False,  # noqa: S501 - it is plain HTTP, and a context of TLS takes long
        )


@pytest.fixture(scope="session")
def target(
    postgres: str, migrated: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Target]:
    """A server over a database of many deals, with the limits that it has by default."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database attacked template {migrated}")
    database = f"{postgres}/attacked"
    fill(database, DEALS)
    port, log = int(free_port()), tmp_path_factory.mktemp("attack") / "log"
    # The shell's limit of descriptors: the server has to see to more itself.
    command = ["bash", "-c", f'ulimit -Sn 1024 && exec "{sys.executable}" -m api']
    with log.open("wb") as output:
        server = subprocess.Popen(
            command,
            cwd=ROOT,
            stdout=output,
            stderr=output,
            env=os.environ
            | {"DATABASE_URL": database, "API_PORT": str(port), "ORACLE_WEBHOOK_SECRET": SECRET},
        )
    target = Target(port, database, psutil.Process(server.pid), log)

    def is_up() -> bool:
        with suppress(httpx.HTTPError):
            return httpx.get(f"{target.address}/health/ready").status_code == 200
        return False

    try:
        wait_until(is_up, 60)
        with target.client(Role.ADMIN) as admin:
            for path in ("/opportunities", "/board", "/api/opportunities?limit=1000", "/sync"):
                admin.get(path)  # what is loaded at first use is no leak
        yield target
    finally:
        server.terminate()
        server.wait()
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture(autouse=True)
def others(request: pytest.FixtureRequest) -> Iterator[None]:
    """Assert that the server lives, answers at once, keeps its memory and logs no error of ours."""
    if "target" not in request.fixturenames:
        yield
        return
    target: Target = request.getfixturevalue("target")
    memory, logged = target.memory(), target.log.stat().st_size
    pulse = subprocess.Popen(
        [sys.executable, "-m", "tests.attack.pulse", "127.0.0.1", str(target.port)],
        cwd=ROOT,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    try:
        yield
    finally:
        longest, _ = pulse.communicate("\n")
    assert float(longest) < SECONDS_AT_MOST, f"/health/live took {longest} s"
    with target.client(Role.MANAGER) as manager:
        wait_until(lambda: manager.get("/api/opportunities?limit=5").status_code == 200, 30)
        assert manager.get("/health/ready").status_code == 200
    assert target.memory() - memory < GROWTH_AT_MOST
    with target.log.open() as log:
        log.seek(logged)
        assert "Traceback" not in log.read()


class Strangers:
    """Opens sockets to the server, from addresses that no proxy has."""

    def __init__(self, target: Target, opened: ExitStack) -> None:
        self._target, self._opened = target, opened

    def connect(self, first: bytes, address: str = "127.0.0.66") -> socket.socket:
        """Return a connection on which something was sent already."""
        connection = socket.create_connection(
            ("127.0.0.1", self._target.port), 30, source_address=(address, 0)
        )
        self._opened.enter_context(closing(connection))
        with suppress(OSError):
            connection.sendall(first)
        return connection


@pytest.fixture
def strangers(target: Target) -> Iterator[Strangers]:
    """Those who connect without being known."""
    with ExitStack() as opened:
        yield Strangers(target, opened)


def received(connection: socket.socket, seconds: float = 30) -> bytes:
    """Return what comes until the server closes or says no more."""
    connection.settimeout(seconds)
    parts = []
    with suppress(OSError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)
