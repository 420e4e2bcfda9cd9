"""Refresh this deal: one deal is read now, and nothing else changes, not even where syncs go on."""

from typing import Any

import pytest

from runs.control import REFRESH
from tests.conftest import Pipeline


def refresh(pipeline: Pipeline, key: object) -> dict[str, Any]:
    """Run it as the API does, check that it succeeds, and return the run."""
    done = pipeline.meltano(
        "run", "--full-refresh", *REFRESH, TAP_ORACLE_CRM_DEAL_FILTER=f"OptyId = {key}"
    )
    assert done.returncode == 0, done.stdout
    (run,) = pipeline.query("select * from run_logs order by id desc limit 1")
    assert (run["kind"], run["status"], run["end_reason"]) == ("refresh", "SUCCESS", "done")
    return run


def counts(run: dict[str, Any]) -> tuple[int, ...]:
    names = ("new_records", "updated_records", "unchanged_records", "failed_records")
    return tuple(run[name] for name in names)


@pytest.mark.usefixtures("synced")
def test_one_deal_is_read_and_the_next_sync_goes_on_as_before(pipeline: Pipeline) -> None:
    one, other, broken, gone, *_ = pipeline.crm.rows()
    pipeline.crm.poison(broken["OptyId"], "far_date")
    assert pipeline.sync()["failed_records"] == 1
    bookmark = "select bookmark from sync_runs where kind = 'sync' order by id desc limit 1"
    before = pipeline.query(bookmark)
    states = (
        "select completed_state from meltano.state where state_id like '%%:tap-oracle-crm-to-%%'"
    )
    state = pipeline.query(states)
    assert len(state) == 1

    # Its change time stays: no sync would read it.
    pipeline.crm.update(one["OptyId"], at=one["LastUpdateDate"], Name="Renamed")
    pipeline.crm.update(other["OptyId"], Name="Changed, too")
    pipeline.crm.delete(gone["OptyId"])
    assert counts(refresh(pipeline, one["OptyId"])) == (0, 1, 0, 0)
    names = "select name from opportunities where remote_id = %s"
    assert pipeline.query(names, str(one["OptyId"])) == [{"name": "Renamed"}]
    assert pipeline.query(names, str(other["OptyId"])) == [{"name": other["Name"]}]
    assert counts(refresh(pipeline, one["OptyId"])) == (0, 0, 1, 0)
    # What the CRM does not show may be deleted or not shared: only a complete read proves it.
    assert refresh(pipeline, gone["OptyId"])["total_fetched"] == 0
    assert pipeline.query("select * from opportunities where deleted_at is not null") == []

    unresolved = "select remote_id from rejected_records where resolved_at is null"
    assert pipeline.query(unresolved) == [{"remote_id": str(broken["OptyId"])}]
    met_by = "select last_run_id from rejected_records"
    assert pipeline.query(met_by) == [{"last_run_id": pipeline.last_sync()["run_id"]}]
    assert pipeline.query(bookmark) == before
    assert pipeline.query(states) == state
    assert len(pipeline.syncs()) == 2, "a refresh is not a sync"
    pipeline.crm.heal(broken["OptyId"], touch=False)
    assert counts(refresh(pipeline, broken["OptyId"])) == (0, 1, 0, 0)
    assert pipeline.query(unresolved) == []

    sync = pipeline.sync()
    assert sync["sync_type"] == "INCREMENTAL"
    assert pipeline.query(names, str(other["OptyId"])) == [{"name": "Changed, too"}]
