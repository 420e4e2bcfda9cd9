"""`make bench-api`: the API against plain FastAPI and plain ASGI, and its export against psql.

Everything is measured in one run, on this machine, over the same 100,000 rows.
"""

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from urllib.parse import quote

import psutil
import psycopg
from psycopg.sql import SQL

from api.auth import Role
from api.opportunities.queries import COLUMNS
from api.token import make_token
from database.embedded import BIN, start_embedded, stop_embedded
from database.environment import ROOT
from database.migrate import migrate
from tests.api.conftest import fill

ROWS = 100_000
SECONDS = 2
ROUNDS = 7
CONNECTIONS = 8
PAGE = f"/api/opportunities?stage={quote('03 - Proposal')}&limit=50"


async def load(port: int, path: str, token: str, seconds: float) -> list[float]:
    """Ask for a path on several connections for a while; return how long each answer took."""
    request = (
        f"GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {token}\r\n\r\n"
    ).encode()
    taken: list[float] = []
    end = time.perf_counter() + seconds

    async def ask() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        while (started := time.perf_counter()) < end:
            writer.write(request)
            head = await reader.readuntil(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200"), head
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            await reader.readexactly(length)
            taken.append(time.perf_counter() - started)
        writer.close()

    await asyncio.gather(*(ask() for _ in range(CONNECTIONS)))
    return taken


@contextmanager
def serving(url: str, port: int, *command: str) -> Iterator[psutil.Process]:
    """Serve with one worker in a process of its own."""
    process = subprocess.Popen(
        [sys.executable, "-m", *command],
        cwd=ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env=os.environ | {"DATABASE_URL": url, "API_PORT": str(port)},
    )
    try:
        asyncio.run(_listening(port))
        yield psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


async def _listening(port: int) -> None:
    for _ in range(600):
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except ConnectionRefusedError:
            await asyncio.sleep(0.05)
        else:
            writer.close()
            return
    sys.exit("the server does not listen")


def compare(targets: dict[str, tuple[int, str, psutil.Process]], token: str) -> dict[str, float]:
    """Print and return the requests per second of each target, by name: port, path and server.

    They are measured by turns, so that what else the machine does is the same for all.
    """
    rounds: dict[str, list[list[float]]] = {name: [] for name in targets}
    cpu: dict[str, list[float]] = {name: [] for name in targets}
    for turn in range(ROUNDS + 1):
        for name, (port, path, server) in targets.items():
            before = sum(server.cpu_times()[:2])
            taken = asyncio.run(load(port, path, token, SECONDS))
            if turn:  # the first is to warm up
                rounds[name].append(taken)
                cpu[name].append((sum(server.cpu_times()[:2]) - before) / len(taken))
    rates = {}
    for name, measured in rounds.items():
        rates[name] = statistics.median(len(taken) for taken in measured) / SECONDS
        medians = [statistics.median(taken) for taken in measured]
        tails = [statistics.quantiles(taken, n=100)[98] for taken in measured]
        spread = statistics.median(p99 / median for p99, median in zip(tails, medians, strict=True))
        print(
            f"{name:20} {rates[name]:6.0f} requests/s, "
            f"median {statistics.median(medians) * 1000:.1f} ms, "
            f"p99 {statistics.median(tails) * 1000:.1f} ms = {spread:.2f} medians, "
            f"{statistics.median(cpu[name]) * 1000:.2f} ms of the server's CPU a request"
        )
    return rates


async def export(port: int, token: str, server: psutil.Process) -> tuple[float, int, int]:
    """Return how long the export took, its bytes, and by how much the server's memory grew."""
    before = most = server.memory_info().rss
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    started = time.perf_counter()
    writer.write(
        "GET /api/opportunities/export?include_deleted=true HTTP/1.0\r\n"
        f"Authorization: Bearer {token}\r\n\r\n".encode()
    )
    size = 0
    while chunk := await reader.read(1 << 20):
        size += len(chunk)
        most = max(most, server.memory_info().rss)
    taken = time.perf_counter() - started
    writer.close()
    return taken, size, most - before


def psql(url: str) -> float:
    """Return how long psql's COPY of the same rows takes."""
    rows = SQL("copy (select {} from opportunities order by id) to stdout (format csv, header)")
    started = time.perf_counter()
    subprocess.run(
        [BIN / "psql", url, "-c", rows.format(COLUMNS).as_string()],
        stdout=subprocess.DEVNULL,
        check=True,
    )
    return time.perf_counter() - started


def main() -> None:
    """Measure, and print."""
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        cluster = Path(folder) / "postgres"
        url = start_embedded(cluster)
        try:
            migrate(url)
            fill(url, ROWS)
            with psycopg.connect(url, autocommit=True) as connection:
                connection.execute("vacuum analyze opportunities")
            token = make_token(url, Role.VIEWER, timedelta(hours=1))
            print(f"{ROWS} rows, one worker, {CONNECTIONS} connections; medians of {ROUNDS} rounds")
            with (
                serving(
                    url,
                    8771,
                    "uvicorn",
                    "tests.api.baseline:app",
                    "--port",
                    "8771",
                    "--no-access-log",
                ) as plain,
                serving(
                    url,
                    8774,
                    "uvicorn",
                    "tests.api.plain:app",
                    "--port",
                    "8774",
                    "--no-access-log",
                ) as asgi,
                serving(url, 8772, "api") as server,
            ):
                rates = compare(
                    {
                        "plain FastAPI + ORM": (8771, PAGE, plain),
                        "plain ASGI, same SQL": (8774, PAGE, asgi),
                        "this API": (8772, PAGE + "&sort=-deal_value", server),
                    },
                    token,
                )
                times = rates["this API"] / rates["plain FastAPI + ORM"]
                print(f"{'':20} {times:6.2f} times the requests per second")
                runs = [asyncio.run(export(8772, token, server)) for _ in range(3)]
            taken, size, _ = min(runs)
            growth = max(grown for _, _, grown in runs)
            reference = min(psql(url) for _ in range(3))
            print(
                f"export of {size / 1e6:.1f} MB: {taken:.2f} s = {taken / reference:.2f} times "
                f"psql's {reference:.2f} s; memory grew by {growth / 1e6:.1f} MB"
            )
        finally:
            stop_embedded(cluster)


if __name__ == "__main__":
    main()
