"""`python -m tests.bench.pages`: the CPU of the server for each page of the console.

The pages are opened on demo data of 100,000 deals, each by somebody whom it is for. Counted is the
CPU of the API and of PostgreSQL, not the time: other work on the machine changes it little.
"""

import argparse
import statistics
import tempfile
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from api.auth import ISSUE, new_token
from database.embedded import start_embedded, stop_embedded
from tests.api.bench import serving
from tests.console.screenshots import warehouse

PORT = 8774
DEALS = 100_000
TURNS = 7
REQUESTS = 10
"""In a turn, for the sake of the kernel's clock: it ticks a hundred times in a second."""
PAGES = {
    "/today": "ada",
    "/opportunities": "vera",
    "/opportunities?sort=-deal_value": "vera",
    "/board": "mira",
    "/opportunities/3": "ada",
    "/dashboard": "vera",
    "/dashboard/pipeline": "vera",
    "/sync": "mira",
    "/sync/indicator": "vera",
    "/sync/runs/{run}": "mira",
    "/sync/rejects": "mira",
    "/account": "vera",
    "/admin/users": "olga",
    "/admin/users/2/tokens": "olga",
    "/admin/audit": "olga",
    "/admin/fields": "olga",
    "/admin/health": "olga",
    "/admin/erasure": "olga",
    "/sign-in": None,
    "/nothing": "vera",
}
CHANGE = "update opportunities set last_synced_at = now() where id = 5"


def session(connection: psycopg.Connection[Any], name: str) -> str:
    """Begin a session of one of the people."""
    found = connection.execute("select id from users where name = %s", [name]).fetchone()
    assert found is not None
    token, values = new_token(found[0], "session", "bench", timedelta(hours=1))
    connection.execute(ISSUE, values)
    return token


def cpu(servers: list[psutil.Process]) -> float:
    """Return the CPU seconds of servers, of their processes, and of those that have ended."""
    total = 0.0
    for server in servers:
        total += sum(server.cpu_times()[:4])
        for process in server.children(recursive=True):
            try:
                total += sum(process.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue  # its time is now its parent's
    return total


def measure(
    paths: dict[str, str | None], connection: psycopg.Connection[Any], servers: list[psutil.Process]
) -> dict[str, dict[str, float]]:
    """Return the median milliseconds of CPU of each path: as usual, and after a deal changed."""
    tokens = {name: session(connection, name) for name in set(paths.values()) if name}
    taken: dict[str, dict[str, list[float]]] = {
        path: {"unchanged": [], "changed": []} for path in paths
    }
    with httpx.Client(base_url=f"http://127.0.0.1:{PORT}", timeout=60) as client:
        for turn in range(TURNS + 1):
            for path, name in paths.items():
                cookies = {"Cookie": f"session={tokens[name]}"} if name else {}
                for kind, requests in (("unchanged", REQUESTS), ("changed", 1)):
                    if kind == "changed":
                        connection.execute(CHANGE)
                    begin = cpu(servers)
                    for _ in range(requests):
                        answer = client.get(path, headers=cookies | {"Accept": "text/html"})
                        assert answer.status_code == (404 if path == "/nothing" else 200), answer
                    if turn:  # the first is to warm up
                        taken[path][kind].append((cpu(servers) - begin) / requests * 1000)
    return {
        path: {kind: statistics.median(all_) for kind, all_ in kinds.items()}
        for path, kinds in taken.items()
    }


def main() -> None:
    """Measure, and print."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.pages")
    parser.add_argument("--deals", type=int, default=DEALS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        cluster = Path(folder) / "postgres"
        address = start_embedded(cluster).rsplit("/", 1)[0]
        try:
            url = warehouse(address, Path(folder), options.deals).url
            pid = int((cluster / "postmaster.pid").read_text().split()[0])
            with (
                psycopg.connect(url, autocommit=True) as connection,
                serving(url, PORT, "api") as server,
            ):
                connection.execute("vacuum analyze")
                run = connection.execute("select run_id from sync_runs order by id desc").fetchone()
                assert run is not None
                paths = {path.format(run=run[0]): name for path, name in PAGES.items()}
                found = measure(paths, connection, [server, psutil.Process(pid)])
            print(
                f"CPU of the API and PostgreSQL for a page, with {options.deals:,} deals, in ms: "
                f"medians of {TURNS}"
            )
            print(f"{'page':32} {'unchanged':>10} {'changed':>10}")
            for path, kinds in found.items():
                shown = "/sync/runs/..." if path.startswith("/sync/runs/") else path
                print(f"{shown:32} {kinds['unchanged']:10.1f} {kinds['changed']:10.0f}")
        finally:
            stop_embedded(cluster)


if __name__ == "__main__":
    main()
