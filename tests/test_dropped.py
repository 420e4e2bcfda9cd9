"""What somebody has dropped is noticed everywhere, and made again by `make setup`."""

import psycopg
import pytest

from database import objects
from database.migrate import migrate, migrate_if_needed
from orchestrate.doctor import Check, Finding, checks, examine
from tests.api.conftest import DefaultSettings, calling
from tests.conftest import Pipeline, assert_equal_to_crm, wait_until


def of_database(check: Check) -> bool:
    return check.name in {"database", "migrations", "objects", "views"}


def found(database: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Finding]:
    """Return what the doctor finds of the tables and views, by its lines."""
    monkeypatch.setenv("DATABASE_URL", database)
    monkeypatch.setattr("orchestrate.doctor.database_url", lambda: database)
    return {finding.check: finding for finding in examine(filter(of_database, checks()))}


def execute(database: str, statement: str) -> None:
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute(statement)


def test_every_table_is_known(database: str) -> None:
    with psycopg.connect(database) as connection:
        tables = connection.execute(
            "select schemaname || '.' || tablename from pg_tables"
            " where schemaname in ('public', 'meltano') order by 1"
        ).fetchall()
        assert objects.missing(connection) == []
    known = [f"meltano.{name}" for name in objects.MELTANO_TABLES]
    known += [f"public.{name}" for name in objects.tables() | {"opportunity_totals"}]
    assert [name for (name,) in tables] == sorted(known)


@pytest.mark.parametrize(
    ("dropped", "named"),
    [
        ("drop schema meltano cascade", "schema meltano"),
        ("drop schema raw cascade", "schema raw"),
        ("drop schema staging cascade", "schema staging"),
        ("drop table meltano.runs", "table meltano.runs"),
        ("drop table raw.accounts", "table raw.accounts"),
        ("drop view sync_logs cascade", "view public.sync_logs"),
        (
            "drop view run_logs cascade",
            "view public.run_logs, view public.schedule_outcomes, view public.sync_logs",
        ),
        ("drop table opportunity_totals", "table public.opportunity_totals"),
        ("drop function check_run", "function public.check_run"),
        ("drop function search_matches", "function public.search_matches"),
        (
            "drop function record_opportunity_changes cascade",
            "function public.record_opportunity_changes, trigger record_changes",
        ),
    ],
)
def test_what_was_dropped_is_told_and_made_again(
    database: str, dropped: str, named: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert found(database, monkeypatch)["tables and views"].status == "ok"
    execute(database, dropped)
    finding = found(database, monkeypatch)["tables and views"]
    assert (finding.status, finding.detail) == ("error", f"missing: {named}")
    assert finding.advice.startswith("Run make setup: it makes them again.")
    assert ("reads everything" in finding.advice) == ("raw" in named)
    with calling(database, DefaultSettings()) as caller:
        answer = caller.get("/health/ready")
        assert answer.status_code == 503
        assert answer.json()["detail"].startswith(f"The database lacks {named}")
        migrate(database)
        # It asks at most once a second.
        wait_until(lambda: caller.get("/health/ready").status_code == 200)
        assert caller.get("/api/sync-history").status_code == 200
    assert found(database, monkeypatch)["tables and views"].status == "ok"


def test_rows_that_only_a_backup_has(
    database: str, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    execute(database, "drop table assessment_comments")
    finding = found(database, monkeypatch)["tables and views"]
    assert "its rows with it: table public.assessment_comments" in finding.detail
    assert "Restore a backup" in finding.advice
    with pytest.raises(SystemExit):
        migrate_if_needed(database)
    said = capfd.readouterr().err
    assert "table public.assessment_comments of the database is gone" in said
    assert "Traceback" not in said


def test_a_raw_table_that_a_release_brings_costs_no_full_read(database: str) -> None:
    state = "insert into meltano.state (state_id, updated_at) values ('dev:sync', now())"
    for of_other_files, kept in ((True, 1), (False, 0)):
        execute(database, state)
        execute(database, "drop table raw.accounts")
        if of_other_files:
            execute(database, "comment on table alembic_version is 'of other files'")
        migrate(database)
        with psycopg.connect(database) as connection:
            assert connection.execute("select * from meltano.state").rowcount == kept
        execute(database, "delete from meltano.state")


def test_after_the_raw_tables_are_gone_everything_is_read(
    synced: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids = synced.query("select id, remote_id from opportunities order by id")
    synced.query("drop schema raw cascade")
    views = found(synced.database, monkeypatch)["tables and views"]
    assert "The next sync then reads everything." in views.advice
    migrate(synced.database)
    assert "stg_opportunities" in found(synced.database, monkeypatch)["views of dbt"].detail
    again = synced.sync()
    assert (again["sync_type"], again["new_records"]) == ("FULL", 0)
    assert synced.query("select count(*) as rows from raw.opportunities") == [{"rows": len(ids)}]
    assert synced.query("select id, remote_id from opportunities order by id") == ids
    assert_equal_to_crm(synced)
    assert "views of dbt" not in found(synced.database, monkeypatch)
