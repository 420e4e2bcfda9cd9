"""A database of release 0.1.0 is migrated, and nothing in it is lost."""

import lzma
import os
import subprocess
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psycopg
import pytest
from meltano.core.migration_service import MigrationService
from oracle_crm_sandbox import Sandbox
from sqlalchemy import Engine

from database.address import libpq_environment
from database.embedded import BIN
from database.migrate import migrate, migrate_if_needed
from declared.assessment import SEVEN, Assessment
from runs import meltano_runs
from tests.conftest import Pipeline, assert_equal_to_crm
from tests.releases import crm as releases
from tests.warehouse import create_database

pytestmark = pytest.mark.usefixtures("one_role")

DUMP = Path(__file__).parent / "releases" / "0.1.0.sql.xz"
# Columns that an upgrade must not change; only the changes of deals may become more.
KEPT = {
    "opportunities": "id, remote_id, workflow_status, workflow_status_before_close, deleted_at,"
    " first_synced_at",
    "rejected_records": "id, remote_id, reason, payload, first_seen_at",
    "assessments": "id, opportunity_id, version, status, scores, weighted_score, summary,"
    " recommendation, revision, created_by, created_at, updated_by, updated_at, submitted_by,"
    " submitted_at, decided_by, decided_at, decision_comment",
    "assessment_comments": "*",
    "users": "id, name, full_name, email, role, password_hash, active, last_signed_in_at",
    "tokens": "id, user_id, kind, name, secret_hash, created_at, expires_at, revoked_at",
    "audit_log": "id, at, user_id, user_name, action, subject, subject_id, before, after,"
    " request_id",
}
CHANGES = "id, opportunity_id, field, old_value, new_value, changed_at, changed_by"
LOG = (
    "run_id, sync_type, status, new_records, updated_records, failed_records, error_message,"
    " started_at, completed_at, duration_seconds"
)
Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def released(postgres: str) -> str:
    """The name of a template database of that release."""
    name = "released"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name}")
    # PostgreSQL 15 and 16 do not know this setting of the server that the dump was made on.
    dump = lzma.decompress(DUMP.read_bytes()).replace(b"SET transaction_timeout = 0;", b"")
    subprocess.run(
        [BIN / "psql", "--quiet", "--set", "ON_ERROR_STOP=1"],
        input=dump,
        env=os.environ | libpq_environment(f"{postgres}/{name}"),
        check=True,
        stdout=subprocess.DEVNULL,
    )
    return name


@pytest.fixture
def old(postgres: str, released: str, pipeline: Pipeline) -> Pipeline:
    """That database, with the CRM in the state that the release saw last."""
    create_database(postgres, "test", released)
    releases.begin(pipeline.crm)
    releases.second_day(pipeline.crm)
    releases.third_day(pipeline.crm)
    releases.set_day(pipeline.crm, releases.LAST_DAY)
    return pipeline


def kept(pipeline: Pipeline) -> dict[str, Rows]:
    return {
        table: pipeline.query(f"select {columns} from {table} order by id")  # noqa: S608
        for table, columns in KEPT.items()
    }


def by_the_rules_of_now(crm: Sandbox, before: dict[str, Rows]) -> dict[str, Rows]:
    """The expected result of a merge: the release did not read the status of a deal's stage."""
    closed = {
        str(row["OptyId"])
        for row in crm.rows(fields=["OptyId", "StatusCode", "StageStatusCd"])
        if row["StatusCode"] is None and row["StageStatusCd"] == "CLOSED"
    }
    assert len(closed) == 2
    deals = [
        row
        | {
            "workflow_status": "CLOSED",
            "workflow_status_before_close": row["workflow_status_before_close"]
            or row["workflow_status"],
        }
        if row["remote_id"] in closed
        else row
        for row in before["opportunities"]
    ]
    return before | {"opportunities": deals}


def changes(pipeline: Pipeline) -> Rows:
    return pipeline.query(f"select {CHANGES} from opportunity_changes order by id")  # noqa: S608


def log(pipeline: Pipeline, view: str) -> Rows:
    return pipeline.query(f"select {LOG} from {view} order by started_at")  # noqa: S608


def assert_nothing_is_lost(before: dict[str, Rows], after: dict[str, Rows]) -> None:
    for table, rows in before.items():
        by_id = {row["id"]: row for row in after[table]}
        assert rows
        for row in rows:
            assert {name: by_id[row["id"]][name] for name in row} == row, table


def test_a_sync_continues_where_the_release_stopped(old: Pipeline) -> None:
    before, log_before, changes_before = kept(old), log(old, "syncs"), changes(old)
    assert {row["status"] for row in log_before} == {"SUCCESS", "FAILED"}
    assert len({row["workflow_status"] for row in before["opportunities"]}) == 9

    migrate(old.database)
    assert log(old, "sync_logs") == log_before
    reasons = old.query("select end_reason, count(*) as n from sync_logs group by 1")
    assert {row["end_reason"]: row["n"] for row in reasons} == {
        "done": 3,
        "partial": 1,
        "failed": 1,
        "died": 2,
        "cancelled": 2,
    }
    assert kept(old) == before
    made_by = old.query(
        "select content from assessments join declarations on declarations.id = criteria_id"
    )
    assert made_by
    assert all(Assessment.model_validate(row["content"]).criteria == SEVEN for row in made_by)
    assert old.query("select distinct scopes from tokens") == [
        {"scopes": ["read", "workflow", "sync", "admin"]}
    ]
    assert changes(old) == changes_before

    never = releases.keys(old.crm)[0]
    old.crm.heal(never)
    run = old.sync()
    assert (run["status"], run["new_records"], run["failed_records"]) == ("SUCCESS", 1, 0)
    assert log(old, "sync_logs")[:-1] == log_before
    assert_nothing_is_lost(by_the_rules_of_now(old.crm, before), kept(old))
    assert changes(old)[: len(changes_before)] == changes_before
    assert_equal_to_crm(old)
    assert not old.query("select from rejected_records where resolved_at is null")


def test_user_names_get_one_spelling(postgres: str, released: str) -> None:
    url = create_database(postgres, "names", released)
    wide = "\uff56\uff45\uff52\uff41"
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("update users set name = 'Vera' where id = 1")
        connection.execute(
            "insert into users (id, name, role) values (901, %s, 'viewer'), (902, %s, 'viewer')",
            [wide, wide + "2"],
        )
        migrate(url)
        names: dict[int, str] = dict(connection.execute("select id, name from users").fetchall())
    assert (names[1], names[902]) == ("Vera", "vera2")
    # It would be the name of another, so it stays.
    assert names[901] == wide


def test_a_release_of_meltano_may_change_its_tables(
    old: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    upgrade = MigrationService.upgrade

    def upgrade_further(self: MigrationService, **options: Any) -> None:
        upgrade(self, **options)
        engine: Engine = self.engine
        with engine.begin() as connection:
            connection.exec_driver_sql(
                "alter table runs alter payload type jsonb using payload::jsonb"
            )
            connection.exec_driver_sql("alter table runs drop trigger")

    before, log_before = kept(old), log(old, "syncs")
    with monkeypatch.context() as patch:
        patch.setattr(MigrationService, "upgrade", upgrade_further)
        migrate(old.database)
    assert log(old, "sync_logs") == log_before
    with psycopg.connect(old.database, autocommit=True) as connection:
        meltano_runs.close_ended_ones(connection)
        meltano_runs.remove_old_ones(connection, days=0, batch=100)

    # The present Meltano can't write that table any more, so each block of a run is called alone.
    old.crm.heal(releases.keys(old.crm)[0])
    done = old.shell(
        """
        meltano invoke tap-oracle-crm | meltano invoke target-postgres
        meltano invoke dbt-postgres:run
        """
    )
    assert done.returncode == 0, done.stdout
    assert_nothing_is_lost(by_the_rules_of_now(old.crm, before), kept(old))
    assert_equal_to_crm(old)


def test_raw_rows_get_the_types_of_now(old: Pipeline) -> None:
    old.query("drop schema staging cascade")  # dbt creates it again
    old.query('alter table raw.opportunities alter "WinProb" type text')
    some = releases.keys(old.crm)[5:8]
    for key, text in zip(some, ("high", "", "50"), strict=True):
        old.query('update raw.opportunities set "WinProb" = %s where "OptyId" = %s', text, key)
    migrate(old.database)
    raw = {row["OptyId"]: row for row in old.query("select * from raw.opportunities")}
    assert [raw[key]["WinProb"] for key in some] == [None, None, 50]
    for row in old.crm.rows():
        if row["OptyId"] in raw:
            ours = raw[row["OptyId"]]
            stamp = datetime.fromisoformat(row["LastUpdateDate"]).astimezone(UTC)
            assert ours["LastUpdateDate"] == stamp
            size, practice = (ours["custom"][name] for name in ("Size_c", "Practice_c"))
            assert (size and float(size), practice) == (row["Size_c"], row["Practice_c"])


def test_a_view_is_made_again_when_its_file_differs(
    database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        columns = connection.execute("select * from sync_logs").description or []
        connection.execute(
            """
            drop view sync_logs cascade;
            create view sync_logs as select 1 as one;
            create view on_top as select one from sync_logs;
            comment on table alembic_version is 'of other files'
            """
        )
        migrate_if_needed(database)
        again = connection.execute("select * from sync_logs").description or []
        assert [column.name for column in again] == [column.name for column in columns]
        assert connection.execute("select to_regclass('on_top')").fetchone() == (None,)
    monkeypatch.setattr(subprocess, "run", pytest.fail)
    migrate_if_needed(database)  # nothing to do any more
