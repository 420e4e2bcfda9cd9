"""A rejected record is tried again on demand, by a full sync: through the whole pipeline."""

from tests.conftest import Pipeline

PENDING = "select remote_id from rejected_records where resolved_at is null"


def test_a_full_sync_tries_again_what_the_crm_has_not_changed_since(pipeline: Pipeline) -> None:
    key = pipeline.crm.rows()[0]["OptyId"]
    pipeline.crm.poison(key, "huge_number", touch=False)
    assert pipeline.sync()["failed_records"] == 1
    pipeline.crm.heal(key, touch=False)
    assert pipeline.sync("--full-refresh")["failed_records"] == 0
    assert pipeline.query(PENDING) == []
    assert len(pipeline.query("select from opportunities where remote_id = %s", str(key))) == 1
