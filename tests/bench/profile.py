"""Measures the time of this project's extract and load, for each stage and each function.

The stages run alone, with Meltano's configuration and catalog for them. The functions come from
py-spy, which samples the stack of each process of a whole `meltano run` a hundred times a second.
"""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import psycopg
from oracle_crm_sandbox import Sandbox

from tests.bench.contenders import BENCH, MELTANO, PYTHON, environment
from tests.bench.measure import ROLES, run

BIN = Path(sys.executable).parent
HERTZ = 100
SHOWN = 12
NOTHING = "Meltano runs a tap and a loader that do nothing"
DISCOVERY = "tap discovers"
NO_LOAD = "loader loads nothing"
ONCE = (NOTHING, DISCOVERY, NO_LOAD)
"""Stages whose time does not depend on the number of rows."""
NOTHING_PROJECT = Path(__file__).parent / "nothing"
Profile = dict[str, Any]
IMPORTS = "imports: start-up"
# Outer frames that call everything, so they do not help.
_OUTER = re.compile(r"^(<module>|_?main|cli|invoke) |\((click|asyncio|threading|runpy)\b")


def of_chain(postgres: str, rows: int) -> Profile:
    """Profile a first load of this number of rows, from a CRM without latency."""
    database = f"{postgres}/bench_profile"
    with Sandbox(records=rows) as crm:
        given = environment(crm.env, database)
        _create_database(postgres)
        stages = {}
        for name, command in _stages(given).items():
            _create_database(postgres)
            stages[name] = asdict(run(["bash", "-c", command], given, {}))
        _create_database(postgres)
        stacks = BENCH / "stacks.txt"
        spy: list[str | Path] = [
            *(PYTHON.with_name("py-spy"), "record", "--subprocesses", "--nonblocking"),
            *("--rate", str(HERTZ), "--format", "raw", "--output", stacks, "--"),
        ]
        run([*spy, *MELTANO], given, {})
    processes = summarise(stacks.read_text().splitlines())
    return {"rows": rows, "stages": stages, "processes": processes}


def _create_database(postgres: str) -> None:
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as server:
        server.execute("drop database if exists bench_profile with (force)")
        server.execute("create database bench_profile template migrated")


def _stages(given: Mapping[str, str]) -> dict[str, str]:
    """Return the command of each stage."""
    dumped = {}
    for plugin, what in (
        ("tap-oracle-crm", "catalog"),
        ("tap-oracle-crm", "config"),
        ("target-postgres", "config"),
    ):
        file = BENCH / f"{plugin}.{what}.json"
        done = subprocess.run(
            [BIN / "meltano", "invoke", f"--dump={what}", plugin],
            env=given,
            capture_output=True,
            text=True,
            check=True,
        )
        file.touch(mode=0o600)
        file.write_text(done.stdout)
        dumped[plugin, what] = shlex.quote(str(file))
    tap, loader, stock = (
        shlex.quote(str(BIN / name))
        for name in ("tap-oracle-crm", "target-postgres-copy", "target-postgres")
    )
    tap_config = f"--config {dumped['tap-oracle-crm', 'config']}"
    tap_all = f"{tap} {tap_config} --catalog {dumped['tap-oracle-crm', 'catalog']}"
    loader_config = f"--config {dumped['target-postgres', 'config']}"
    loader_all = f"{loader} {loader_config}"
    messages = shlex.quote(str(BENCH / "messages.jsonl"))
    return {
        NOTHING: f"cd {NOTHING_PROJECT} && {BIN / 'meltano'} run tap-nothing target-nothing",
        DISCOVERY: f"{tap} {tap_config} --discover > /dev/null",
        NO_LOAD: f"{loader_all} < /dev/null",
        "tap alone, into a file": f"{tap_all} > {messages}",
        "loader alone, from that file": f"{loader_all} < {messages}",
        "stock loader alone, from that file": f"{stock} {loader_config} < {messages}",
        "tap and loader, without Meltano": f"{tap_all} | {loader_all}",
    }


def summarise(stacks: Iterable[str]) -> dict[str, Profile]:
    """Add up py-spy's stacks by process: CPU seconds, and the functions that used them."""
    samples: Counter[str] = Counter()
    own: dict[str, Counter[str]] = {}
    within: dict[str, Counter[str]] = {}
    for line in stacks:
        stack, _, count = line.rpartition(" ")
        frames = stack.split(";")
        processes = [frame for frame in frames if frame.startswith("process ")]
        role = _role(processes)
        functions = [_function(frame) for frame in frames if re.search(r"\(.*:\d+\)$", frame)]
        if not functions:
            continue
        if any("importlib._bootstrap>" in function for function in functions):
            functions = [IMPORTS]
        samples[role] += int(count)
        own.setdefault(role, Counter())[functions[-1]] += int(count)
        for function in {name for name in functions if not _OUTER.search(name)}:
            within.setdefault(role, Counter())[function] += int(count)
    return {
        role: {
            "seconds": total / HERTZ,
            "own": _largest(own[role], total),
            "within": _largest(within.get(role, Counter()), total),
        }
        for role, total in samples.most_common()
    }


def _largest(counted: Counter[str], total: int) -> list[list[Any]]:
    return [[name, count / total] for name, count in counted.most_common(SHOWN)]


def _role(processes: list[str]) -> str:
    command = processes[-1] if processes else ""
    return next((role for role, found in ROLES.items() if re.search(found, command)), "Meltano")


def _function(frame: str) -> str:
    """Return a frame as `name (file)`, the file from its package on."""
    found = re.fullmatch(r"(.*) \((.*):\d+\)", frame)
    if found is None:
        return frame
    file = re.sub(r".*(site-packages|extract/tap-oracle-crm|lib/python3\.\d+)/", "", found[2])
    return f"{found[1]} ({file})"
