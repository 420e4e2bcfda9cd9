"""PgBouncer in transaction mode, in front of a server: each transaction may get any session."""

import os
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import which
from urllib.parse import urlsplit

import psycopg
import pytest

from database.embedded import SYSTEM_USER

PGBOUNCER = which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
needs_pgbouncer = pytest.mark.skipif(
    PGBOUNCER is None, reason="pgbouncer is not installed: apt-get install pgbouncer"
)


@contextmanager
def pooler(database: str, *settings: str, of_the_database: str = "") -> Iterator[str]:
    """Run PgBouncer in front of the server of a database; yields the database's URL through it.

    Args:
        database: the URL.
        settings: lines of PgBouncer's configuration.
        of_the_database: what it adds to each connection of its own to the server.
    """
    assert PGBOUNCER is not None
    parts = urlsplit(database)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(prefix="pgbouncer-") as folder:
        Path(folder).chmod(0o755)
        users, configuration = Path(folder, "users"), Path(folder, "pgbouncer.ini")
        users.write_text(f'"{parts.username}" "{parts.password}"')
        lines = [
            "[databases]",
            f"* = host={parts.hostname} port={parts.port} {of_the_database}",
            "[pgbouncer]",
            "listen_addr = 127.0.0.1",
            f"listen_port = {port}",
            "auth_type = plain",
            f"auth_file = {users}",
            "pool_mode = transaction",
            "server_round_robin = 1",
            "default_pool_size = 3",
            "min_pool_size = 3",
            *settings,
        ]
        configuration.write_text("\n".join(lines))
        process = subprocess.Popen(
            [PGBOUNCER, "-q", configuration], user=SYSTEM_USER if os.geteuid() == 0 else None
        )
        try:
            url = database.replace(f":{parts.port}/", f":{port}/")
            _wait_for(url)
            yield url
        finally:
            process.terminate()
            process.wait()


def _wait_for(url: str) -> None:
    end = time.monotonic() + 30
    while True:
        try:
            psycopg.connect(url).close()
        except psycopg.OperationalError:
            assert time.monotonic() < end, "PgBouncer does not answer"
            time.sleep(0.05)
        else:
            return
