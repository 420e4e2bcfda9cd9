"""A database of an earlier release is brought up to date, and nothing in it is lost."""

import os
import subprocess
import sys
import uuid
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg
import pytest
from alembic import command
from alembic.config import Config
from psycopg.rows import dict_row
from sqlalchemy import create_engine

from database.address import sqlalchemy_url
from database.environment import ROOT
from database.migrate import MIGRATIONS
from tests.warehouse import Warehouse, create_database
from tests.warm import WarmProject

SDC = """
    _sdc_extracted_at timestamp, _sdc_received_at timestamp, _sdc_batched_at timestamp,
    _sdc_deleted_at timestamp, _sdc_sequence bigint, _sdc_table_version bigint,
    _sdc_sync_started_at bigint
"""
# As the loader and the merge of that release left them. A customer's own field may be of any
# type, one of the CRM's was not of ours, and some are none of the table's columns any more.
ROWS = f"""
    create table raw.opportunities (
        "OptyId" bigint primary key, "OptyNumber" text, "Name" text, "TargetPartyName" text,
        "Revenue" numeric, "CurrencyCode" text, "WinProb" text, "SalesStage" text,
        "StatusCode" text, "EffectiveDate" date, "OwnerResourcePartyId" bigint,
        "CreationDate" timestamp, "LastUpdateDate" timestamp, "Practice_c" text,
        "Size_c" numeric, "It's ""new""_c" boolean, {SDC}
    );
    insert into raw.opportunities (
        "OptyId", "Name", "Revenue", "WinProb", "StatusCode", "EffectiveDate", "LastUpdateDate",
        "Practice_c", "Size_c", "It's ""new""_c", _sdc_extracted_at, _sdc_batched_at
    )
    select key, 'Deal ' || key, 1234567890123456.78, win, status, '2026-12-01',
        '2026-01-31 23:30:00.123', 'Cloud', 1.5, null, now() at time zone 'UTC', now()
    from (values (1, '50', 'OPEN'), (2, 'high', 'OPEN'), (3, '100', 'WON')) as _ (key, win, status);
    create table raw.rejected_records (
        id text primary key, stream text, remote_id text, reason text, payload text,
        rejected_at timestamp, {SDC}
    );
    insert into raw.rejected_records (id, stream, remote_id, reason, payload, rejected_at)
    values ('a', 'opportunities', '9', 'Revenue: no number', '{{}}', '2026-01-31 23:30');
    create table raw.opportunity_keys ("OptyId" bigint primary key, {SDC});
    insert into raw.opportunity_keys values (1), (2);

    insert into opportunities (remote_id, name, status_code, workflow_status, deleted_at)
    values ('1', 'Deal 1', 'OPEN', 'ASSIGNED', null), ('2', 'Deal 2', 'OPEN', 'NEW', null),
        ('3', 'Deal 3', 'WON', 'WON', '2026-02-01Z');
    insert into rejected_records (record_key, stream, remote_id, reason, payload)
    values ('opportunities:9', 'opportunities', '9', 'Revenue: no number', '{{}}');
"""  # noqa: S608
NAMES = ("first", "reconcile", "failed", "cancelled", "dead", "limited", "unmerged", "merged later")
RUNS = {name: str(uuid.uuid5(uuid.NAMESPACE_DNS, f"{name}.example.com")) for name in NAMES}
LOG = """
    insert into meltano.runs (
        id, job_name, run_id, state, trigger, payload, payload_flags, started_at, ended_at,
        last_heartbeat_at
    )
    select 10 + hour, 'dev:' || tap || '-to-target-postgres', run_id::uuid, state, 'test', payload,
        0, began, case when state != 'RUNNING' then began + interval '1 minute' end,
        began + interval '50 seconds'
    from (
        values
            (0, 'tap-oracle-crm', %(first)s, 'SUCCESS', '{}'),
            (1, 'tap-oracle-crm-keys', %(reconcile)s, 'SUCCESS', '{}'),
            (2, 'tap-oracle-crm', %(failed)s, 'FAIL', '{"error": "It broke."}'),
            (4, 'tap-oracle-crm', %(cancelled)s, 'FAIL', '{}'),
            (5, 'tap-oracle-crm', %(dead)s, 'RUNNING', '{}'),
            (6, 'tap-oracle-crm', %(limited)s, 'SUCCESS', '{}'),
            (7, 'tap-oracle-crm', %(merged later)s, 'RUNNING', '{}'),
            (8, 'tap-oracle-crm', %(unmerged)s, 'SUCCESS', '{}')
    ) as _ (hour, tap, run_id, state, payload)
    cross join lateral (select timestamp '2026-02-01' + make_interval(hours => hour)) as at (began);

    insert into sync_runs (
        run_id, sync_type, records_fetched, records_rejected, extraction_completed, error_message,
        transform_started_at, transform_completed_at, transform_succeeded, new_records,
        updated_records, quarantined_records, loaded_until
    )
    values
        (%(first)s, 'FULL', 100, 3, true, null, '2026-02-01 00:01Z', '2026-02-01 00:02Z', true,
            90, 3, 2, '2026-02-01Z'),
        (%(cancelled)s, 'INCREMENTAL', 7, 0, false, 'killed', null, null, null, null, null, null,
            null),
        (%(dead)s, 'INCREMENTAL', 8, 0, null, null, null, null, null, null, null, null, null),
        (%(limited)s, 'INCREMENTAL', 5, 0, true,
            'Stopped at the run-time limit of 60 s before all was read. The next sync goes on '
            'from there.', '2026-02-01 06:01Z', '2026-02-01 06:02Z', true, 1, 4, 0, null),
        (%(merged later)s, 'INCREMENTAL', 5, 0, true, null, '2026-02-01 07:01Z',
            '2026-02-01 07:02Z', true, 5, 0, 0, null);

    insert into sync_requests (
        run_id, sync_type, trigger, requested_by, requested_at, host, cancelled_by, ended_at,
        error_message
    )
    values
        (%(first)s, 'FULL', 'api', 'ada', '2026-02-01Z', 'a.example.com', null,
            '2026-02-01 00:02Z', null),
        (%(cancelled)s, 'INCREMENTAL', 'schedule', null, '2026-02-01 04:00Z', 'a.example.com',
            'ada', '2026-02-01 04:02Z', null),
        (gen_random_uuid(), 'FULL', 'api', null, '2026-02-01 03:00Z', 'a.example.com', null,
            '2026-02-01 03:01Z', 'ORACLE_BASE_URL is not set'),
        (gen_random_uuid(), 'INCREMENTAL', 'api', null, '2026-02-01 09:00Z', 'a.example.com',
            'ada', '2026-02-01 09:01Z', 'Cancelled by ada.');
"""
COMMON = (
    "run_id, sync_type, status, new_records, updated_records, failed_records, error_message,"
    " started_at, completed_at, duration_seconds"
)


@pytest.fixture(scope="module")
def upgrade(postgres: str, migrated: str) -> tuple[str, list[dict[str, Any]]]:
    """The name of a database of the release before, brought up to date; and its log as it was."""
    name = f"old_{uuid.uuid4().hex[:12]}"
    url = create_database(postgres, name, migrated)
    engine = create_engine(sqlalchemy_url(url, "test"))
    with psycopg.connect(url, autocommit=True, row_factory=dict_row) as connection:
        connection.execute("drop schema public, raw cascade; create schema public")
        with engine.begin() as alembic:
            config = Config(attributes={"connection": alembic})
            config.set_main_option("script_location", str(MIGRATIONS))
            command.upgrade(config, "0018")
        connection.execute(ROWS)
        with psycopg.ClientCursor(connection) as cursor:
            cursor.execute(LOG, RUNS)
        before = connection.execute(
            f"select id, total_fetched, {COMMON} from syncs order by started_at"  # noqa: S608
        ).fetchall()
    engine.dispose()
    done = subprocess.run(
        [sys.executable, "-m", "database", "migrate"], cwd=ROOT, check=False, text=True,
        env=os.environ | {"DATABASE_URL": url}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    return name, before


Upgraded = tuple[Warehouse, list[dict[str, Any]]]


@pytest.fixture
def upgraded(
    postgres: str, upgrade: tuple[str, list[dict[str, Any]]], parsed: Path, warm: WarmProject
) -> Upgraded:
    """A copy of that database, and its log as it was."""
    return Warehouse(postgres, upgrade[0], parsed, warm), upgrade[1]


def test_the_log_is_as_it_was(upgraded: Upgraded) -> None:
    warehouse, before = upgraded
    after = warehouse.query(
        f"select id, {COMMON} from sync_logs order by started_at"  # noqa: S608
    )
    assert len(before) == 9
    for old, new in zip(before, after, strict=True):
        assert new["id"] == (old["id"] or new["id"])
        assert {name: new[name] for name in COMMON.split(", ")} == {
            name: old[name] for name in COMMON.split(", ")
        }
    # The order is that of the numbers now. What had none is not the last one for that.
    ids = [row["id"] for row in warehouse.query("select id from sync_logs order by id")]
    assert ids == [9, 10, 12, 14, 15, 16, 17, 18, 19]
    assert after[2]["error_message"] == "ORACLE_BASE_URL is not set"
    assert [row["id"] for row in after] == [10, 12, 9, 14, 15, 16, 17, 18, 19]


def test_what_was_counted_adds_up(upgraded: Upgraded) -> None:
    warehouse, _ = upgraded
    runs = warehouse.query("select * from sync_logs where status = 'SUCCESS' order by id")
    counts = [
        (run["total_fetched"], run["new_records"], run["updated_records"],
         run["unchanged_records"], run["failed_records"], run["end_reason"])
        for run in runs
    ]  # fmt: skip
    assert counts == [
        (103, 90, 3, 5, 5, "done"), (5, 1, 4, 0, 0, "partial"), (5, 5, 0, 0, 0, "done"),
    ]  # fmt: skip
    assert warehouse.query(
        "select end_reason from sync_logs where id in (14, 15, 18, 19) order by id"
    ) == [{"end_reason": reason} for reason in ("cancelled", "died", "failed", "cancelled")]
    (first,) = warehouse.query("select trigger, requested_by from run_logs where id = 10")
    assert first == {"trigger": "api", "requested_by": "ada"}


def test_raw_rows_have_one_shape_and_real_times(upgraded: Upgraded) -> None:
    warehouse, _ = upgraded
    rows = warehouse.query('select * from raw.opportunities order by "OptyId"')
    one = rows[0]
    assert one["LastUpdateDate"] == datetime(2026, 1, 31, 23, 30, 0, 123000, UTC)
    assert one["EffectiveDate"] == date(2026, 12, 1)
    assert one["Revenue"] == Decimal("1234567890123456.78")
    assert one["custom"] == {"Practice_c": "Cloud", "Size_c": 1.5, 'It\'s "new"_c': None}
    assert one["_sdc_extracted_at"].utcoffset() is not None
    # What was of another type is converted where that is possible.
    assert [row["WinProb"] for row in rows] == [50, None, 100]
    assert [row["_sdc_deleted_at"] for row in rows] == [
        None, None, datetime(2026, 2, 1, tzinfo=UTC)
    ]  # fmt: skip
    (reject,) = warehouse.query("select * from raw.rejected_records")
    assert reject["rejected_at"] == datetime(2026, 1, 31, 23, 30, tzinfo=UTC)
    assert warehouse.query("select to_regclass('raw.opportunity_keys') as gone") == [{"gone": None}]


def test_the_next_merge_loses_nothing_and_counts_nothing_twice(upgraded: Upgraded) -> None:
    warehouse, _ = upgraded
    known = "select id, remote_id, workflow_status, deleted_at from opportunities order by id"
    before = warehouse.query(known)
    warehouse.merge()
    assert warehouse.query(known) == before
    assert [row["workflow_status"] for row in before] == ["ASSIGNED", "NEW", "WON"]
    # By the new rules, and with the attributes that are in the object now.
    assert warehouse.query("select practice, win_probability from opportunities order by id") == [
        {"practice": "Cloud", "win_probability": 50},
        {"practice": "Cloud", "win_probability": None},
        {"practice": "Cloud", "win_probability": 100},
    ]
    assert warehouse.query("select remote_id from rejected_records where resolved_at is null") == [
        {"remote_id": "9"}
    ]
    # dbt was run by other hands: what it merged belongs to the last run that had loaded.
    (last,) = warehouse.query("select * from sync_logs where id = 18")
    assert (last["status"], last["total_fetched"]) == ("SUCCESS", 0)
