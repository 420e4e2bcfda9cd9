"""``python -m tests.bench``: run the contenders in turns, then write the page and the plot."""

from __future__ import annotations

import argparse
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import psycopg
from oracle_crm_sandbox import Sandbox

from database.embedded import start_embedded, stop_embedded
from database.environment import ROOT
from tests.bench import correctness, profile, report
from tests.bench.contenders import (
    BENCH,
    CONTENDERS,
    HERE,
    PYTHON,
    Contender,
    environment,
    install,
    prepare,
)
from tests.bench.measure import run

SCENARIOS = ("first load", "nothing changed", "1 % changed")
PAGE = 499
LARGE = 100_000
"""From this number of rows on, two repeats are enough."""
RESULTS = BENCH / "results.json"
Result = dict[str, Any]


def main() -> None:
    """Read the command line, measure, write."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description="The benchmark")
    parser.add_argument("--quick", action="store_true", help="1,000 and 20,000 rows, no latency")
    parser.add_argument("--only", nargs="+", choices=[contender.name for contender in CONTENDERS])
    parser.add_argument("--rows", nargs="+", type=int, help="sizes, 1000 20000 100000 by default")
    parser.add_argument("--latency", nargs="+", type=int, help="ms for a page, 0 150 by default")
    parser.add_argument("--repeats", type=int, help="3 by default")
    parser.add_argument("--page", type=Path, default=ROOT / "docs" / "benchmark.md")
    parser.add_argument("--write-only", action="store_true", help="from the last results")
    options = parser.parse_args()
    if not options.write_only:
        sizes = options.rows or ([1_000, 20_000] if options.quick else [1_000, 20_000, 100_000])
        latencies = options.latency or ([0] if options.quick else [0, 150])
        contenders = [c for c in CONTENDERS if not options.only or c.name in options.only]
        measure(contenders, sizes, latencies, options.repeats or 3)
    results = json.loads(RESULTS.read_text())
    plot = options.page.with_suffix(".svg")
    subprocess.run([PYTHON, HERE / "plot.py", RESULTS, plot], check=True)
    options.page.write_text(report.page(results, plot.name))
    print(f"Written: {options.page} and {plot}")


def measure(
    contenders: list[Contender], sizes: list[int], latencies: list[int], repeats: int
) -> None:
    """Run all contenders, and save each result in a file at once."""
    BENCH.mkdir(parents=True, exist_ok=True)
    lock = (BENCH / "lock").open("w")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        sys.exit("Another benchmark is running: two at once would slow down each other.")
    install()
    begun = datetime.now(UTC)
    cluster = BENCH / "postgres"
    postgres = start_embedded(cluster).rsplit("/", 1)[0]
    postmaster = int((cluster / "postmaster.pid").read_text().splitlines()[0])
    try:
        prepare(postgres)
        runs: list[Result] = []
        for rows in sizes:
            with Sandbox(records=rows) as crm:
                for latency in latencies:
                    for repeat in range(min(repeats, 2) if rows >= LARGE else repeats):
                        turn = contenders[repeat % len(contenders) :]
                        turn += contenders[: repeat % len(contenders)]
                        crm.reset(records=rows)
                        if latency:
                            crm.fault("latency", ms=latency)
                        for result in _run_scenarios(
                            turn, crm, postgres, postmaster, rows, latency, repeat
                        ):
                            runs.append(result | {"rows": rows, "latency": latency})
                            _print_result(runs[-1])
        profiled = profile.of_chain(postgres, rows=max(sizes))
        results = {
            "begun": begun.isoformat(timespec="seconds"),
            "ended": datetime.now(UTC).isoformat(timespec="seconds"),
            "repeats": repeats,
            "cores": psutil.cpu_count(),
            "memory": psutil.virtual_memory().total,
            "runs": runs,
            "profile": profiled,
        }
        RESULTS.write_text(json.dumps(results, indent=1))
    finally:
        stop_embedded(cluster)


def _run_scenarios(
    contenders: list[Contender],
    crm: Sandbox,
    postgres: str,
    postmaster: int,
    rows: int,
    latency: int,
    repeat: int,
) -> Iterator[Result]:
    """Run the scenarios for each contender, with its own database and state."""
    databases = {c.name: _database(postgres, c, repeat) for c in contenders}
    for scenario in SCENARIOS:
        moved = {"first load": rows, "nothing changed": 0, "1 % changed": rows // 100}[scenario]
        if scenario == "1 % changed":
            crm.mutate(update=moved)
        expected = correctness.held(crm)
        for contender in contenders:
            if not contender.takes_part(rows, latency, scenario, repeat):
                continue
            database = databases[contender.name]
            crm.clear_requests()
            named = {"state": BENCH / "state" / contender.name, "rows": moved}
            used = run(
                [str(part).format(**named) for part in contender.command],
                environment(crm.env, database, contender.at_once),
                {"database": postmaster, "CRM": _pid_of_sandbox()},
            )
            yield {
                **asdict(used),
                "contender": contender.name,
                "scenario": scenario,
                "repeat": repeat,
                "moved": moved,
                "requests": crm.requests()["total"],
                "pages": max(1, -(-moved // PAGE)),
                "load": os.getloadavg()[0],
                "wrong": correctness.wrong_rows(expected, correctness.loaded(contender, database)),
            }


def _database(postgres: str, contender: Contender, repeat: int) -> str:
    """Create a new database, and delete the contender's state."""
    shutil.rmtree(BENCH / "state" / contender.name, ignore_errors=True)
    name = f"bench_{contender.name}"
    template = f"template {contender.template}" if contender.template else ""
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as server:
        server.execute(f"drop database if exists {name} with (force)".encode())
        server.execute(f"create database {name} {template}".encode())
    return f"{postgres}/{name}"


def _pid_of_sandbox() -> int:
    children = psutil.Process().children()
    return next(child.pid for child in children if "oracle_crm_sandbox" in child.cmdline())


def _print_result(result: Result) -> None:
    print(
        f"{result['rows']:>7,} rows {result['latency']:>3} ms  {result['scenario']:<15} "
        f"{result['contender']:<8} {result['wall']:7.2f} s wall {result['cpu']:7.2f} s CPU  "
        f"{result['requests']:>4} requests  {result['wrong']} wrong rows",
        flush=True,
    )


if __name__ == "__main__":
    main()
