"""Housekeeping deletes old rows, but none that the pipeline needs."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo
from psycopg.rows import dict_row

from database.environment import ROOT
from orchestrate.housekeeping import clean
from tests.conftest import Pipeline
from tests.runs import add_run, silence

Connection = psycopg.Connection[dict[str, Any]]


@pytest.fixture
def connection(database: str) -> Iterator[Connection]:
    with psycopg.connect(database, autocommit=True, row_factory=dict_row) as connection:
        yield connection


def housekeeping(database: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "orchestrate.housekeeping"],
        cwd=ROOT,
        check=False,
        text=True,
        env=os.environ | {"DATABASE_URL": database} | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def run(connection: Connection, days_ago: int, state: str = "SUCCESS", **columns: Any) -> str:
    """Add a run of one minute that began some days ago; Meltano has a row for it, too."""
    lasted = None if state == "RUNNING" else "1 minute"
    if state == "FAIL":
        columns = {"load_succeeded": False, "transform_succeeded": None} | columns
    url = make_conninfo(connection.info.dsn, password=connection.info.password)
    run_id = add_run(url, f"{days_ago} days", lasted, **columns)
    connection.execute(
        """
        insert into meltano.runs
            (job_name, run_id, state, trigger, payload, started_at, ended_at, last_heartbeat_at)
        select 'dev:' || kind, run_id, %s, 'test', '{}', started_at at time zone 'UTC',
            ended_at at time zone 'UTC', heartbeat_at at time zone 'UTC'
        from sync_runs where run_id = %s
        """,
        [state, run_id],
    )
    return run_id


def opportunity(connection: Connection, remote_id: str, deleted_days_ago: int | None = None) -> int:
    row = connection.execute(
        """
        insert into opportunities (remote_id, deleted_at)
        values (%s, now() - make_interval(days => %s)) returning id
        """,
        [remote_id, deleted_days_ago],
    ).fetchone()
    assert row
    return int(row["id"])


def column(connection: Connection, sql: str) -> list[Any]:
    return [next(iter(row.values())) for row in connection.execute(sql)]


def test_old_runs_go_and_those_that_count_stay(connection: Connection, database: str) -> None:
    run(connection, 500)
    run(connection, 450, state="FAIL")
    run(connection, 420)
    newest_success = run(connection, 400)
    newest_reconcile = run(connection, 600, kind="reconcile")
    running = run(connection, 390, state="RUNNING")
    young_failure = run(connection, 3, state="FAIL")

    done = housekeeping(database)

    assert done.returncode == 0, done.stdout
    assert "Removed 3 runs of Meltano after 365 days (SYNC_LOG_RETENTION_DAYS)" in done.stdout
    assert "Removed 3 details of runs after 365 days (SYNC_LOG_RETENTION_DAYS)" in done.stdout
    kept = {newest_success, newest_reconcile, running, young_failure}
    assert set(column(connection, "select run_id::text from meltano.runs")) == kept
    assert set(column(connection, "select run_id::text from sync_runs")) == kept


def test_a_run_that_dbt_is_still_merging_stays(connection: Connection, database: str) -> None:
    merging = run(connection, 2, state="RUNNING", load_succeeded=True, extraction_completed=True)
    run(connection, 1)
    housekeeping(database, SYNC_LOG_RETENTION_DAYS="1")
    assert merging in column(connection, "select run_id::text from sync_logs")
    silence(database, merging, 30)
    housekeeping(database, SYNC_LOG_RETENTION_DAYS="1")
    assert merging not in column(connection, "select run_id::text from sync_logs")


def test_housekeeping_continues_if_meltano_has_changed_its_table_of_runs(
    connection: Connection, database: str
) -> None:
    run(connection, 500)
    run(connection, 400)
    connection.execute("alter table meltano.runs rename column ended_at to finished_at")
    done = housekeeping(database)
    assert done.returncode == 0, done.stdout
    assert "Meltano has changed its table of runs" in done.stdout
    assert "Removed 0 runs of Meltano" in done.stdout
    assert "Removed 1 details of runs" in done.stdout


def test_the_log_stays_as_long_as_it_is_set_to(connection: Connection, database: str) -> None:
    run(connection, 20, state="FAIL")
    housekeeping(database, SYNC_LOG_RETENTION_DAYS="30")
    assert len(column(connection, "select id from sync_logs")) == 1
    housekeeping(database, SYNC_LOG_RETENTION_DAYS="10")
    assert column(connection, "select id from sync_logs") == []
    assert column(connection, "select run_id from sync_runs") == []


def test_runs_that_never_began_go(connection: Connection, database: str) -> None:
    for name, ago, lasted in [
        ("old", "400 days", "0"),
        ("young", "0", "0"),
        ("open", "400 days", None),
    ]:
        add_run(database, ago, lasted, trigger=name, load_succeeded=None, transform_succeeded=None)
    housekeeping(database)
    assert column(connection, "select trigger from sync_runs order by 1") == ["open", "young"]


def test_old_incidents_are_deleted(connection: Connection, database: str) -> None:
    connection.execute(
        """
        insert into incidents (kind, detail, opened_at, closed_at)
        select kind, '', now() - interval '400 days', now() - make_interval(days => days_ago)
        from (values ('over', 366), ('young', 364), ('open', null)) as _ (kind, days_ago);
        insert into notifications
        select id, 1, 1, now(), true, 1, 0, now() from incidents
        """
    )
    housekeeping(database)
    assert column(connection, "select kind from incidents order by 1") == ["open", "young"]
    assert column(connection, "select count(*) from notifications") == [2]


def test_dead_tokens_and_old_attempts_go(connection: Connection, database: str) -> None:
    connection.execute(
        """
        insert into users (name, role) values ('ada', 'viewer');
        insert into tokens (user_id, kind, name, secret_hash, expires_at, revoked_at)
        select 1, kind, name, name::bytea, now() + expires_in * interval '1 day',
            now() - revoked_ago * interval '1 day'
        from (values
            ('session', 'expired', -91, null), ('personal', 'revoked', 200, 91),
            ('personal', 'expired, then revoked', -91, 1),
            ('session', 'just expired', -89, null), ('personal', 'just revoked', 200, 89),
            ('personal', 'alive', 200, null)
        ) as _ (kind, name, expires_in, revoked_ago);

        insert into sign_in_attempts (name, client, at) values
        ('old', '', now() - interval '91 days'), ('young', '', now());
        """
    )
    housekeeping(database)
    assert column(connection, "select name from tokens order by 1") == [
        "alive",
        "just expired",
        "just revoked",
    ]
    assert column(connection, "select name from sign_in_attempts") == ["young"]


def test_the_audit_trail_is_kept_long(connection: Connection, database: str) -> None:
    connection.execute(
        """
        insert into audit_log (at, user_name, action, subject, subject_id)
        select now() - days_ago * interval '1 day', 'ada', 'update', 'user', days_ago
        from unnest(array[3651, 3649, 400, 0]) as _ (days_ago)
        """
    )
    housekeeping(database)
    kept = "select subject_id from audit_log order by id"
    assert column(connection, kept) == ["3649", "400", "0"]
    housekeeping(database, AUDIT_RETENTION_DAYS="365")
    assert column(connection, kept) == ["0"]


@pytest.mark.parametrize(
    "change",
    [
        "delete from audit_log",
        "update audit_log set user_name = 'grace'",
        "truncate audit_log",
        "insert into audit_log (id, user_name, action, subject, subject_id)"
        " overriding system value values (1, 'eve', 'x', 'x', 'x')"
        " on conflict (id) do update set user_name = 'eve'",
    ],
)
def test_nothing_in_the_audit_trail_changes(connection: Connection, change: str) -> None:
    connection.execute(
        "insert into audit_log (id, user_name, action, subject, subject_id)"
        " overriding system value values (1, 'ada', 'update', 'user', '1')"
    )
    with pytest.raises(psycopg.errors.InsufficientPrivilege, match="audit trail"):
        connection.execute(change)
    assert column(connection, "select user_name from audit_log") == ["ada"]


def test_a_role_of_the_apis_own_can_only_add_to_the_audit_trail(connection: Connection) -> None:
    connection.execute("create role of_the_api")
    connection.execute("grant insert, select on audit_log to of_the_api")
    try:
        connection.execute("set role of_the_api")
        connection.execute(
            "insert into audit_log (user_name, action, subject, subject_id)"
            " values ('ada', 'update', 'user', '1')"
        )
        for refused in (
            "select public.remove_audit_entries(0, 1000)",
            "delete from audit_log",
            "alter table audit_log disable trigger all",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                connection.execute(refused)
    finally:
        connection.execute("reset role")
        connection.execute("drop owned by of_the_api")
        connection.execute("drop role of_the_api")


def test_resolved_rejects_go_with_their_raw_rows(connection: Connection, database: str) -> None:
    connection.execute(
        """
        insert into rejected_records (record_key, stream, remote_id, reason, resolved_at)
        select 'opportunities:' || remote_id, 'opportunities', remote_id, 'bad',
            now() - make_interval(days => resolved_days_ago)
        from (values ('old', 91), ('young', 89), ('unresolved', null), ('again', 100))
            as _ (remote_id, resolved_days_ago);

        update rejected_records set rejected_in = 5;
        insert into raw.rejected_records (id, stream, remote_id, _loaded_in)
        select md5(remote_id), 'opportunities', remote_id, batch
        from (values ('old', 5), ('young', 5), ('unresolved', 5), ('again', 6))
            as _ (remote_id, batch);
        """
    )
    housekeeping(database)
    assert column(connection, "select remote_id from rejected_records order by 1") == [
        "unresolved",
        "young",
    ]
    # `again` was resolved and then rejected again, which is not merged yet.
    assert column(connection, "select remote_id from raw.rejected_records order by 1") == [
        "again",
        "unresolved",
        "young",
    ]


def test_raw_rows_of_deleted_deals_go_and_the_deals_stay(
    connection: Connection, database: str
) -> None:
    opportunity(connection, "1", deleted_days_ago=91)
    opportunity(connection, "2", deleted_days_ago=10)
    opportunity(connection, "3", deleted_days_ago=None)
    opportunity(connection, "4", deleted_days_ago=100)
    connection.execute(
        """
        insert into raw.opportunities ("OptyId", _sdc_deleted_at)
        select key, now() - make_interval(days => gone_days_ago)
        from (values (1, 91), (2, 10), (3, null), (4, null)) as _ (key, gone_days_ago)
        """
    )
    housekeeping(database)
    # 4 came back: it was loaded after it had been found gone.
    assert column(connection, 'select "OptyId" from raw.opportunities order by 1') == [2, 3, 4]
    assert column(connection, "select count(*) from opportunities") == [4]


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    changes=st.lists(
        st.tuples(
            st.sampled_from(["1", "2"]),
            st.sampled_from(["stage", "workflow_status"]),
            st.integers(0, 2000),
        ),
        max_size=12,
    ),
    batch=st.integers(1, 4),
)
def test_old_changes_are_deleted_except_the_last_status_change_of_each_deal(
    connection: Connection, changes: list[tuple[str, str, int]], batch: int
) -> None:
    connection.execute("truncate opportunities cascade")
    deals = {remote_id: opportunity(connection, remote_id) for remote_id in ("1", "2")}
    oldest_first = sorted(changes, key=lambda change: -change[2])
    for remote_id, field, days_ago in oldest_first:
        connection.execute(
            """
            insert into opportunity_changes (opportunity_id, field, changed_at)
            values (%s, %s, now() - make_interval(days => %s))
            """,
            [deals[remote_id], field, days_ago],
        )
    last_moves = {
        change[0]: place
        for place, change in enumerate(oldest_first)
        if change[1] == "workflow_status"
    }

    removed = dict(clean(connection, batch))

    kept = [
        (remote_id, field, days_ago)
        for place, (remote_id, field, days_ago) in enumerate(oldest_first)
        if days_ago < 1095 or place in last_moves.values()
    ]
    assert removed["changes of deals after 1095 days (CHANGE_RETENTION_DAYS)"] == len(
        changes
    ) - len(kept)
    left = connection.execute(
        """
        select remote_id, field, current_date - changed_at::date as days_ago
        from opportunity_changes
        inner join opportunities on opportunities.id = opportunity_id
        order by opportunity_changes.id
        """
    ).fetchall()
    assert [tuple(row.values()) for row in left] == kept


def test_old_addresses_go_and_what_happened_stays(connection: Connection, database: str) -> None:
    connection.execute(
        """
        insert into users (name, role) values ('ada', 'viewer');
        insert into tokens
            (user_id, kind, name, secret_hash, expires_at, last_used_at, address, browser)
        select 1, 'personal', name, name::bytea, now() + interval '1 day',
            now() - days * interval '1 day', '192.0.2.1', 'Firefox'
        from (values ('old', 366), ('young', 364)) as _ (name, days);
        insert into sign_in_attempts (name, client, at) values
        ('old', '192.0.2.1', now() - interval '366 days'), ('young', '192.0.2.1', now());
        insert into audit_log (at, user_name, action, subject, subject_id, address, before)
        select now() - days * interval '1 day', name, 'end', 'session', '1', '192.0.2.1',
            '{"browser": "Firefox", "address": "192.0.2.1", "reason": "lost"}'
        from (values ('old', 366), ('young', 364)) as _ (name, days);
        """
    )
    assert housekeeping(database).returncode == 0
    assert column(connection, "select name from tokens where address is not null") == ["young"]
    assert column(connection, "select name from tokens where browser is not null") == ["young"]
    assert column(connection, "select name from sign_in_attempts") == ["young"]
    assert column(connection, "select address from audit_log order by at") == [None, "192.0.2.1"]
    assert column(connection, "select before from audit_log order by at") == [
        {"reason": "lost"},
        {"browser": "Firefox", "address": "192.0.2.1", "reason": "lost"},
    ]


def owners(connection: Connection) -> None:
    """Owners of deals, by what becomes of their names."""
    connection.execute(
        """
        insert into opportunities
            (remote_id, sales_owner, crm_outcome, remote_updated_at, first_synced_at, deleted_at)
        select number, owner, outcome, long_ago + updated::interval, long_ago,
            long_ago + deleted::interval
        from (values
            ('1', '11', 'OPEN', '0', null), ('2', '12', 'WON', '0', null),
            ('3', '13', 'WON', '0', null), ('4', '13', 'LOST', '9 days', null),
            ('5', '14', null, '0', null), ('6', '15', 'OPEN', '0', '0'),
            ('7', '16', 'OPEN', '0', '9 days')
        ) as _ (number, owner, outcome, updated, deleted),
            (select now() - interval '1100 days' as long_ago) as __
        ;
        insert into sales_owners (remote_id, name, email, last_synced_at)
        select id, 'Name ' || id, id || '@example.com', now() - days * interval '1 day'
        from (
            select id, 1100 as days from generate_series(11, 17) as id union all select 18, 1000
        ) as _;
        insert into raw.resources
            ("PartyId", "PartyName", "EmailAddress", "CreatedBy", _sdc_extracted_at)
        select remote_id::bigint, name, email, 'HR', last_synced_at from sales_owners;
        insert into raw.opportunities ("OptyId", "OwnerResourcePartyId", "PartyName1")
        select remote_id::bigint, sales_owner::bigint, 'Name ' || sales_owner from opportunities;
        insert into raw.rejected_records (id, stream, payload)
        values ('1', 'opportunities', '{"PartyName1": "Name 11", "Name": "Deal"}');
        insert into rejected_records (record_key, stream, reason, payload)
        select id, stream, 'bad', payload::jsonb from raw.rejected_records;
        """
    )


def named(connection: Connection) -> dict[str, list[Any]]:
    """The owners who have a name."""
    return {
        "sales_owners": column(
            connection, "select remote_id::int from sales_owners where name is not null order by 1"
        ),
        "resources": column(
            connection,
            'select "PartyId" from raw.resources where "EmailAddress" is not null order by 1',
        ),
        "deals": column(
            connection,
            'select "OwnerResourcePartyId" from raw.opportunities'
            ' where "PartyName1" is not null order by 1',
        ),
    }


def test_owners_are_forgotten_when_their_deals_are_old(
    connection: Connection, database: str
) -> None:
    owners(connection)
    batches = column(connection, "select batch from load_fence")
    assert housekeeping(database, OWNER_RETENTION_DAYS="1095").returncode == 0
    kept = [11, 13, 14, 16, 18]
    assert named(connection) == {
        "sales_owners": kept,
        "resources": kept,
        "deals": [11, 13, 13, 14, 16],
    }
    assert column(connection, "select batch from load_fence") == batches
    assert column(connection, "select count(*) from opportunity_changes") == [0]


def test_what_is_no_longer_read_is_deleted(connection: Connection, database: str) -> None:
    owners(connection)
    done = housekeeping(database, TAP_ORACLE_CRM_OMIT_PERSONAL_DATA="true")
    assert done.returncode == 0, done.stdout
    assert named(connection) == {"sales_owners": [], "resources": [], "deals": []}
    assert column(connection, 'select distinct "CreatedBy" from raw.resources') == [None]
    assert column(connection, "select payload from rejected_records") == [{"Name": "Deal"}]
    assert column(connection, "select payload::jsonb from raw.rejected_records") == [
        {"Name": "Deal"}
    ]


@pytest.mark.parametrize("text", ["0", "-1", "ten", "1.5", "²"])
def test_a_setting_that_is_not_a_number_of_days_stops_it(
    connection: Connection, database: str, text: str
) -> None:
    run(connection, 500, state="FAIL")
    done = housekeeping(database, CHANGE_RETENTION_DAYS=text)
    assert done.returncode == 1
    assert "CHANGE_RETENTION_DAYS: Input should be" in done.stdout
    assert len(column(connection, "select id from sync_logs")) == 1


def test_a_database_that_was_never_synced_needs_no_housekeeping(database: str) -> None:
    done = housekeeping(database)
    assert done.returncode == 0, done.stdout
    assert "Removed 0 raw rows of deleted deals" in done.stdout


def test_meltano_runs_it_every_week(pipeline: Pipeline, tmp_path: Path) -> None:
    schedules = pipeline.meltano("schedule", "list").stdout
    assert "[0 4 * * 0] job weekly-housekeeping: housekeeping" in schedules
    pipeline.query(
        """
        insert into rejected_records (record_key, stream, reason, resolved_at)
        values ('1', 'opportunities', 'bad', now() - interval '1 year')
        """
    )
    done = pipeline.meltano("run", "housekeeping")
    assert done.returncode == 0, done.stdout
    assert "Removed 1 resolved rejects" in done.stdout
    assert pipeline.query("select * from rejected_records") == []


def test_a_lock_ends_it_and_is_named(database: str) -> None:
    with psycopg.connect(database, application_name="report") as holder:
        holder.execute("lock table opportunity_changes")
        done = housekeeping(database, SYNC_LOCK_TIMEOUT="1")
        pid = holder.info.backend_pid
    assert done.returncode == 1
    assert "did not give a lock within 1 s" in done.stdout
    assert f"process {pid} (report, " in done.stdout
    assert "Traceback" not in done.stdout
    assert housekeeping(database).returncode == 0
