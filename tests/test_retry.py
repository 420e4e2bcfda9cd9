"""Rejected records, through the whole pipeline."""

import json

import pytest

from tests.conftest import Pipeline

PENDING = "select remote_id from rejected_records where resolved_at is null"


def test_a_full_sync_retries_rejects_that_did_not_change_in_the_crm(pipeline: Pipeline) -> None:
    key = pipeline.crm.rows()[0]["OptyId"]
    pipeline.crm.poison(key, "huge_number", touch=False)
    assert pipeline.sync()["failed_records"] == 1
    pipeline.crm.heal(key, touch=False)
    assert pipeline.sync("--full-refresh")["failed_records"] == 0
    assert pipeline.query(PENDING) == []
    assert len(pipeline.query("select from opportunities where remote_id = %s", str(key))) == 1


def test_rejects_whose_deals_are_deleted_are_resolved_by_a_reconcile(pipeline: Pipeline) -> None:
    huge, improbable, stays = (row["OptyId"] for row in pipeline.crm.rows()[:3])
    for key in (huge, stays):
        pipeline.crm.poison(key, "huge_number")
    pipeline.crm.update(improbable, WinProb=200)
    assert pipeline.sync()["failed_records"] == 3
    for key in (huge, improbable):
        pipeline.crm.delete(key)
    assert pipeline.meltano("run", "reconcile").returncode == 0
    assert pipeline.query(PENDING) == [{"remote_id": str(stays)}]

    # The next syncs do not forget them.
    for _ in range(2):
        assert pipeline.sync()["failed_records"] == 1, "the one that stays"
        assert pipeline.query(PENDING) == [{"remote_id": str(stays)}]
    assert pipeline.meltano("invoke", "dbt-postgres", "run", "--full-refresh").returncode == 0
    assert pipeline.query(PENDING) == [{"remote_id": str(stays)}]
    built = pipeline.meltano("run", "build")
    assert built.returncode == 0, built.stdout


@pytest.mark.usefixtures("synced")
def test_a_reject_that_names_a_deal_for_its_children_goes_with_the_deal(pipeline: Pipeline) -> None:
    gone, stays = (str(row["OptyId"]) for row in pipeline.crm.rows()[:2])
    pipeline.query(
        "insert into rejected_records (record_key, stream, remote_id, reason, last_seen_at)"
        " select 'revenue_lines:' || id, 'revenue_lines', id, 'bad', now()"
        " from unnest(%s::text[]) as id",
        [gone, stays],
    )
    pipeline.crm.delete(int(gone))
    assert pipeline.meltano("run", "reconcile").returncode == 0
    assert pipeline.query(PENDING) == [{"remote_id": stays}]


def test_rejects_of_other_streams_are_resolved_by_valid_records(pipeline: Pipeline) -> None:
    selected = ["opportunities.*", "accounts.*", "rejected_records.*"]
    account, *_ = pipeline.crm.rows("accounts")
    pipeline.query(
        "insert into rejected_records (record_key, stream, remote_id, reason, last_seen_at)"
        " select 'accounts:' || id, 'accounts', id, 'bad', now() from unnest(%s::text[]) as id",
        [str(account["PartyId"]), "1"],
    )
    pipeline.sync(TAP_ORACLE_CRM__SELECT=json.dumps(selected))
    assert pipeline.query(PENDING) == [{"remote_id": "1"}]
