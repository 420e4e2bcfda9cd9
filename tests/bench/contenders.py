"""The contenders: their commands and their result tables."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from database.environment import DATA, ROOT

BENCH = DATA / "bench"
PYTHON = BENCH / "venv" / "bin" / "python"
HERE = Path(__file__).parent

FIELDS: Mapping[str, str] = {
    "OptyId": "bigint",
    "OptyNumber": "text",
    "Name": "text",
    "TargetPartyName": "text",
    "Revenue": "numeric",
    "CurrencyCode": "text",
    "WinProb": "numeric",
    "SalesStage": "text",
    "StatusCode": "text",
    "EffectiveDate": "date",
    "OwnerResourcePartyId": "bigint",
    "CreationDate": "timestamptz",
    "LastUpdateDate": "timestamptz",
    "Practice_c": "text",
    "GEO_c": "text",
    "Region_c": "text",
    "Sector_c": "text",
}
"""The fields that every contender reads: the selection in `meltano.yml` and the custom fields."""

COLUMNS = ", ".join(f'"{name}" {kind}' for name, kind in FIELDS.items())
PLAIN_TABLE = f'create table opportunities ({COLUMNS}, primary key ("OptyId"))'


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    Attributes:
        name: short, for the command line and the results.
        title: for people.
        command: `{state}` is replaced by its own folder, `{rows}` by the number of rows.
        table: schema and name of its result.
        template: the database to copy; without it, an empty one.
        columns: its name of each field; those that it has none for are in a JSON column `custom`.
        least_rows: it skips smaller sizes.
        most_rows: it skips larger sizes.
        least_latency: it skips smaller latencies, in ms.
        first_load_only: it skips the other scenarios.
        repeats: the largest number of repeats.
        at_once: the number of pages that it requests at once.
    """

    name: str
    title: str
    command: Sequence[str | Path]
    table: tuple[str, str] = ("public", "opportunities")
    template: str | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: {name: name for name in FIELDS})
    least_rows: int = 0
    most_rows: int | None = None
    least_latency: int = 0
    first_load_only: bool = False
    repeats: int | None = None
    at_once: int = 4

    def takes_part(self, rows: int, latency: int, scenario: str, repeat: int) -> bool:
        """Return whether it runs in this scenario."""
        return (
            self.least_rows <= rows
            and (self.most_rows is None or rows <= self.most_rows)
            and self.least_latency <= latency
            and (self.repeats is None or repeat < self.repeats)
            and not (self.first_load_only and scenario != "first load")
        )


def _snake(name: str) -> str:
    """Return dlt's name of a column."""
    return "".join(
        f"_{letter.lower()}" if letter.isupper() and before.islower() else letter.lower()
        for before, letter in zip(f"_{name}", name, strict=False)
    )


MELTANO: list[str | Path] = [
    Path(sys.executable).with_name("meltano"),
    "run",
    "tap-oracle-crm",
    "target-postgres",
]
DLT: list[str | Path] = [PYTHON, HERE / "dlt_pipeline.py", "{state}", "{rows}"]
RAW_TABLE = ("raw", "opportunities")
RAW_COLUMNS = {name: name for name in FIELDS if not name.endswith("_c")}
DLT_TABLE = ("crm", "opportunities")
DLT_COLUMNS = {name: _snake(name) for name in FIELDS}
EIGHT = "{}, eight pages at once"
"""An option of both, if the wait for pages is most of the time and the CRM allows more at once."""

CONTENDERS = [
    Contender("project", "this project", MELTANO, RAW_TABLE, "migrated", RAW_COLUMNS),
    Contender(
        "chain",
        "this project, with dbt",
        [*MELTANO, "dbt-postgres:run"],
        RAW_TABLE,
        "migrated",
        RAW_COLUMNS,
        repeats=1,
    ),
    Contender(
        "project8",
        EIGHT.format("this project"),
        MELTANO,
        RAW_TABLE,
        "migrated",
        RAW_COLUMNS,
        least_rows=100_000,
        least_latency=1,
        first_load_only=True,
        at_once=8,
    ),
    Contender("dlt", "(a) dlt", DLT, DLT_TABLE, columns=DLT_COLUMNS),
    Contender(
        "dlt_merged",
        "(a) dlt, with this project's merge",
        [sys.executable, "-m", "tests.bench.dlt_merged", *DLT],
        DLT_TABLE,
        "migrated",
        DLT_COLUMNS,
        first_load_only=True,
        repeats=1,
    ),
    Contender(
        "dlt8",
        EIGHT.format("(a) dlt"),
        DLT,
        DLT_TABLE,
        columns=DLT_COLUMNS,
        least_rows=100_000,
        least_latency=1,
        first_load_only=True,
        at_once=8,
    ),
    Contender(
        "script",
        "(b) plain script",
        [PYTHON, HERE / "plain_script.py"],
        template="plain",
        most_rows=20_000,
        first_load_only=True,
        repeats=1,
    ),
    Contender("limit", "(c) the limit", [PYTHON, HERE / "limit.py"], template="plain"),
]


def install() -> None:
    """Create the environment of the other contenders, unless it exists."""
    wanted = (HERE / "requirements.txt").read_text()
    mark = BENCH / "venv" / "requirements.txt"
    if mark.exists() and mark.read_text() == wanted:
        return
    uv = Path(sys.executable).with_name("uv")
    environment = os.environ | {"UV_COMPILE_BYTECODE": "1"}
    make: list[str | Path] = ["venv", "--quiet", "--clear", "--python", sys.executable]
    fill: list[str | Path] = ["pip", "install", "--quiet", "--python", PYTHON, "--requirement"]
    for command in ([uv, *make, BENCH / "venv"], [uv, *fill, HERE / "requirements.txt"]):
        subprocess.run(command, env=environment, check=True)
    mark.write_text(wanted)


def environment(crm: Mapping[str, str], database: str, at_once: int = 4) -> dict[str, str]:
    """Return a contender's environment: the present one, without this project's settings."""
    # The settings of this project's tap, of dlt and of the limit.
    pages = ("TAP_ORACLE_CRM_CONCURRENCY", "EXTRACT__WORKERS", "BENCH_AT_ONCE")
    inherited = {
        name: value
        for name, value in os.environ.items()
        # Without compiled files, each start would compile this project, unlike a user's.
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith(("ORACLE_", "MELTANO_", "PG"))
    }
    return (
        inherited
        | dict(crm)
        | dict.fromkeys(pages, str(at_once))
        | {
            "DATABASE_URL": database,
            "BENCH_FIELDS": ",".join(FIELDS),
            "MELTANO_SYS_DIR_ROOT": str(BENCH / "meltano"),
            "DBT_TARGET_PATH": str(BENCH / "dbt"),
            "DBT_LOG_PATH": str(BENCH / "dbt"),
        }
    )


def prepare(postgres: str) -> None:
    """Create the databases that contenders copy; delete those of earlier benchmarks."""
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as server:
        left = server.execute("select datname from pg_database where datname ~ '^bench_'")
        for name in [*[row[0] for row in left], "migrated", "plain"]:
            drop = sql.SQL("drop database if exists {} with (force)")
            server.execute(drop.format(sql.Identifier(name)))
        server.execute("create database migrated")
        server.execute("create database plain")
    with psycopg.connect(f"{postgres}/plain") as plain:
        plain.execute(PLAIN_TABLE.encode())
    subprocess.run(
        [sys.executable, "-m", "database", "migrate"],
        cwd=ROOT,
        check=True,
        env=environment({}, f"{postgres}/migrated"),
    )
