"""Deletes leave no trace in the CRM: a pass over all keys finds them."""

import subprocess

from orchestrate.settings import ROOT
from tests.conftest import BIN, Pipeline, assert_equal_to_crm, wait_until


def test_deleted_deals_are_marked_and_come_back(pipeline: Pipeline) -> None:
    pipeline.sync()
    gone = pipeline.crm.mutate(delete=30)["deleted"]
    # The pass leaves alone what was loaded within a minute before it.
    pipeline.query("update opportunities set last_synced_at = now() - interval '1 hour'")
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


def test_a_mass_deletion_is_refused(pipeline: Pipeline) -> None:
    pipeline.sync()
    pipeline.query("update opportunities set last_synced_at = now() - interval '1 hour'")
    pipeline.crm.mutate(delete=300)
    done = pipeline.meltano("run", "reconcile")
    assert done.returncode != 0
    assert "Refused to mark 300 of 1000 opportunities as deleted" in done.stdout
    unmarked = "select count(*) as n from opportunities where deleted_at is null"
    assert pipeline.query(unmarked) == [{"n": 1000}]

    done = pipeline.meltano("run", "reconcile", SYNC_MAX_DELETED_SHARE="0.5")
    assert done.returncode == 0, done.stdout
    assert pipeline.query(unmarked) == [{"n": 700}]


def test_a_killed_reconcile_does_not_delay_the_next_one(pipeline: Pipeline) -> None:
    pipeline.sync()
    pipeline.query("update opportunities set last_synced_at = now() - interval '1 hour'")
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


def running(pipeline: Pipeline) -> list[dict[str, object]]:
    return pipeline.query("select job_name from meltano.runs where state = 'RUNNING'")
