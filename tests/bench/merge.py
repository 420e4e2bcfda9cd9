"""The time of a merge: 1,000 changed deals among 10,000 and among 1,000,000, in one run.

`python -m tests.bench.merge` writes docs/benchmark-merge.md. SQL creates the same raw rows as the
loader. It measures the `dbt run` of `dbt-postgres:run`.
"""

import os
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from pathlib import Path

import psycopg

from database.address import libpq_environment
from database.embedded import start_embedded, stop_embedded
from database.environment import DBT_SETTINGS, ROOT

REPEATS = 5
CHANGED = 1000
PAGE = ROOT / "docs" / "benchmark-merge.md"

# Each batch of the loader, 10,000 rows, has one number.
FILL = """
    insert into raw.opportunities (
        "OptyId", "OptyNumber", "Name", "TargetPartyName", "Revenue", "CurrencyCode", "WinProb",
        "SalesStage", "StatusCode", "EffectiveDate", "OwnerResourcePartyId", "CreationDate",
        "LastUpdateDate", custom, _loaded_in
    )
    select
        300000000000000 + 3 * n, 'OPTY-' || n, 'Deal ' || n, 'Customer ' || n %% 5000,
        n * 1.5, 'EUR', n %% 101, '0' || n %% 6 || ' - Stage',
        (array['OPEN', 'OPEN', 'OPEN', 'WON', 'LOST'])[1 + n %% 5],
        date '2026-01-01' + n %% 400, 3000 + n %% 90,
        timestamptz '2025-01-01Z' + n * interval '1 s',
        timestamptz '2025-06-01Z' + n * interval '1 s', '{"Practice_c": "Cloud"}',
        load_fence.batch + 1 + n / 10000
    from load_fence, generate_series(%(first)s::int, %(last)s::int) as n
"""
COUNT = "update load_fence set batch = (select max(_loaded_in) from raw.opportunities)"
# The trigger on the table sets the batch number, as for the loader.
CHANGE = """
    update raw.opportunities
    set "Revenue" = "Revenue" + 1
    where "OptyId" = any(
        select 300000000000000 + 3 * n
        from generate_series(%(step)s::int, %(rows)s::int, %(step)s::int) as n
    )
"""


class Merges:
    """A database of raw rows, and dbt on it."""

    def __init__(self, url: str, scratch: Path) -> None:
        self.connection = psycopg.connect(url, autocommit=True)
        self.environment = (
            os.environ
            | libpq_environment(url)
            | DBT_SETTINGS
            | {
                "DBT_TARGET_PATH": str(scratch),
                "DBT_LOG_PATH": str(scratch),
                "DBT_PROJECT_DIR": str(ROOT / "transform"),
                "DBT_PROFILES_DIR": str(ROOT / "transform"),
            }
        )

    def merge(self) -> float:
        """Run dbt like a sync; return the seconds."""
        begin = time.monotonic()
        subprocess.run(
            [
                Path(sys.executable).with_name("dbt-frozen"),
                "--no-write-json",
                "run",
                "--exclude",
                "tag:reconcile",
            ],
            env=self.environment | {"MELTANO_RUN_ID": str(uuid.uuid4())},
            check=True,
            stdout=subprocess.DEVNULL,
        )
        return time.monotonic() - begin

    def changed(self, rows: int) -> float:
        """Change a number of deals and merge them, several times; return the median in seconds."""
        times = []
        for _ in range(REPEATS):
            self.connection.execute(CHANGE, {"step": rows // CHANGED, "rows": rows})
            times.append(self.merge())
            counted = self.connection.execute(
                "select updated_records from sync_runs order by id desc limit 1"
            ).fetchone()
            assert counted == (CHANGED,), counted
        return statistics.median(times)


def main() -> None:
    """Measure, print and write the page."""
    with tempfile.TemporaryDirectory(prefix="postgres-") as folder:
        cluster = Path(folder) / "postgres"
        url = start_embedded(cluster)
        try:
            subprocess.run(
                [sys.executable, "-m", "database", "migrate"],
                cwd=ROOT,
                check=True,
                env=os.environ | {"DATABASE_URL": url},
            )
            merges = Merges(url, Path(folder) / "dbt")
            seconds, first = {}, 1
            for rows in (10_000, 1_000_000):
                merges.connection.execute(FILL, {"first": first, "last": rows})
                merges.connection.execute(COUNT)
                load = merges.merge()
                seconds[rows] = load, merges.changed(rows), merges.merge()
                first = rows + 1
            merges.connection.close()
        finally:
            stop_embedded(cluster)
    ratio = seconds[1_000_000][1] / seconds[10_000][1]
    lines = [
        "# What a merge costs",
        "",
        "<!-- Written by `make bench`; do not edit. -->",
        "",
        f"Seconds of `dbt run`, process start included; medians of {REPEATS}.",
        "",
        "| deals | first merge | 1,000 changed | nothing changed |",
        "| ---: | ---: | ---: | ---: |",
        *(
            f"| {rows:,} | {load:.2f} | {changed:.2f} | {nothing:.2f} |"
            for rows, (load, changed, nothing) in seconds.items()
        ),
        "",
        f"1,000 changed of 1,000,000 take {ratio:.2f} times what 1,000 of 10,000 take; "
        f"at most 1.5 is asked for: {'met' if ratio <= 1.5 else '**missed**'}.",
        "",
    ]
    PAGE.write_text("\n".join(lines))
    print("\n".join(lines))


if __name__ == "__main__":
    main()
