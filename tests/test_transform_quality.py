"""The data tests find errors, the marts count right, and views block no reader."""

import json
import shutil
import subprocess
import sys
import uuid
from datetime import date
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from dbt_common.behavior_flags import BehaviorFlagRendered

from api.workflow import FROM_CRM, MOVES
from database.environment import ROOT
from orchestrate.dbt_frozen import SCHEMAS
from tests.warehouse import Warehouse, rename_database
from tests.warm import WarmProject


def deal(key: int, **attributes: Any) -> dict[str, Any]:
    """A valid record of the CRM, with the given attributes."""
    return {
        "OptyId": key,
        "Name": f"Deal {key}",
        "Revenue": 100,
        "CurrencyCode": "EUR",
        "WinProb": 50,
        "SalesStage": "01 - Qualification",
        "StatusCode": "OPEN",
        "EffectiveDate": date(2026, 12, 1),
        "LastUpdateDate": "2026-11-01 10:00:00Z",
        "custom": {"Practice_c": "Cloud"},
    } | attributes


@pytest.fixture(scope="module")
def merged(postgres: str, migrated: str, parsed: Path, warm: WarmProject) -> str:
    """The name of a template database with merged deals of each kind."""
    warehouse = Warehouse(postgres, migrated, parsed, warm)
    warehouse.load(
        deal(1),
        deal(2, Revenue=None, WinProb=None),
        deal(3, StatusCode="WON", Revenue=300),
        deal(4, StatusCode="LOST"),
        deal(5, StatusCode="NO_SALE", custom={"Practice_c": None}),
        deal(6, StatusCode="LOST_TO_COMPETITOR"),
        deal(7, WinProb=700),
        deal(8, EffectiveDate=date(2027, 1, 31), CurrencyCode="USD"),
    )
    warehouse.query(
        """
        insert into raw.opportunity_statuses ("LookupCode", "LookupCategory")
        values ('LOST_TO_COMPETITOR', 'LOST');
        insert into raw.rejected_records (id, stream, remote_id, reason, payload, rejected_at)
        values ('a', 'opportunities', '9', 'Revenue: no number', '{}', now())
        """
    )
    warehouse.merge()
    return rename_database(postgres, "test", "merged")


@pytest.fixture
def warehouse(postgres: str, merged: str, parsed: Path, warm: WarmProject) -> Warehouse:
    """A database with merged deals of each kind."""
    return Warehouse(postgres, merged, parsed, warm)


def add_run(warehouse: Warehouse, began: str, seconds: float, **columns: Any) -> None:
    """Add a sync to the log that began at this time."""
    row = {
        "run_id": str(uuid.uuid4()),
        "kind": "sync",
        "load_succeeded": True,
        "extraction_completed": True,
        "transform_succeeded": True,
        "coverage": "changes",
    } | columns
    warehouse.query(
        f"insert into sync_runs ({', '.join(row)}, started_at, ended_at)"  # noqa: S608
        f" select {', '.join(['%s'] * len(row))}, began, began + make_interval(secs => %s)"
        " from (select %s::timestamptz as began) as _",
        *row.values(),
        seconds,
        began,
    )


def test_merged_deals_pass_every_data_test(warehouse: Warehouse) -> None:
    done = warehouse.dbt("test")
    assert "WARN=0 ERROR=0 SKIP=0" in done.stdout, done.stdout


def test_each_invariant_that_is_broken_is_found(warehouse: Warehouse) -> None:
    add_run(warehouse, "2026-11-01Z", 1, new_records=99, updated_records=0, unchanged_records=0)
    warehouse.query(
        """
        -- won in the CRM, and yet the bid team's again
        update opportunities set workflow_status = 'NEW' where remote_id = '3';
        -- an outcome that there is not
        alter table opportunities drop constraint opportunities_crm_outcome_check;
        update opportunities set crm_outcome = 'PAUSED' where remote_id = '4';
        delete from opportunities where remote_id = '2';
        update rejected_records set resolved_at = now() where remote_id = '7';
        """
    )
    warehouse.dbt("test", "--select", "test_type:singular")

    results = json.loads((warehouse.target / "run_results.json").read_text())["results"]
    outcomes = {
        result["unique_id"].split(".")[2]: result["status"]
        for result in results
        if result["unique_id"].startswith("test.")
    }
    singular = {path.stem for path in (ROOT / "transform" / "tests").glob("*.sql")}
    assert outcomes == dict.fromkeys(singular, "fail")


def test_a_status_that_the_bid_team_has_is_an_accepted_one(warehouse: Warehouse) -> None:
    options = ("--output", "json", "--output-keys", "name test_metadata")
    listed = warehouse.dbt("--quiet", "ls", "--resource-type", "test", *options)
    (accepted,) = (
        node["test_metadata"]["kwargs"]["values"]
        for node in map(json.loads, listed.stdout.splitlines())
        if node["name"].startswith("accepted_values_opportunities_workflow_status")
    )
    assert accepted == [*MOVES, *FROM_CRM]


def test_the_pipeline_contains_the_open_deals(warehouse: Warehouse) -> None:
    rows = warehouse.query("select * from pipeline_by_stage_and_month order by close_month")
    assert rows == [
        {
            "stage": "01 - Qualification",
            "currency": "EUR",
            "close_month": date(2026, 12, 1),
            "deals": 2,
            "deal_value": 100,
            "weighted_value": 50,
            # No reporting currency is declared.
            "reporting_value": 0,
            "weighted_reporting_value": 0,
        },
        {
            "stage": "01 - Qualification",
            "currency": "USD",
            "close_month": date(2027, 1, 1),
            "deals": 1,
            "deal_value": 100,
            "weighted_value": 50,
            "reporting_value": 0,
            "weighted_reporting_value": 0,
        },
    ]


def test_the_win_rate_counts_decided_deals(warehouse: Warehouse) -> None:
    rows = warehouse.query("select * from win_rate_by_practice order by practice")
    assert rows == [
        {
            "practice": "Cloud",
            "currency": "EUR",
            "won": 1,
            "lost": 2,
            "closed": 0,
            "win_rate": Decimal("0.3333"),
            "won_value": 300,
            "lost_value": 200,
            "closed_value": 0,
            "win_rate_by_value": Decimal("0.6"),
        },
        {
            "practice": None,
            "currency": "EUR",
            "won": 0,
            "lost": 0,
            "closed": 1,
            "win_rate": None,
            "won_value": 0,
            "lost_value": 0,
            "closed_value": 100,
            "win_rate_by_value": None,
        },
    ]


def test_a_status_ages_from_the_day_it_was_set(warehouse: Warehouse) -> None:
    warehouse.query(
        """
        update opportunities set first_synced_at = now() - interval '30 days';
        update opportunities set workflow_status = 'ASSIGNED' where remote_id in ('1', '2');
        update opportunities set win_probability = 60 where remote_id in ('1', '2');
        update opportunities set workflow_since = workflow_since - interval '10 days'
        where remote_id = '1';
        update opportunities set workflow_since = workflow_since - interval '20 days'
        where remote_id = '2';
        """
    )
    days = """'{"states": {"ASSIGNED": {"label": null, "days": 12}, "NEW": {"days": null}}}'"""
    warehouse.query(f"insert into declarations (section, content) values ('decisions', {days})")  # noqa: S608
    ages = "select workflow_status, deals, median_days, oldest_days from workflow_ageing order by 1"
    assert warehouse.query(ages) == [
        {"workflow_status": "ASSIGNED", "deals": 2, "median_days": 15, "oldest_days": 20},
        {"workflow_status": "NEW", "deals": 1, "median_days": 30, "oldest_days": 30},
    ]
    late = "select limit_days, over_limit from workflow_ageing order by workflow_status"
    assert warehouse.query(late) == [
        {"limit_days": 12, "over_limit": 1},
        {"limit_days": None, "over_limit": 0},
    ]


def test_the_quality_of_syncs_is_counted_day_by_day(warehouse: Warehouse) -> None:
    for began, seconds, load_succeeded in [
        ("2026-11-01 00:00Z", 10, True),
        ("2026-11-01 12:00Z", 40, False),
        ("2026-11-01 23:59:50Z", 30, True),
        ("2026-11-02 00:00Z", 5, True),
    ]:
        add_run(
            warehouse,
            began,
            seconds,
            load_succeeded=load_succeeded,
            new_records=10,
            updated_records=5,
            unchanged_records=84,
            failed_records=1,
        )
    assert warehouse.query("select * from sync_quality order by day") == [
        {
            "day": date(2026, 11, 1),
            "runs": 3,
            "failed_runs": 1,
            "total_fetched": 300,
            "new_records": 30,
            "updated_records": 15,
            "failed_records": 3,
            "median_duration_seconds": 30,
            "max_duration_seconds": 40,
        },
        {
            "day": date(2026, 11, 2),
            "runs": 1,
            "failed_runs": 0,
            "total_fetched": 100,
            "new_records": 10,
            "updated_records": 5,
            "failed_records": 1,
            "median_duration_seconds": 5,
            "max_duration_seconds": 5,
        },
    ]


def test_a_merge_replaces_only_changed_views(warehouse: Warehouse) -> None:
    """So it waits for no reader, and other people's views on ours stay."""
    warehouse.query(
        """
        create view report as select sum(deals) as deals from pipeline_by_stage_and_month;
        drop view workflow_ageing;
        create view workflow_ageing as select 'NEW' as workflow_status, 1 as days;
        drop view win_rate_by_practice;
        """
    )
    warehouse.load(deal(10))
    with psycopg.connect(warehouse.url) as reader:
        for view in (
            "staging.stg_opportunities",
            "staging.workflow_rule",
            "public.pipeline_by_stage_and_month",
            "public.sync_quality",
        ):
            reader.execute(f"select * from {view}")  # noqa: S608
        warehouse.merge(PGOPTIONS="-c lock_timeout=3s")
    assert warehouse.query("select deals from report") == [{"deals": 4}]
    assert set(warehouse.query("select * from workflow_ageing")[0]) == {
        "workflow_status",
        "deals",
        "median_days",
        "oldest_days",
        "limit_days",
        "over_limit",
    }
    assert len(warehouse.query("select * from win_rate_by_practice")) == 2
    # Each run of dbt writes its counts to its own row.
    assert warehouse.query("select new_records from sync_runs order by transform_started_at") == [
        {"new_records": 7},
        {"new_records": 1},
    ]


def test_grants_documents_and_views_of_others_survive_a_change(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    project = tmp_path / "transform"
    shutil.copytree(ROOT / "transform", project, ignore=shutil.ignore_patterns("target", "logs"))
    settings = project / "dbt_project.yml"
    declared = "marts:\n      +grants: {select: [bi_reader]}\n      +persist_docs: {relation: true}"
    settings.write_text(settings.read_text().replace("marts:", declared))
    contract = project / "models/marts/workflow_ageing.yml"
    contract.write_text(contract.read_text().replace("enforced: true", "enforced: false"))
    for role in ("bi_reader", "analyst"):
        warehouse.query(f"do $$ begin create role {role}; exception when others then end $$")
    warehouse.query(
        """
        grant select on workflow_ageing, opportunities to analyst;
        create view report as select workflow_status from workflow_ageing;
        grant select on report to analyst
        """
    )

    def run(before: str, after: str) -> str:
        model = project / "models/marts/workflow_ageing.sql"
        model.write_text(model.read_text().replace(before, after))
        chosen = ("workflow_ageing", "opportunities", "deleted_opportunities")
        done = warehouse.dbt("run", "--select", *chosen, "--project-dir", str(project))
        assert done.returncode == 0, done.stdout
        return done.stdout

    def granted() -> set[tuple[str, str]]:
        rows = warehouse.query(
            "select grantee::regrole::text as role, relname from pg_class, aclexplode(relacl)"
            " where relname in ('workflow_ageing', 'opportunities') and grantee != relowner"
            # Not those of the parts, which have their rights from the migrations.
            r" and grantee::regrole::text not like 'oracle\_crm\_%%'"
        )
        return {(row["role"], row["relname"]) for row in rows}

    everyone = {
        (role, name)
        for role in ("bi_reader", "analyst")
        for name in ("workflow_ageing", "opportunities")
    }
    run("aged.number as deals", "aged.number as deals")
    assert granted() == everyone
    (described,) = warehouse.query(
        "select obj_description('workflow_ageing'::regclass) as mart,"
        " obj_description('opportunities'::regclass) as merged"
    )
    assert described["mart"]
    assert described["merged"].startswith("Every deal of the CRM."), "not the deletions' text"

    said = run("as over_limit", "as over_limit, 1 as one_more")
    assert "dropped with it" not in said
    assert warehouse.query("select one_more from workflow_ageing") != []
    assert warehouse.query("select * from report") != []
    assert granted() == everyone

    said = run("aged.number as deals", "aged.number::text as deals")
    assert "WARNING: " in said
    assert "has other columns now; dropped with it: report" in said
    assert granted() == everyone
    for role in ("bi_reader", "analyst"):
        warehouse.query(f"drop owned by {role}; drop role {role}")


def test_a_developers_target_builds_views_of_its_own_and_merges_nothing(
    warehouse: Warehouse, tmp_path: Path
) -> None:
    profiles = (ROOT / "transform" / "profiles.yml").read_text()
    (tmp_path / "profiles.yml").write_text(profiles.replace("schema: staging", "schema: dev_ann"))
    options = ("--profiles-dir", str(tmp_path))
    runs = warehouse.query("select * from sync_runs")
    warehouse.load(deal(1, Name="Changed since"))
    refused = warehouse.dbt("run", "--select", "opportunities", "sales_owners", *options)
    assert refused.returncode == 1
    assert "leave it out with --exclude config.materialized:merge_into" in refused.stdout

    built = warehouse.dbt("run", "--exclude", "config.materialized:merge_into", *options)
    assert built.returncode == 0, built.stdout
    assert warehouse.query("select count(*) as deals from dev_ann.pipeline_by_stage_and_month")
    assert warehouse.query("select count(*) as deals from dev_ann.stg_opportunities")
    assert warehouse.query("select * from sync_runs") == runs
    assert warehouse.query("select name from opportunities where remote_id = '1'") == [
        {"name": "Deal 1"}
    ]
    warehouse.merge()
    assert warehouse.query("select name from opportunities where remote_id = '1'") == [
        {"name": "Changed since"}
    ]


def test_the_history_has_every_column_that_a_merge_can_change(warehouse: Warehouse) -> None:
    left_out = {
        # what tells a deal apart, and when it was read
        *("id", "remote_id", "first_synced_at", "last_synced_at"),
        # the CRM's own times of what the history tells
        *("remote_created_at", "remote_updated_at"),
        # follow from status_code and workflow_status
        *("unknown_status_code", "workflow_status_before_close", "workflow_since"),
        # follow from deal_value, currency and the rates; another rate is no change of the deal
        *("reporting_value", "crm_rate", "crm_rate_currency"),
    }
    columns = {
        row["name"]: row["type"]
        for row in warehouse.query(
            "select attname as name, format_type(atttypid, null) as type from pg_attribute"
            " where attrelid = 'opportunities'::regclass and attnum > 0 and not attisdropped"
            " and attgenerated = ''"
        )
    }
    values = {
        "text": "'LOST'",
        "numeric": "12.5",
        "date": "date '2030-01-01'",
        "timestamp with time zone": "timestamptz '2030-01-01Z'",
    }
    changed = {
        name: values[kind]
        for name, kind in columns.items()
        if name not in left_out and kind in values
    }
    warehouse.query("delete from opportunity_changes")
    assignments = ", ".join(f"{name} = {value}" for name, value in changed.items())
    warehouse.query(f"update opportunities set {assignments} where remote_id = '1'")  # noqa: S608
    fields = {row["field"] for row in warehouse.query("select field from opportunity_changes")}
    assert fields == changed.keys()
    assert columns.keys() - changed.keys() - left_out == {
        "assigned_to",  # the bid team's own
        "custom",  # field by field, see test_fields.py
    }


def test_a_mart_that_breaks_its_contract_is_refused(warehouse: Warehouse, tmp_path: Path) -> None:
    project = tmp_path / "transform"
    shutil.copytree(ROOT / "transform", project, ignore=shutil.ignore_patterns("target", "logs"))
    model = project / "models/marts/sync_quality.sql"
    model.write_text(model.read_text().replace("count(*) as runs", "count(*)::text as runs"))
    done = warehouse.dbt("run", "--select", "sync_quality", "--project-dir", str(project))
    assert done.returncode == 1
    assert "This model has an enforced contract that failed" in done.stdout
    assert warehouse.query("select pg_typeof(runs)::text as type from sync_quality") == []


def test_dbt_checks_its_files_by_kept_schemas(warehouse: Warehouse, tmp_path: Path) -> None:
    assert isinstance(vars(BehaviorFlagRendered)["_default_source"], staticmethod), "dbt changed it"
    (tmp_path / "dbt_project.yml").write_text("name: test\nprofile: oracle_crm\nunheard-of: 1\n")

    def refusal() -> str:
        done = subprocess.run(  # the real command: a warm one has its schemas in memory
            [Path(sys.executable).with_name("dbt-frozen"), "ls", "--project-dir", tmp_path],
            cwd=tmp_path,
            env=warehouse.environment() | {"DBT_TARGET_PATH": str(tmp_path)},
            text=True,
            capture_output=True,
            check=False,
        )
        assert done.returncode == 2
        return done.stdout

    assert "Additional properties are not allowed ('unheard-of'" in refusal()
    kept = json.loads((tmp_path / SCHEMAS).read_text())
    kept["schemas"]["dbt.contracts.project.Project"] = {"required": ["something"]}
    (tmp_path / SCHEMAS).write_text(json.dumps(kept))
    assert "'something' is a required property" in refusal()
    kept["release"] = "another"
    (tmp_path / SCHEMAS).write_text(json.dumps(kept))
    assert "'something' is a required property" not in refusal()


def test_the_cost_of_rejects_depends_on_the_changes(warehouse: Warehouse) -> None:
    """A plan that first reads all deals into a temporary table becomes slower with more deals."""
    compiled = next(warehouse.target.glob("compiled/*/models/marts/rejected_records.sql"))
    plan = warehouse.query(f"explain {compiled.read_text()}")
    assert "CTE Scan on opportunities" not in "\n".join(row["QUERY PLAN"] for row in plan)
