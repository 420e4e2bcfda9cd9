"""Who takes part, and how each is called and its result read."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from psycopg import sql

from orchestrate.settings import DATA, ROOT

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
"""What every contender reads: the selection in `meltano.yml` and the custom fields."""

COLUMNS = ", ".join(f'"{name}" {kind}' for name, kind in FIELDS.items())
PLAIN_TABLE = f'create table opportunities ({COLUMNS}, primary key ("OptyId"))'


@dataclass(frozen=True)
class Contender:
    """One way to do the job.

    Attributes:
        name: short, for the command line and the results.
        title: for people.
        command: `{state}` stands for a folder of its own, `{rows}` for how many rows there are.
        table: schema and name of its result.
        template: the database to begin with; without one, an empty one.
        columns: its name of each field.
        most_rows: larger sizes are left out.
        reads_all: it does the same work whatever has changed, so that only a first load is run.
        repeats: how often it runs at most.
    """

    name: str
    title: str
    command: Sequence[str | Path]
    table: tuple[str, str] = ("public", "opportunities")
    template: str | None = None
    columns: Mapping[str, str] = field(default_factory=lambda: {name: name for name in FIELDS})
    most_rows: int | None = None
    reads_all: bool = False
    repeats: int | None = None

    def takes_part(self, rows: int, scenario: str, repeat: int) -> bool:
        """Tell whether it runs at all."""
        return (
            (self.most_rows is None or rows <= self.most_rows)
            and (self.repeats is None or repeat < self.repeats)
            and not (self.reads_all and scenario != "first load")
        )


def _snake(name: str) -> str:
    """Return the name that dlt gives a column."""
    return "".join(
        f"_{letter.lower()}" if letter.isupper() and before.islower() else letter.lower()
        for before, letter in zip(f"_{name}", name, strict=False)
    )


MELTANO: list[str | Path] = [
    Path(sys.executable).with_name("meltano"), "run", "tap-oracle-crm", "target-postgres",
]  # fmt: skip
CONTENDERS = [
    Contender("project", "this project", MELTANO, ("raw", "opportunities"), "migrated"),
    Contender("chain", "this project, with dbt", [*MELTANO, "dbt-postgres:run"],
              ("raw", "opportunities"), "migrated", repeats=1),
    Contender("dlt", "(a) dlt", [PYTHON, HERE / "dlt_pipeline.py", "{state}", "{rows}"],
              ("crm", "opportunities"), columns={name: _snake(name) for name in FIELDS}),
    Contender("script", "(b) plain script", [PYTHON, HERE / "plain_script.py"], template="plain",
              most_rows=20_000, reads_all=True, repeats=1),
    Contender("limit", "(c) the limit", [PYTHON, HERE / "limit.py"], template="plain"),
]  # fmt: skip


def install() -> None:
    """Make the environment of the other contenders, unless it is there."""
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


def environment(crm: Mapping[str, str], database: str) -> dict[str, str]:
    """Return what a contender finds in its environment: this one's, without its peculiarities."""
    inherited = {
        name: value
        for name, value in os.environ.items()
        # Without compiled files each start would compile this project anew, as no user's does.
        if name != "PYTHONDONTWRITEBYTECODE" and not name.startswith(("ORACLE_", "MELTANO_", "PG"))
    }
    return inherited | dict(crm) | {
        "DATABASE_URL": database,
        "BENCH_FIELDS": ",".join(FIELDS),
        "MELTANO_SYS_DIR_ROOT": str(BENCH / "meltano"),
        "DBT_TARGET_PATH": str(BENCH / "dbt"),
        "DBT_LOG_PATH": str(BENCH / "dbt"),
    }  # fmt: skip


def prepare(postgres: str) -> None:
    """Make the databases that contenders begin with; removes what earlier benchmarks left."""
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
        [sys.executable, "-m", "orchestrate.migrate"], cwd=ROOT, check=True,
        env=environment({}, f"{postgres}/migrated"),
    )  # fmt: skip
