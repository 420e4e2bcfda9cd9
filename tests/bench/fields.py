"""What 500 declared fields cost: lists, `make check` and syncs, beside the same without them.

`python -m tests.bench.fields` writes docs/benchmark-fields.md.

SQL creates the deals of lists and checks, in `raw` and merged. Syncs read two sandboxes that send
about as many bytes: many deals without further fields, and few with 500.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import httpx
import psutil
import psycopg
import yaml
from oracle_crm_sandbox import Sandbox

from api.auth import Role
from api.token import make_token
from database.embedded import start_embedded, stop_embedded
from database.environment import ROOT
from declared.fields import BUILT_IN
from tests.api.conftest import fill
from tests.bench.measure import run
from tests.conftest import PIPELINE

PAGE = ROOT / "docs" / "benchmark-fields.md"
FIELDS, LISTED, FILTERED = 500, 6, 40
DEALS = 100_000
REQUESTS, ROUNDS = 50, 5
SYNCS = 3
SYNCED_PLAIN, SYNCED = 40_000, 2_000

SELECTED = [
    *(field.attribute for field in BUILT_IN.values()),
    *("OptyId", "StageStatusCd", "PartyName1"),
]
"""The attributes that a sync reads without further fields."""
TYPES: dict[str, tuple[str, list[object]]] = {
    "text": ("string", ["North", "South", None, "Somewhere else"]),
    "number": ("number", [1, 2500.5, None, 1_000_000]),
    "date": ("date", ["2026-12-01", None, "2027-06-30"]),
    "boolean": ("boolean", [True, False, None]),
    "list": ("array", [["Cloud", "Data"], ["Data"], None]),
}
PAGES = {
    "the console's list": "/opportunities",
    "the same, searched": "/opportunities?search=cloud",
    "the API's list": "/api/opportunities?limit=50&sort=-deal_value",
}


def attributes() -> Iterator[tuple[str, str]]:
    """Name and type of each field's attribute."""
    types = list(TYPES)
    for number in range(FIELDS):
        yield f"Field{number}_c", types[number % len(types)]


def declaration(folder: Path, *, own: bool) -> Path:
    """Write a crm.yml."""
    fields: list[object] = [
        {"attribute": one.attribute, "name": one.name} for one in BUILT_IN.values()
    ]
    if own:
        fields += [
            {
                "attribute": name,
                "type": type_,
                "filter": number < FILTERED,
                "sort": number < FILTERED and type_ != "list",
                "place": "list" if number < LISTED else "deal",
            }
            for number, (name, type_) in enumerate(attributes())
        ]
    file = folder / f"crm-{FIELDS if own else 0}.yml"
    file.write_text(yaml.safe_dump({"fields": fields}))
    return file


# A thousand different sets of values, each of many deals.
VALUES = """
create table drafts as
select
    n,
    jsonb_object_agg(
        'Field' || k || '_c',
        case k %% 5
            when 0 then to_jsonb('Value ' || n * k %% 50)
            when 1 then to_jsonb(n * k %% 100000)
            when 2 then to_jsonb(date '2026-01-01' + n * k %% 700)
            when 3 then to_jsonb(n * k %% 3 = 0)
            else jsonb_build_array('Choice ' || n * k %% 9, 'Choice ' || n * k %% 7)
        end
    ) as attributes,
    jsonb_object_agg(
        'field' || k,
        case k %% 5
            when 0 then to_jsonb('Value ' || n * k %% 50)
            when 1 then to_jsonb(n * k %% 100000)
            when 2 then to_jsonb(date '2026-01-01' + n * k %% 700)
            when 3 then to_jsonb(n * k %% 3 = 0)
            else jsonb_build_array('Choice ' || n * k %% 9, 'Choice ' || n * k %% 7)
        end
    ) as fields
from generate_series(0, 999) as n, generate_series(0, %(fields)s - 1) as k
group by n
"""
GIVE = """
update opportunities set custom = drafts.fields from drafts where id %% 1000 = drafts.n
"""
LOAD = """
insert into raw.opportunities (
    "OptyId", "OptyNumber", "Name", "TargetPartyName", "Revenue", "CurrencyCode", "WinProb",
    "SalesStage", "StatusCode", "EffectiveDate", "LastUpdateDate", custom
)
select
    remote_id::bigint, opty_number, name, customer, deal_value, currency, win_probability,
    stage, status_code, close_date, remote_updated_at, drafts.attributes
from opportunities
left join drafts on id %% 1000 = drafts.n
"""
# As after a merge: what a check looks at depends on it.
MERGED = """
insert into merge_marks (model, merging_until, merged_until)
select 'rejected_records', batch, batch from load_fence
"""


@dataclass(frozen=True)
class Side:
    """A database with deals, and the declaration that belongs to it."""

    url: str
    file: Path

    @property
    def environment(self) -> dict[str, str]:
        return os.environ | {"DATABASE_URL": self.url, "CRM_FILE": str(self.file)}

    def set_up(self) -> None:
        """Do what `make setup` does."""
        for module in (["database", "migrate"], ["declared"]):
            subprocess.run(
                [sys.executable, "-m", *module],
                cwd=ROOT,
                env=self.environment,
                check=True,
                stdout=subprocess.DEVNULL,
            )


def sides(url: str, folder: Path, name: str) -> dict[int, Side]:
    """Create two databases; by the number of own fields."""
    made = {}
    for count in (0, FIELDS):
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(f"create database {name}_{count}")
        made[count] = Side(
            f"{url.rpartition('/')[0]}/{name}_{count}",
            declaration(folder, own=bool(count)),
        )
        made[count].set_up()
    return made


@contextmanager
def served(side: Side, port: int) -> Iterator[tuple[httpx.Client, psutil.Process]]:
    """Serve a database; a client of it, and the process."""
    process = subprocess.Popen(
        [sys.executable, "-m", "api"],
        cwd=ROOT,
        env=side.environment | {"API_PORT": str(port)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    token = make_token(side.url, Role.VIEWER, timedelta(hours=1))
    try:
        with httpx.Client(
            base_url=f"http://127.0.0.1:{port}", headers={"Authorization": f"Bearer {token}"}
        ) as client:
            deadline = time.monotonic() + 60
            while True:
                try:
                    client.get("/health/live")
                    break
                except httpx.ConnectError:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.1)
            yield client, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def cpu(process: psutil.Process) -> float:
    """CPU seconds of a process and its children, those that have ended too."""
    alive = sum(sum(child.cpu_times()[:2]) for child in process.children(recursive=True))
    return float(sum(process.cpu_times()[:4]) + alive)


def lists(made: Mapping[int, Side], postmaster: psutil.Process) -> dict[str, dict[int, float]]:
    """CPU milliseconds of a page, of the API and PostgreSQL together; by turns, medians."""
    with served(made[0], 8781) as plain, served(made[FIELDS], 8782) as declared:
        found: dict[str, dict[int, list[float]]] = {page: {0: [], FIELDS: []} for page in PAGES}
        for turn in range(ROUNDS + 1):
            for page, path in PAGES.items():
                for count, (client, process) in ((0, plain), (FIELDS, declared)):
                    before = cpu(postmaster) + cpu(process)
                    for _ in range(REQUESTS):
                        client.get(path).raise_for_status()
                    time.sleep(0.1)
                    after = cpu(postmaster) + cpu(process)
                    if turn:  # the first is to warm up
                        found[page][count].append((after - before) / REQUESTS * 1000)
    return {
        page: {count: statistics.median(times) for count, times in both.items()}
        for page, both in found.items()
    }


def check(side: Side, crm: Sandbox, postmaster: psutil.Process) -> float:
    """CPU seconds of `make check`."""
    done = run(
        [sys.executable, "-m", "orchestrate.check"],
        side.environment | crm.env,
        {"database": postmaster.pid},
    )
    return done.cpu + done.servers["database"]


def synced(side: Side, crm: Sandbox, folder: Path, postmaster: psutil.Process) -> float:
    """CPU seconds per megabyte of a first sync, without the CRM's own."""
    with psycopg.connect(side.url, autocommit=True) as connection:
        connection.execute(
            "truncate raw.opportunities, raw.read_keys, opportunities, merge_marks cascade"
        )
    done = run(
        [Path(sys.executable).with_name("meltano"), "run", "--full-refresh", *PIPELINE],
        side.environment | crm.env | {"DBT_TARGET_PATH": str(folder), "DBT_LOG_PATH": str(folder)},
        {"database": postmaster.pid},
    )
    return (done.cpu + done.servers["database"]) / size(crm) * 1e6


def size(crm: Sandbox) -> int:
    """Bytes of all deals as a sync asks for them, before compression."""
    own = [name for name in crm.rows()[0] if name.startswith("Field")]
    rows = crm.rows(fields=[*SELECTED, *own])
    return len(json.dumps(rows, separators=(",", ":"), ensure_ascii=False).encode())


def measure(url: str, folder: Path, postmaster: psutil.Process) -> list[str]:
    """Measure all, and return the lines of the page."""
    filled = sides(url, folder, "filled")
    for count, side in filled.items():
        fill(side.url, DEALS)
        with psycopg.connect(side.url, autocommit=True) as connection:
            connection.execute(VALUES, {"fields": FIELDS})
            if count:
                connection.execute(GIVE, {})
            connection.execute(LOAD, {})
            connection.execute(MERGED)
            connection.execute("vacuum analyze")
        side.set_up()  # the indexes
    pages = lists(filled, postmaster)
    with Sandbox(records=SYNCED_PLAIN) as plain, Sandbox(records=SYNCED) as declared:
        for name, type_ in attributes():
            kind, values = TYPES[type_]
            declared.add_attribute(name, kind, values)
        checks = {count: check(side, declared, postmaster) for count, side in filled.items()}
        loaded = sides(url, folder, "loaded")
        rates: dict[int, list[float]] = {0: [], FIELDS: []}
        for _ in range(SYNCS):
            for count, crm in ((0, plain), (FIELDS, declared)):
                rates[count].append(synced(loaded[count], crm, folder / f"dbt-{count}", postmaster))
    synced_rates = {count: statistics.median(found) for count, found in rates.items()}
    return [
        "# What 500 declared fields cost",
        "",
        "<!-- Written by `python -m tests.bench.fields`; do not edit. -->",
        "",
        f"{DEALS:,} deals with values in {FIELDS} fields of crm.yml, {LISTED} of them columns of "
        f"the\ntable and {FILTERED} filters, beside the same deals without own fields. CPU of the "
        "API and\nPostgreSQL, in milliseconds a page; of a sync, in seconds for each megabyte of "
        "JSON that the\nCRM sends, the CRM's own left out. Measured by turns; medians.",
        "",
        f"| | without | {FIELDS} fields | ratio | at most | |",
        "| --- | ---: | ---: | ---: | ---: | --- |",
        *(_line(name, found, 1.5, ".1f") for name, found in pages.items()),
        _line("a first sync", synced_rates, 1.2, ".3f"),
        "",
        f"`make check` takes {checks[FIELDS]:.1f} CPU seconds, and {checks[0]:.1f} without the "
        "fields.",
        "",
    ]


def _line(name: str, found: Mapping[int, float], most: float, form: str) -> str:
    ratio = found[FIELDS] / found[0]
    verdict = "met" if ratio <= most else "**missed**"
    return (
        f"| {name} | {found[0]:{form}} | {found[FIELDS]:{form}} | **{ratio:.2f}** | {most} "
        f"| {verdict} |"
    )


def main() -> None:
    """Measure, print and write the page."""
    with tempfile.TemporaryDirectory(prefix="bench-") as name:
        folder = Path(name)
        cluster = folder / "postgres"
        url = start_embedded(cluster)
        try:
            postmaster = psutil.Process(int((cluster / "postmaster.pid").read_text().split()[0]))
            lines = measure(url, folder, postmaster)
        finally:
            stop_embedded(cluster)
    PAGE.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
