"""`make bench-scale`: all that a big installation does, once, with 1,000,000 deals.

Everything runs on this machine: the sandbox CRM without latency, PostgreSQL with its default
settings, the real commands, and one process of the API. `docs/benchmark-scale.md` is written.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psycopg
from oracle_crm_sandbox import Sandbox
from psycopg.rows import dict_row

from api.auth import Role
from api.token import make_token
from database.embedded import start_embedded, stop_embedded
from database.environment import ROOT
from tests.api.bench import serving

PAGE = ROOT / "docs" / "benchmark-scale.md"
PORT = 8773
REQUESTS = 20
PAGES = {
    "list": "/api/opportunities?limit=50",
    "list with a filter and a sort": (
        f"/api/opportunities?stage={quote('03 - Proposal')}&sort=-deal_value&limit=50"
    ),
    "search for a word": "/api/opportunities?search=cloud&limit=50",
    "search for two letters": "/api/opportunities?search=cl&limit=50",
    "dashboard": "/dashboard",
    "metrics": "/metrics",
}


class Installation:
    """A database, and the commands on it."""

    def __init__(self, url: str, crm: Sandbox, scratch: Path) -> None:
        self.url = url
        self.environment = (
            os.environ
            | crm.env
            | {
                "DATABASE_URL": url,
                # Two complete reads in an hour would be spread over it.
                "TAP_ORACLE_CRM_CALLS_PER_HOUR": "0",
                "MELTANO_SYS_DIR_ROOT": str(scratch / "meltano"),
                "DBT_TARGET_PATH": str(scratch / "dbt"),
                "DBT_LOG_PATH": str(scratch / "dbt"),
            }
        )

    def run(self, *command: str | Path) -> float:
        """Run a command, which must succeed, and return the seconds that it takes."""
        begin = time.monotonic()
        subprocess.run(
            command, cwd=ROOT, env=self.environment, check=True, stdout=subprocess.DEVNULL
        )
        return time.monotonic() - begin

    def meltano(self, job: str) -> tuple[float, float]:
        """Run a job of Meltano; return its seconds, and those of its merge."""
        seconds = self.run(Path(sys.executable).with_name("meltano"), "run", job)
        run = self.last_run()
        merge = run["transform_completed_at"] - run["transform_started_at"]
        return seconds, merge.total_seconds()

    def last_run(self) -> dict[str, Any]:
        """Return the newest run."""
        with psycopg.connect(self.url, row_factory=dict_row) as connection:
            row = connection.execute("select * from sync_runs order by id desc limit 1").fetchone()
        assert row is not None
        return row

    def size(self) -> str:
        """Return the size of the database."""
        with psycopg.connect(self.url) as connection:
            (size,) = connection.execute(
                "select pg_size_pretty(pg_database_size(current_database()))"
            ).fetchone() or ("?",)
        return str(size)


def syncs(installation: Installation, crm: Sandbox, records: int) -> Iterator[tuple[str, float]]:
    """Sync again and again; yield each step, and its seconds."""
    for step, changed in {
        "first load": None,
        "sync, nothing changed": 0,
        "sync, 1,000 changed": 1_000,
        "sync, 10,000 changed and 100 new": 10_000,
    }.items():
        if changed:
            crm.mutate(update=min(changed, records), create=100 if changed == 10_000 else 0)
        whole, merge = installation.meltano("sync")
        yield step, whole
        yield f"{step}: its merge", merge
        run = installation.last_run()
        expected = {"new_records": records} if changed is None else {"updated_records": changed}
        assert {name: run[name] for name in expected} == expected, run
    crm.mutate(delete=100)
    yield "reconcile", installation.meltano("reconcile")[0]
    yield "housekeeping", installation.run(sys.executable, "-m", "orchestrate.housekeeping")
    try:
        yield "doctor", installation.run(sys.executable, "-m", "orchestrate.doctor")
    except subprocess.CalledProcessError:
        print("The doctor finds an error, such as a full disk: it is not measured.")


def median_milliseconds(path: str, token: str) -> float | None:
    """Ask the API for a path several times; return the median, or None if it gives up."""
    request = urllib.request.Request(
        f"http://127.0.0.1:{PORT}{path}", headers={"Authorization": f"Bearer {token}"}
    )
    taken = []
    for _ in range(REQUESTS + 1):
        begin = time.monotonic()
        try:
            with urllib.request.urlopen(request) as answer:  # noqa: S310
                answer.read()
        except urllib.error.HTTPError as error:
            if error.code == HTTPStatus.SERVICE_UNAVAILABLE:
                return None
            raise
        taken.append(time.monotonic() - begin)
    return statistics.median(taken[1:]) * 1000  # the first one is to warm up


def page(records: int, steps: dict[str, float], paths: dict[str, float | None], size: str) -> str:
    """Return the document."""
    return "\n".join(
        [
            f"# What {records:,} deals cost",
            "",
            "<!-- Written by `make bench-scale`; do not edit. -->",
            "",
            f"Measured once, on {os.cpu_count()} cores, with the CRM sandbox without latency and "
            f"PostgreSQL with its default settings on the same machine. The database has {size}.",
            "",
            "| step | seconds |",
            "| --- | ---: |",
            *(f"| {name} | {seconds:.1f} |" for name, seconds in steps.items()),
            "",
            f"Requests to one process of the API, one after the other; medians of {REQUESTS}.",
            "",
            "| request | milliseconds |",
            "| --- | ---: |",
            *(
                f"| {name} | {'over `API_LIST_TIMEOUT`' if taken is None else f'{taken:.1f}'} |"
                for name, taken in paths.items()
            ),
            "",
        ]
    )


def main() -> None:
    """Measure, print, and write the page."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench.scale")
    parser.add_argument("--records", type=int, default=1_000_000)
    parser.add_argument("--page", type=Path, default=PAGE)
    options = parser.parse_args()
    steps: dict[str, float] = {}
    with (
        tempfile.TemporaryDirectory(prefix="bench-") as folder,
        Sandbox(records=options.records) as crm,
    ):
        cluster = Path(folder) / "postgres"
        url = start_embedded(cluster)
        try:
            installation = Installation(url, crm, Path(folder))
            installation.run(sys.executable, "-m", "database", "migrate")
            for name, seconds in syncs(installation, crm, options.records):
                steps[name] = seconds
                print(f"{name}: {seconds:.1f} s", flush=True)
            token = make_token(url, Role.ADMIN, timedelta(hours=1))
            with serving(url, PORT, "api"):
                paths = {name: median_milliseconds(path, token) for name, path in PAGES.items()}
            size = installation.size()
        finally:
            stop_embedded(cluster)
    text = page(options.records, steps, paths, size)
    options.page.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
