"""The log adds up: every fetched record counts once, as new, updated, unchanged or failed."""

from typing import Any

import pytest

from tests.conftest import Pipeline

# One kind for each place where a record can fail.
REJECTED_BY_THE_TAP = ("huge_number", "text_as_number", "null_id", "bad_date", "bigint_overflow_id")
REJECTED_BY_A_RULE = ("high_prob", "negative_prob")


def adds_up(run: dict[str, Any]) -> bool:
    """Tell whether the total of a run is the sum of its parts."""
    parts = ("new_records", "updated_records", "unchanged_records", "failed_records")
    return bool(run["total_fetched"] == sum(run[part] for part in parts))


def numbers(run: dict[str, Any]) -> tuple[int, ...]:
    names = ("total", "new", "updated", "unchanged", "failed")
    assert adds_up(run), run
    return tuple(run["total_fetched" if name == "total" else f"{name}_records"] for name in names)


def test_every_record_is_counted_once(pipeline: Pipeline) -> None:
    keys = [row["OptyId"] for row in pipeline.crm.rows()]
    bad = dict(zip(REJECTED_BY_THE_TAP + REJECTED_BY_A_RULE, keys, strict=False))
    for kind, key in bad.items():
        pipeline.crm.poison(key, kind)
    assert numbers(pipeline.sync()) == (1000, 993, 0, 0, 7)

    # A complete read: the other records are unchanged, and failed records fail again.
    pipeline.crm.update(keys[20], Name="Changed")
    assert numbers(pipeline.sync("--full-refresh")) == (1000, 0, 1, 992, 7)

    # Some are corrected, one good record becomes bad, and one is deleted.
    for kind in ("huge_number", "null_id", "high_prob"):
        pipeline.crm.heal(bad[kind])
    pipeline.crm.poison(keys[30], "far_date")
    pipeline.crm.fault("latency", ms=100)  # time to tell other runs of its calls
    run = pipeline.sync("--full-refresh", TAP_ORACLE_CRM_PAGE_SIZE="25")
    assert numbers(run) == (1000, 3, 0, 992, 5)
    pipeline.crm.clear_faults()
    # A run with few calls, like those before, does not.
    assert [row["calls"] >= 20 for row in pipeline.query("select calls from crm_calls")] == [True]

    # A run that ended between load and merge leaves its records to the next one.
    pipeline.crm.mutate(update=10, seed=7)
    assert pipeline.meltano("run", "tap-oracle-crm", "target-postgres").returncode == 0
    run = pipeline.sync()
    total, new, updated, _, failed = numbers(run)
    assert total >= 10
    assert new == 0
    assert updated + failed >= 9  # one of the changed records may be a bad one

    found = pipeline.meltano("run", "reconcile")
    assert found.returncode == 0, found.stdout
    (reconciled,) = pipeline.query("select * from run_logs where kind = 'reconcile'")
    assert numbers(reconciled) == (1000, 0, 0, 995, 5)
    assert all(adds_up(one) for one in pipeline.syncs() if one["status"] == "SUCCESS")


def test_a_deal_that_the_crm_cannot_show_counts_as_failed(pipeline: Pipeline) -> None:
    bad = [row["OptyId"] for row in pipeline.crm.rows()[::500]]
    for key, kind in zip(bad, ("error_500", "divided_by_zero"), strict=True):
        pipeline.crm.poison(key, kind, touch=False)
    assert numbers(pipeline.sync()) == (1000, 998, 0, 0, 2)
    pipeline.crm.heal(bad[0], touch=False)
    assert numbers(pipeline.sync("--full-refresh")) == (1000, 1, 0, 998, 1)
    assert pipeline.query("select remote_id from rejected_records where resolved_at is null") == [
        {"remote_id": str(bad[1])}
    ]


@pytest.mark.usefixtures("synced")
def test_one_process_of_dbt_for_each_model_loses_nothing(pipeline: Pipeline) -> None:
    keys = [row["OptyId"] for row in pipeline.crm.rows()]
    # Before the lookback, so that a later sync cannot repair it by chance.
    pipeline.crm.update(keys[0], at="2020-01-01T00:00:00Z", WinProb=300)
    pipeline.crm.update(keys[1], at="2020-01-01T00:00:00Z", Name="Changed")
    loaded = pipeline.meltano("run", "--full-refresh", "tap-oracle-crm", "target-postgres")
    assert loaded.returncode == 0, loaded.stdout
    models = ("stg_opportunities", "opportunities", "stg_rejected_records", "rejected_records")
    for model in models:
        done = pipeline.meltano("invoke", "dbt-postgres", "run", "--select", model)
        assert done.returncode == 0, done.stdout
    assert numbers(pipeline.last_sync()) == (1000, 0, 1, 998, 1)
    assert pipeline.query("select remote_id from rejected_records where resolved_at is null") == [
        {"remote_id": str(keys[0])}
    ]
