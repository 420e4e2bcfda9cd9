"""A reconcile reads and compares everything: it proves that PostgreSQL equals the CRM."""

from typing import Any

import pytest

from tests.conftest import Pipeline, assert_equal_to_crm, wait_until

FOUND = """
select found.*, reconciliation_in_words(found) as words
from reconciliations as found join run_logs using (run_id)
order by run_logs.id desc limit 1
"""
# The place of a row and the transaction that wrote it: a write changes both.
WRITTEN = """
select array_agg((ctid, xmin)::text order by "OptyId") as rows from raw.opportunities
union all
select array_agg((ctid, xmin)::text order by id) from opportunities
"""


def reconcile(pipeline: Pipeline, **environment: str) -> dict[str, Any]:
    """Run the reconcile, check that it succeeds, and return its result."""
    done = pipeline.meltano("run", "reconcile", **environment)
    assert done.returncode == 0, done.stdout
    (found,) = pipeline.query(FOUND)
    assert f"Reconcile: {found['words']}" in done.stdout
    return found


@pytest.mark.usefixtures("synced")
def test_changes_without_a_new_change_time_are_corrected_and_reported(pipeline: Pipeline) -> None:
    before = pipeline.query(WRITTEN)
    assert reconcile(pipeline)["words"] == "1,000 compared: 0 corrected, 0 new, 0 gone"
    assert pipeline.query(WRITTEN) == before, "an unchanged row costs no write"

    rows = pipeline.crm.rows()
    for row in rows[:11]:
        pipeline.crm.update(
            row["OptyId"], at=row["LastUpdateDate"], TargetPartyName="Example (renamed)"
        )
    pipeline.crm.update(rows[11]["OptyId"], at=rows[11]["LastUpdateDate"], SalesStage="New name")
    # This is also true for deals to which the account just got access.
    for _ in range(3):
        pipeline.crm.create(at="2020-01-01T00:00:00Z")
    gone = [row["OptyId"] for row in rows[20:22]]
    for key in gone:
        pipeline.crm.delete(key)
    run = pipeline.sync()
    assert (run["new_records"], run["updated_records"]) == (0, 0)
    # The next sync would have read this change.
    pipeline.crm.update(rows[30]["OptyId"], Name="Changed since the last sync")

    found = reconcile(pipeline)
    assert found["words"] == (
        "1,001 compared: 12 corrected (11 customer, 1 stage), 3 new, 2 gone, "
        "1 changed since the last sync"
    )
    assert (found["missed"], found["failed"]) == (0, 0)
    assert_equal_to_crm(pipeline)
    marked = pipeline.query("select remote_id from opportunities where deleted_at is not null")
    assert {int(row["remote_id"]) for row in marked} == set(gone)
    assert len(pipeline.syncs()) == 2, "a reconcile is not a sync"


@pytest.mark.usefixtures("synced")
def test_changes_that_a_sync_missed_are_reported(pipeline: Pipeline) -> None:
    (chosen, *_) = pipeline.crm.rows()
    # As if a sync had missed the deal's last change.
    for table, column, key in (
        ("raw.opportunities", '"LastUpdateDate"', '"OptyId"::text'),
        ("opportunities", "remote_updated_at", "remote_id"),
    ):
        pipeline.query(
            f"update {table} set {column} = '2019-01-01Z' where {key} = %s",  # noqa: S608
            str(chosen["OptyId"]),
        )
    pipeline.query(
        "update opportunities set name = 'old' where remote_id = %s", str(chosen["OptyId"])
    )
    found = reconcile(pipeline)
    assert found["missed"] == 1
    assert found["words"] == (
        "1,000 compared: 1 corrected (1 name), 0 new, 0 gone. "
        "A sync should have brought 1 of the corrected deals"
    )
    assert_equal_to_crm(pipeline)


@pytest.mark.usefixtures("synced")
def test_deleted_deals_are_marked_and_come_back(pipeline: Pipeline) -> None:
    gone = pipeline.crm.mutate(delete=30)["deleted"]
    # One exists but can't be loaded, one can't be shown; of another, not even the key can be read.
    bad, keyless, hidden = (row["OptyId"] for row in pipeline.crm.rows()[:3])
    pipeline.crm.poison(bad, "huge_number")
    pipeline.crm.poison(keyless, "null_id")
    pipeline.crm.poison(hidden, "error_500")
    found = reconcile(pipeline)
    assert (found["gone"], found["failed"]) == (30, 3)
    marked = pipeline.query("select remote_id from opportunities where deleted_at is not null")
    assert {int(row["remote_id"]) for row in marked} == set(gone)

    # A sync and a full refresh of dbt keep the marks.
    pipeline.crm.heal(bad)
    pipeline.crm.heal(keyless)
    pipeline.crm.heal(hidden)
    pipeline.sync()
    assert pipeline.meltano("invoke", "dbt-postgres", "run", "--full-refresh").returncode == 0
    assert_equal_to_crm(pipeline)

    # One comes back: the CRM restored it, unchanged.
    pipeline.crm.create(OptyId=gone[0], at="2020-01-01T00:00:00Z")
    reconcile(pipeline)
    assert_equal_to_crm(pipeline)


@pytest.mark.usefixtures("synced")
def test_a_mass_deletion_is_refused(pipeline: Pipeline) -> None:
    pipeline.crm.mutate(delete=300)
    done = pipeline.meltano("run", "reconcile")
    assert done.returncode != 0
    assert "Refused to mark 300 of 1000 opportunities as deleted" in done.stdout
    unmarked = "select count(*) as n from opportunities where deleted_at is null"
    assert pipeline.query(unmarked) == [{"n": 1000}]
    assert pipeline.query("select status from run_logs where kind = 'reconcile'") == [
        {"status": "FAILED"}
    ]

    assert reconcile(pipeline, SYNC_MAX_DELETED_SHARE="0.5")["gone"] == 300
    assert pipeline.query(unmarked) == [{"n": 700}]


def test_a_read_of_less_than_everything_proves_nothing(pipeline: Pipeline) -> None:
    rows = pipeline.crm.rows()
    pipeline.crm.poison(rows[0]["OptyId"], "null_id")
    pipeline.sync()
    open_rejects = "select count(*) as n from rejected_records where resolved_at is null"
    assert pipeline.query(open_rejects) == [{"n": 1}]
    pipeline.crm.heal(rows[0]["OptyId"], touch=False)
    gone = rows[1]["OptyId"]
    pipeline.crm.delete(gone)

    # A run for one key, and a run that the time limit stops, did not read all other deals.
    one = {"TAP_ORACLE_CRM_FILTER": f"OptyId = {rows[2]['OptyId']}"}
    pipeline.sync("--state-id-suffix=one", **one)
    done = pipeline.meltano(
        "run",
        "--state-id-suffix=one",
        "reconcile",
        **{
            f"TAP_ORACLE_CRM_COMPLETE_{name.removeprefix('TAP_ORACLE_CRM_')}": value
            for name, value in one.items()
        }
        | one,
    )
    assert done.returncode == 0, done.stdout
    assert "what is gone is not known" in done.stdout
    pipeline.sync()
    assert pipeline.query(open_rejects) == [{"n": 1}]
    assert pipeline.query("select from opportunities where deleted_at is not null") == []

    found = reconcile(pipeline)
    assert found["gone"] == 1
    assert pipeline.query(open_rejects) == [{"n": 0}]
    assert_equal_to_crm(pipeline)


@pytest.mark.usefixtures("synced")
def test_a_killed_reconcile_does_not_delay_the_next_one(pipeline: Pipeline) -> None:
    gone = pipeline.crm.mutate(delete=30)["deleted"]
    pipeline.crm.fault("latency", ms=10_000)
    killed = pipeline.start("reconcile")
    running = "select from meltano.runs where state = 'RUNNING'"
    wait_until(lambda: pipeline.query(running))
    killed.kill()
    killed.wait()
    assert pipeline.query(running), "it had no time to record its end"

    pipeline.crm.clear_faults()
    assert reconcile(pipeline)["gone"] == len(gone)
    assert pipeline.query(running) == []
    assert pipeline.query(
        "select end_reason from run_logs where kind = 'reconcile' order by id"
    ) == [{"end_reason": "died"}, {"end_reason": "done"}]
