"""Deletes leave no trace in the CRM: a pass over all keys finds them."""

import subprocess
import time
from pathlib import Path

import pytest

from orchestrate.settings import ROOT
from tests.conftest import BIN, Pipeline, assert_equal_to_crm, wait_until
from tests.warehouse import Warehouse


@pytest.mark.usefixtures("synced")
def test_deleted_deals_are_marked_and_come_back(pipeline: Pipeline) -> None:
    gone = pipeline.crm.mutate(delete=30)["deleted"]
    done = pipeline.meltano("run", "reconcile")
    assert done.returncode == 0, done.stdout
    marked = pipeline.query("select remote_id from opportunities where deleted_at is not null")
    assert {int(row["remote_id"]) for row in marked} == set(gone)
    assert_equal_to_crm(pipeline)
    assert len(pipeline.syncs()) == 1, "a reconcile is no sync"

    # A sync and a full refresh of dbt leave the marks, which outlive the raw rows.
    pipeline.sync()
    assert pipeline.meltano("invoke", "dbt-postgres", "run", "--full-refresh").returncode == 0
    assert_equal_to_crm(pipeline)

    # One comes back: the CRM restored it, unchanged.
    pipeline.crm.create(OptyId=gone[0], at="2020-01-01T00:00:00Z")
    assert pipeline.meltano("run", "reconcile").returncode == 0
    (back,) = pipeline.query(
        "select deleted_at from opportunities where remote_id = %s", str(gone[0])
    )
    assert back["deleted_at"] is None


@pytest.mark.usefixtures("synced")
def test_a_mass_deletion_is_refused(pipeline: Pipeline) -> None:
    pipeline.crm.mutate(delete=300)
    done = pipeline.meltano("run", "reconcile")
    assert done.returncode != 0
    assert "Refused to mark 300 of 1000 opportunities as deleted" in done.stdout
    unmarked = "select count(*) as n from opportunities where deleted_at is null"
    assert pipeline.query(unmarked) == [{"n": 1000}]

    done = pipeline.meltano("run", "reconcile", SYNC_MAX_DELETED_SHARE="0.5")
    assert done.returncode == 0, done.stdout
    assert pipeline.query(unmarked) == [{"n": 700}]


@pytest.mark.usefixtures("synced")
def test_a_killed_reconcile_does_not_delay_the_next_one(pipeline: Pipeline) -> None:
    gone = pipeline.crm.mutate(delete=30)["deleted"]
    pipeline.crm.fault("latency", ms=10_000)
    killed = subprocess.Popen(
        [BIN / "meltano", "run", "reconcile"], cwd=ROOT, env=pipeline.environment,
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    wait_until(lambda: running(pipeline))
    killed.kill()
    killed.wait()
    assert running(pipeline), "it had no time to say that it ended"

    pipeline.crm.clear_faults()
    done = pipeline.meltano("run", "reconcile")
    assert done.returncode == 0, done.stdout
    assert not running(pipeline)
    marked = pipeline.query("select remote_id from opportunities where deleted_at is not null")
    assert {int(row["remote_id"]) for row in marked} == set(gone)


def test_what_a_sync_brings_during_the_pass_is_left_alone(
    postgres: str, migrated: str, parsed: Path
) -> None:
    warehouse = Warehouse(postgres, migrated, parsed)
    warehouse.create_raw_tables()
    warehouse.load(*({"OptyId": key} for key in range(1, 13)))
    warehouse.query("update raw.opportunities set _sdc_extracted_at = now() - interval '20 s'")
    warehouse.merge()
    # The first page of the pass takes long, and another clock is an hour ahead.
    began = time.time() - 10
    warehouse.query(
        """
        create table raw.opportunity_keys (
            "OptyId" bigint, _sdc_extracted_at timestamp, _sdc_table_version bigint
        )
        """
    )
    warehouse.query(
        "insert into raw.opportunity_keys select key, clock_timestamp() at time zone 'UTC', %s"
        " from generate_series(1, 9) as key",
        round(began * 1000),
    )
    warehouse.query("update opportunities set last_synced_at = now() + interval '1 hour'")
    warehouse.load({"OptyId": 11, "Name": "read again meanwhile"}, {"OptyId": 13})
    warehouse.query(
        "update raw.opportunities set _sdc_extracted_at = to_timestamp(%s) at time zone 'UTC'"
        """ where "OptyId" in (11, 13)""",
        began + 1,
    )
    warehouse.merge()
    warehouse.query('delete from raw.opportunities where "OptyId" = 12')
    warehouse.query(
        "update opportunities set last_synced_at = now() - interval '1 day' where remote_id = '12'"
    )
    reconcile(warehouse)
    assert marked(warehouse) == [10, 12]

    # Without the raw rows, what is known is when they were merged.
    warehouse.query("drop schema raw cascade; create schema raw")
    warehouse.query(
        'create table raw.opportunity_keys as select 1::bigint as "OptyId",'
        " now() at time zone 'UTC' as _sdc_extracted_at, %s::bigint as _sdc_table_version",
        round(time.time() * 1000),
    )
    warehouse.query(
        "update opportunities set last_synced_at = now() - interval '1 day' where remote_id = '11';"
        "update opportunities set last_synced_at = now() + interval '1 hour' where remote_id = '13'"
    )
    reconcile(warehouse)
    assert marked(warehouse) == [10, 11, 12]


def test_deals_that_no_sync_would_bring_are_told_of(pipeline: Pipeline) -> None:
    pipeline.crm.settings(visible="StatusCode = 'OPEN'")
    few = pipeline.sync()["new_records"]
    pipeline.crm.settings(visible="")
    pipeline.sync()
    missing = 1000 - pipeline.query("select count(*) as n from opportunities")[0]["n"]
    assert 0 < missing <= 1000 - few
    done = pipeline.meltano("run", "reconcile")
    assert done.returncode == 0, done.stdout
    assert f"{missing} of the deals that the CRM shows are not here yet" in done.stdout
    assert "--full-refresh tap-oracle-crm target-postgres dbt-postgres:run" in done.stdout

    pipeline.sync("--full-refresh")
    pipeline.crm.mutate(delete=1)
    done = pipeline.meltano("run", "reconcile")
    assert done.returncode == 0, done.stdout
    assert "not here yet" not in done.stdout
    assert_equal_to_crm(pipeline)


def reconcile(warehouse: Warehouse) -> None:
    done = warehouse.dbt(
        "run", "--select", "tag:reconcile", "stg_opportunity_keys", SYNC_MAX_DELETED_SHARE="1"
    )
    assert done.returncode == 0, done.stdout


def marked(warehouse: Warehouse) -> list[int]:
    rows = warehouse.query("select remote_id from opportunities where deleted_at is not null")
    return sorted(int(row["remote_id"]) for row in rows)


def running(pipeline: Pipeline) -> list[dict[str, object]]:
    return pipeline.query("select job_name from meltano.runs where state = 'RUNNING'")
