"""The whole pipeline, run like a user does: from the CRM's REST API to public.opportunities."""

import json
import re
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from oracle_crm_sandbox import PASSWORD

from tests.conftest import Pipeline, as_column, assert_equal_to_crm


def test_first_load_then_only_changes(pipeline: Pipeline) -> None:
    pipeline.environment["SYNC_LOCK_TIMEOUT"] = "59"  # so dbt parses the project itself, see warm
    first = pipeline.sync()
    assert first["status"] == "SUCCESS"
    assert first["sync_type"] == "FULL"
    assert (first["total_fetched"], first["new_records"]) == (1000, 1000)
    assert (first["updated_records"], first["failed_records"]) == (0, 0)
    assert first["completed_at"] > first["started_at"]
    assert first["duration_seconds"] > 0
    assert_equal_to_crm(pipeline)

    pipeline.crm.mutate(update=20, create=5)
    pipeline.dbt_log.unlink()
    second = pipeline.sync()
    assert second["sync_type"] == "INCREMENTAL"
    # What is new in each run, such as its id, is no reason for dbt to parse a model again.
    assert "skipping parsing" in pipeline.dbt_log.read_text()
    assert (second["new_records"], second["updated_records"]) == (5, 20)
    assert 25 <= second["total_fetched"] <= 60
    assert_equal_to_crm(pipeline)
    assert len(pipeline.syncs()) == 2


@pytest.mark.usefixtures("synced")
def test_nothing_changed_costs_three_requests_and_few_connections(pipeline: Pipeline) -> None:
    before = pipeline.query("select * from opportunities order by id")
    connections = "select sessions from pg_stat_database where datname = current_database()"
    connected = pipeline.query(connections)[0]["sessions"]
    pipeline.crm.clear_requests()
    run = pipeline.sync()
    # Each costs five round trips. Meltano and dbt keep theirs; four are of dbt's threads.
    assert pipeline.query(connections)[0]["sessions"] - connected <= 20
    assert run["status"] == "SUCCESS"
    assert (run["new_records"], run["updated_records"]) == (0, 0)
    # One for the attributes, one for the changes, one for the list of status codes.
    assert pipeline.crm.requests()["total"] <= 3
    assert pipeline.query("select * from opportunities order by id") == before


change = st.fixed_dictionaries(
    {
        "after_request": st.integers(1, 12),
        "kind": st.sampled_from(["create", "update", "delete", "close", "reopen", "mass"]),
        "count": st.integers(1, 20),
        "seed": st.integers(0, 1000),
    }
)


@settings(
    max_examples=3,
    deadline=None,
    phases=[Phase.generate],  # an example takes seconds, and continues from the last one
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.lists(change, min_size=1, max_size=6),
    touched=st.integers(0, 300),
    concurrency=st.integers(1, 4),
)
def test_after_any_changes_during_a_run_the_next_run_makes_postgresql_equal(
    pipeline: Pipeline, changes: list[dict[str, Any]], touched: int, concurrency: int
) -> None:
    pipeline.crm.settings(page_cap=25)
    pipeline.crm.mass_update(touched)  # so that the run reads several pages, with changes between
    for item in changes:
        number, kind, count = item["after_request"], item["kind"], item["count"]
        if kind == "mass":
            pipeline.crm.after_request(number, "mass-update", {"count": count * 5})
        else:
            pipeline.crm.after_request(number, "mutate", {kind: count, "seed": item["seed"]})
    pipeline.sync(TAP_ORACLE_CRM_CONCURRENCY=str(concurrency))
    pipeline.crm.clear_hooks()
    pipeline.sync()
    reconciled = pipeline.meltano("run", "reconcile")
    assert reconciled.returncode == 0, reconciled.stdout
    assert_equal_to_crm(pipeline)


@pytest.mark.usefixtures("synced")
def test_the_bid_teams_status_survives_everything_but_a_closing(pipeline: Pipeline) -> None:
    open_deals = [row for row in pipeline.crm.rows() if row.get("StatusCode") == "OPEN"]
    chosen = str(open_deals[0]["OptyId"])
    (before,) = pipeline.query(
        "update opportunities set workflow_status = 'UNDER_ASSESSMENT' where remote_id = %s"
        " returning id, first_synced_at",
        chosen,
    )

    def row() -> dict[str, Any]:
        return pipeline.query("select * from opportunities where remote_id = %s", chosen)[0]

    for round_ in range(2):
        pipeline.crm.update(int(chosen), Name=f"Renamed {round_}")
        pipeline.sync()
        assert row()["name"] == f"Renamed {round_}"
        assert row()["workflow_status"] == "UNDER_ASSESSMENT"
    assert pipeline.meltano("invoke", "dbt-postgres", "run", "--full-refresh").returncode == 0
    assert row()["workflow_status"] == "UNDER_ASSESSMENT"
    full = pipeline.sync("--full-refresh")
    assert full["sync_type"] == "FULL"
    assert full["total_fetched"] == 1000
    assert row()["workflow_status"] == "UNDER_ASSESSMENT"
    pipeline.query("drop schema raw cascade")
    pipeline.query("drop schema staging cascade")
    pipeline.sync("--full-refresh")
    assert row()["workflow_status"] == "UNDER_ASSESSMENT"
    assert {name: row()[name] for name in before} == before

    pipeline.crm.close(int(chosen), "WON")
    pipeline.sync()
    assert row()["workflow_status"] == "WON"
    pipeline.crm.reopen(int(chosen))
    pipeline.sync()
    assert row()["workflow_status"] == "UNDER_ASSESSMENT"
    assert {name: row()[name] for name in before} == before


@pytest.mark.usefixtures("synced")
def test_custom_fields_change_between_runs(pipeline: Pipeline) -> None:
    pipeline.crm.rename_attribute("GEO_c", "Geo_c")
    pipeline.crm.retype_attribute("Practice_c", "integer")
    pipeline.crm.remove_attribute("Sector_c")
    for moved in pipeline.crm.mass_update(40):
        pipeline.crm.update(moved, Geo_c="Atlantis")
    pipeline.sync("--full-refresh")
    rows = {
        int(row["remote_id"]): row
        for row in pipeline.query("select remote_id, geo, practice, sector from opportunities")
    }
    assert len(rows) == 1000
    for theirs in pipeline.crm.rows():
        ours = rows[theirs["OptyId"]]
        assert ours["geo"] == as_column("GEO_c", theirs.get("Geo_c"))
        assert ours["practice"] == as_column("Practice_c", theirs.get("Practice_c"))

    # Another customer has other names: there is one setting for each.
    pipeline.crm.add_attribute("Offering_c", "string", values=["Cloud", "Data"])
    pipeline.sync("--full-refresh", ORACLE_PRACTICE_FIELD="Offering_c")
    practices = pipeline.query("select distinct practice from opportunities order by 1")
    assert [row["practice"] for row in practices] == ["Cloud", "Data"]


def test_owners_get_their_names_where_resources_are_read(pipeline: Pipeline) -> None:
    selected = ["opportunities.*", "rejected_records.*", "resources.*"]
    pipeline.sync(TAP_ORACLE_CRM__SELECT=json.dumps(selected))
    named = pipeline.query(
        "select opportunities.remote_id, sales_owners.name from opportunities"
        " join sales_owners on sales_owners.remote_id = sales_owner"
    )
    people = {row["PartyId"]: row["PartyName"] for row in pipeline.crm.rows("resources")}
    deals = {str(row["OptyId"]): row.get("OwnerResourcePartyId") for row in pipeline.crm.rows()}
    assert len(named) > 900
    for row in named:
        assert row["name"] == people[deals[row["remote_id"]]]

    # Who was erased does not come back, although the CRM sends the name again.
    owner = next(deal for deal in deals.values() if deal is not None)
    pipeline.query("select erase_sales_owner(%s)", str(owner))
    pipeline.sync("--full-refresh", TAP_ORACLE_CRM__SELECT=json.dumps(selected))
    left = {
        int(row["remote_id"]): row["name"]
        for row in pipeline.query("select remote_id, name from sales_owners")
    }
    assert left == people | {owner: None}
    kept = pipeline.query(
        """
        select distinct "OwnerResourcePartyId" as owner, "PartyName1" is null as is_erased
        from raw.opportunities where "OwnerResourcePartyId" is not null
        """
    )
    assert {row["owner"] for row in kept if row["is_erased"]} == {owner}


@pytest.mark.parametrize(
    ("settings", "said", "runs"),
    [
        ({"ORACLE_PASS": "wrong-password-1"}, "ORACLE_PASS", 1),
        ({"ORACLE_BASE_URL": "http://127.0.0.1:1"}, "ORACLE_BASE_URL", 1),
        ({"ORACLE_BASE_URL": ""}, "ORACLE_BASE_URL", 1),
        ({"TAP_ORACLE_CRM_FINDER": "MyOpportunitiesFinder;RecordSet='MYOPTIES'"}, "finder", 1),
        ({"TAP_ORACLE_CRM_FINDER": "MyOpportunitiesFinder;RecordSet='TYPO'"}, "record set", 1),
        ({"TAP_ORACLE_CRM_PAGE_SIZE": "many"}, "page_size must be a whole number", 1),
        ({"DATABASE_URL": "postgresql://nobody:secret-1@127.0.0.1:1/none"}, "DATABASE_URL", 0),
        ({"DATABASE_URL": "mysql://127.0.0.1/none"}, "DATABASE_URL", 0),
    ],
)
def test_a_wrong_setting_is_named(
    pipeline: Pipeline, settings: dict[str, str], said: str, runs: int
) -> None:
    done = pipeline.meltano(
        "run", "tap-oracle-crm", "target-postgres", "dbt-postgres:run", **settings
    )
    assert done.returncode != 0
    assert said in done.stdout
    assert "wrong-password-1" not in done.stdout
    assert "secret-1" not in done.stdout
    assert pipeline.query("select count(*) as n from opportunities") == [{"n": 0}]
    logged = pipeline.syncs()
    assert len(logged) == runs
    for run in logged:
        assert (run["status"], run["sync_type"]) == ("FAILED", "FULL")
        assert said in run["error_message"]
        assert "Traceback" not in run["error_message"]


def test_no_secret_is_written_anywhere(pipeline: Pipeline) -> None:
    done = pipeline.meltano("--log-level=debug", "run", "tap-oracle-crm", "target-postgres")
    assert done.returncode == 0
    database_password = re.search(r":([^:@]+)@", pipeline.database)
    assert database_password
    for secret in (PASSWORD, database_password[1]):
        assert secret not in done.stdout
        for table in ("meltano.runs", "meltano.state", "sync_runs", "meltano.plugin_settings"):
            rows = pipeline.query(f"select t::text as row from {table} as t")  # noqa: S608
            assert not [row for row in rows if secret in row["row"]]
