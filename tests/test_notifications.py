"""Alerts about problems with the syncs, with real HTTP services and a real database."""

import json
import logging
import os
import socket
import socketserver
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from datetime import timedelta
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any, ClassVar

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict

from database.environment import ROOT
from notifications import __main__ as command
from notifications import incidents, outage
from notifications.conditions import late_hours
from notifications.messages import Message
from notifications.outage import Outage
from notifications.services import Services, send_test
from notifications.watcher import Watcher
from tests.conftest import Pipeline, wait_until
from tests.receiver import Receiver
from tests.runs import add_run
from tests.warehouse import create_database

DAY = 24 * 60 * 60


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


class Desk:
    """A database with problems, and a service that receives the alerts."""

    def __init__(self, database: str, receiver: Receiver) -> None:
        self.database, self.receiver = database, receiver
        self.urls = [receiver.url()]

    def execute(self, sql: str, *parameters: object) -> None:
        with psycopg.connect(self.database) as connection:
            connection.execute(sql, parameters)

    def run(self, state: str, ago: str = "1 minute", **observed: object) -> str:
        """Add a run that has ended, and return its id."""
        succeeded = state == "SUCCESS"
        row: dict[str, Any] = {
            "load_succeeded": succeeded,
            "transform_succeeded": succeeded or None,
            "new_records": 1,
        }
        return add_run(self.database, ago, **row | observed)

    def reject(self, count: int, reason: str = 'WinProb: "high" is not a number') -> None:
        """Add rejected records."""
        self.execute(
            "insert into rejected_records (record_key, stream, reason)"
            " select gen_random_uuid(), 'opportunities', %s from generate_series(1, %s)",
            reason,
            count,
        )

    def watcher(self, patience: float = 0) -> Watcher:
        """Return a watcher, as in a new process."""
        return Watcher(self.database, Services(" ".join(self.urls)), 26, patience=patience)

    def check(self) -> list[str]:
        """Check once, and return the titles of the new messages to the first service."""
        before = len(self.receiver.titles())
        self.watcher().check()
        return self.receiver.titles()[before:]

    def last_text(self) -> str:
        """Return the text of the last message."""
        return str(self.receiver.received[-1][1]["message"])

    def pass_time(self, interval: str) -> None:
        """Let time pass since the last messages and attempts."""
        self.execute(
            "update notifications set sent_at = sent_at - %s::interval, next_attempt_at"
            " = case when isfinite(next_attempt_at) then next_attempt_at - %s::interval"
            " else next_attempt_at end",
            interval,
            interval,
        )

    @contextmanager
    def without_database(self) -> Iterator[None]:
        """Allow no connections to the database."""
        name = str(conninfo_to_dict(self.database)["dbname"])
        server = self.database.removesuffix(name) + "postgres"
        allow = sql.SQL("alter database {} allow_connections {}")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute(allow.format(sql.Identifier(name), sql.Literal(False)))
            try:
                yield
            finally:
                connection.execute(allow.format(sql.Identifier(name), sql.Literal(True)))


@pytest.fixture(scope="module")
def reused(postgres: str, migrated: str) -> str:
    """The URL of a database that is emptied for each test, which is faster than a new one."""
    return create_database(postgres, "notified", migrated)


@pytest.fixture
def desk(reused: str, receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Desk:
    monkeypatch.setattr(outage, "DATA", tmp_path)
    desk = Desk(reused, receiver)
    desk.execute(
        "truncate sync_runs, schedules, incidents, rejected_records, opportunities,"
        " crm_attributes, declared_fields cascade"
    )
    return desk


def test_no_problem_sends_no_alert(desk: Desk) -> None:
    assert desk.check() == []
    desk.run("SUCCESS")
    assert desk.check() == []


def test_a_failure_is_sent_once_and_its_end_once(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    desk.run("SUCCESS", "4 hours")
    desk.run("FAIL", "3 hours", error_message="tap-oracle-crm: 401 Unauthorized")
    assert desk.check() == ["The sync failed"]
    assert desk.last_text() == "tap-oracle-crm: 401 Unauthorized"
    assert desk.receiver.received[-1][1]["type"] == "failure"
    desk.run("FAIL", "2 hours", error_message="tap-oracle-crm: 401 Unauthorized")
    assert desk.check() == []
    desk.run("SUCCESS", "1 hour")
    assert desk.check() == ["The sync works again"]
    assert desk.check() == []
    monkeypatch.setenv("API_PUBLIC_URL", "https://crm.example.com/")
    run_id = desk.run("FAIL", error_message="tap-oracle-crm: 401 Unauthorized")
    desk.reject(1)
    assert desk.check() == ["The sync failed", "Records could not be loaded"]
    failed, rejects = (message["message"] for _, message in desk.receiver.received[-2:])
    assert failed.splitlines() == [
        "tap-oracle-crm: 401 Unauthorized",
        f"See https://crm.example.com/sync/runs/{run_id}",
    ]
    assert rejects.splitlines()[-1] == "See https://crm.example.com/sync/rejects"


def test_a_sync_that_will_be_retried_has_not_failed_yet(desk: Desk) -> None:
    desk.run("SUCCESS", "4 hours")
    desk.run("FAIL", "1 minute")
    desk.execute(
        "insert into schedules (name, job, interval, timezone, last_run_at)"
        " values ('nightly', 'sync', '0 0 * * *', 'UTC', now())"
    )
    assert desk.check() == []
    desk.execute("update schedules set last_succeeded = false")
    assert desk.check() == ["The sync failed"]
    # The next night it is at work again, which is not yet well.
    desk.execute("update schedules set last_succeeded = null")
    assert desk.check() == []
    desk.run("SUCCESS", "1 second")
    desk.execute("update schedules set last_succeeded = true")
    assert desk.check() == ["The sync works again"]


def test_a_dead_scheduler_delays_no_alert(desk: Desk) -> None:
    desk.run("FAIL", "1 minute")
    desk.execute(
        "insert into schedules (name, job, interval, timezone, last_run_at, heartbeat_at)"
        " values ('nightly', 'sync', '0 0 * * *', 'UTC', now(), now() - interval '4 minutes')"
    )
    assert desk.check() == ["The sync failed"]


def test_a_scheduled_job_that_failed_in_all_attempts(desk: Desk) -> None:
    desk.run("SUCCESS", "1 hour")
    desk.execute(
        "insert into schedules (name, job, interval, timezone, last_run_at)"
        " values ('weekly', 'reconcile', '0 3 * * 0', 'UTC', now())"
    )
    assert desk.check() == []
    desk.execute("update schedules set last_succeeded = false")
    assert desk.check() == ["A scheduled job failed"]
    assert "weekly (meltano run reconcile)" in desk.last_text()
    desk.execute("update schedules set last_succeeded = null")
    assert desk.check() == []
    desk.execute("update schedules set last_succeeded = true")
    assert desk.check() == ["No scheduled job fails any more"]


def test_a_late_sync(desk: Desk) -> None:
    desk.run("SUCCESS", "27 hours")
    assert desk.check() == ["The sync is late"]
    desk.run("SUCCESS")
    assert desk.check() == ["The sync is on time again"]


def test_an_empty_sync(desk: Desk) -> None:
    desk.run("SUCCESS", "2 hours", sync_type="FULL", coverage="complete", new_records=0)
    assert desk.check() == ["The sync is empty"]
    desk.run("SUCCESS", sync_type="FULL", coverage="complete", new_records=5)
    assert desk.check() == ["The sync reads opportunities again"]


def test_an_incremental_sync_may_be_empty(desk: Desk) -> None:
    desk.run("SUCCESS", new_records=0)
    assert desk.check() == []


def test_a_cancelled_sync_is_no_failure(desk: Desk) -> None:
    desk.run("FAIL", cancelled_by="ada")
    assert desk.check() == []
    # Nor does it make one that failed before it well.
    desk.run("FAIL", error_message="tap-oracle-crm: 401 Unauthorized")
    assert desk.check() == ["The sync failed"]
    desk.run("FAIL", cancelled_by="ada")
    assert desk.check() == []


def test_a_scheduled_job_that_was_cancelled_is_no_failure(desk: Desk) -> None:
    desk.run("SUCCESS")
    desk.execute(
        "insert into schedules (name, job, interval, timezone, last_run_at, last_succeeded)"
        " values ('weekly', 'reconcile', '0 3 * * 0', 'UTC', now() - interval '1 hour', false)"
    )
    desk.run("FAIL", kind="reconcile", trigger="schedule", cancelled_by="ada")
    assert desk.check() == []
    desk.run("FAIL", kind="reconcile", trigger="schedule", error_message="Refused to mark 9")
    assert desk.check() == ["A scheduled job failed"]
    assert desk.last_text() == "weekly (meltano run reconcile): Refused to mark 9"
    # Nor does it make one that failed before it well.
    desk.run("FAIL", kind="reconcile", trigger="schedule", cancelled_by="ada")
    assert desk.check() == []


@pytest.mark.parametrize(
    ("job", "run"),
    [
        ("reconcile", {"kind": "reconcile", "run_number": 1}),
        ("build", {"kind": "other", "run_number": None, "job": "dbt-postgres:build"}),
    ],
)
def test_a_success_by_hand_ends_the_failure_of_a_scheduled_job(
    desk: Desk, job: str, run: dict[str, Any]
) -> None:
    desk.run("SUCCESS")
    failed_in_all_attempts(desk, job, run)
    assert desk.check() == ["A scheduled job failed"]
    # What proves nothing: the cancelled run, the one of another job, the one before.
    desk.run("FAIL", cancelled_by="ada", **run)
    desk.run("SUCCESS", kind="other", run_number=None, job="housekeeping:clean")
    assert desk.check() == []
    desk.run("SUCCESS", **run)
    assert desk.check() == ["No scheduled job fails any more"]
    # The next night it can't even begin.
    desk.execute("update schedules set last_run_at = now()")
    assert desk.check() == ["A scheduled job failed"]


def test_a_job_that_fails_without_a_word_is_not_well(desk: Desk) -> None:
    # Meltano has ended with an error that it did not log.
    run: dict[str, Any] = {"kind": "other", "run_number": None, "job": "dbt-postgres:build"}
    failed_in_all_attempts(desk, "build", run)
    desk.run("SUCCESS", trigger="schedule", **run)
    assert desk.check() == ["A scheduled job failed"]


def test_a_paused_schedule_is_no_alert(desk: Desk) -> None:
    failed_in_all_attempts(desk, "reconcile", {"kind": "reconcile"})
    assert desk.check() == ["A scheduled job failed"]
    desk.execute("update schedules set paused_at = now(), paused_by = 'ada'")
    assert desk.check() == ["No scheduled job fails any more"]
    desk.execute("update schedules set paused_at = null, paused_by = null")
    assert desk.check() == ["A scheduled job failed"]


def failed_in_all_attempts(desk: Desk, job: str, run: dict[str, Any]) -> None:
    """Let a schedule of this job be given up, an hour ago."""
    desk.execute(
        "insert into schedules (name, job, tasks, interval, timezone, last_run_at, last_succeeded)"
        " values ('weekly', %s, %s, '0 3 * * 0', 'UTC', now() - interval '1 hour', false)",
        job,
        run.get("job"),
    )
    desk.run("SUCCESS", "1 week", trigger="schedule", **run)
    desk.run("FAIL", "59 minutes", trigger="schedule", error_message="It failed.", **run)


def test_the_last_run_is_the_last_whatever_the_clocks_said(desk: Desk) -> None:
    desk.run("FAIL", "-2 hours")
    desk.run("SUCCESS")
    assert desk.check() == []
    desk.run("SUCCESS", "-3 hours")
    desk.run("SUCCESS", "27 hours")
    assert desk.check() == ["The sync is late"]


def test_a_reconcile_without_the_scheduler(desk: Desk) -> None:
    desk.run("SUCCESS")
    desk.run("FAIL", kind="reconcile", error_message="Refused to mark 9")
    assert desk.check() == ["The reconcile failed"]
    assert desk.last_text() == "Refused to mark 9"
    desk.run("SUCCESS", kind="reconcile")
    assert desk.check() == ["The reconcile works again"]


def test_airflow_sends_its_own_alerts(desk: Desk) -> None:
    desk.run("FAIL", trigger="airflow")
    assert desk.check() == []
    # But an open incident stays open until a sync succeeds.
    desk.run("FAIL")
    assert desk.check() == ["The sync failed"]
    desk.run("FAIL", trigger="airflow")
    assert desk.check() == []


def test_each_further_cause_of_an_open_incident_is_sent_once(desk: Desk) -> None:
    desk.run("FAIL", error_message="tap-oracle-crm: 503, gave up after 61.2 s")
    assert desk.check() == ["The sync failed"]
    desk.run("FAIL", error_message="tap-oracle-crm: 503, gave up after 64.9 s")
    assert desk.check() == []
    desk.run("FAIL", error_message="tap-oracle-crm: 401, gave up after 0.2 s")
    assert desk.check() == ["The sync failed for another reason"]
    assert "401" in desk.last_text()
    desk.run("FAIL", error_message="tap-oracle-crm: 503, gave up after 61.2 s")
    assert desk.check() == []


def test_more_rejects_are_sent_when_they_double_or_have_a_new_reason(desk: Desk) -> None:
    desk.reject(1)
    assert desk.check() == ["Records could not be loaded"]
    assert desk.last_text() == (
        '1 records are waiting, the last because of: WinProb: "high" is not a number'
    )
    assert desk.check() == []
    desk.reject(499)
    assert desk.check() == ["More records could not be loaded"]
    assert "500 records" in desk.last_text()
    desk.reject(1, 'WinProb: "low" is not a number')
    assert desk.check() == []
    desk.reject(1, "EffectiveDate: 2026-02-30 is no date that exists")
    assert desk.check() == ["More records could not be loaded"]
    desk.execute("update rejected_records set resolved_at = now()")
    assert desk.check() == ["All records are loaded"]


def test_an_open_incident_is_repeated_daily(desk: Desk) -> None:
    desk.run("FAIL", error_message="tap-oracle-crm: 401 Unauthorized")
    assert desk.check() == ["The sync failed"]
    desk.pass_time("23 hours")
    assert desk.check() == []
    desk.pass_time("2 hours")
    assert desk.check() == ["Reminder: The sync failed"]
    assert desk.last_text() == "tap-oracle-crm: 401 Unauthorized"
    assert desk.check() == []


def test_a_refused_message_is_sent_later(desk: Desk) -> None:
    desk.run("FAIL")
    desk.receiver.refusing["ops"] = 503
    assert desk.check() == []
    del desk.receiver.refusing["ops"]
    assert desk.check() == [], "only after a minute"
    desk.pass_time("1 minute")
    assert desk.check() == ["The sync failed"]
    assert desk.check() == []


def test_a_dead_service_does_not_affect_the_others(desk: Desk) -> None:
    desk.urls.append(desk.receiver.url("pager"))
    desk.receiver.refusing["pager"] = 500
    desk.reject(1)
    desk.run("FAIL", "1 minute")
    assert sorted(desk.check()) == ["Records could not be loaded", "The sync failed"]
    for _ in range(3):
        desk.pass_time("1 hour")
        assert desk.check() == []
    desk.execute("update rejected_records set resolved_at = now()")
    assert desk.check() == ["All records are loaded"]
    # It gets one message about the open incident, and none about the one that is over.
    del desk.receiver.refusing["pager"]
    desk.pass_time("2 hours")
    assert desk.check() == []
    assert desk.receiver.titles("pager") == ["The sync failed"]
    desk.run("SUCCESS", "0 minutes")
    assert desk.check() == ["The sync works again"]
    assert desk.receiver.titles("pager") == ["The sync failed", "The sync works again"]


def test_concurrent_checks_send_each_message_once(desk: Desk) -> None:
    desk.urls.append(desk.receiver.url("pager"))
    desk.receiver.delay = 0.2
    desk.run("FAIL")
    desk.reject(3)
    watchers = [desk.watcher() for _ in range(8)]
    with ThreadPoolExecutor(len(watchers)) as pool:
        list(pool.map(Watcher.check, watchers))
    received = sorted((name, message["title"]) for name, message in desk.receiver.received)
    assert received == [
        (name, title)
        for name in ("ops", "pager")
        for title in ("Records could not be loaded", "The sync failed")
    ]


def test_another_process_sends_what_a_dead_one_has_claimed(desk: Desk) -> None:
    desk.run("FAIL")
    with closing(incidents.connect(desk.database)) as connection:
        incidents.update(connection, 26)
        assert incidents.claim(connection, 1)
    assert desk.check() == []
    desk.pass_time("1 minute")
    assert desk.check() == ["The sync failed"]


def test_many_failed_sign_ins(desk: Desk) -> None:
    fail = "insert into sign_in_attempts (name, client) select 'ada', '192.0.2.' || i from "
    desk.execute(fail + "generate_series(1, 19) as i")
    assert desk.check() == []
    desk.execute(fail + "generate_series(1, 1) as i")
    assert desk.check() == ["Many sign-ins failed"]
    assert (
        "20 sign-ins failed within 15 minutes: of 1 names, from 19 addresses." in desk.last_text()
    )
    desk.execute(fail + "generate_series(1, 20) as i")
    assert desk.check() == ["More sign-ins failed"]
    desk.execute("update sign_in_attempts set at = at - interval '15 minutes'")
    assert desk.check() == ["Sign-ins no longer fail"]


def test_unknown_status_codes(desk: Desk) -> None:
    desk.execute(
        "insert into opportunities (remote_id, unknown_status_code)"
        " values ('1', 'ON_HOLD'), ('2', 'ON_HOLD'), ('3', null)"
    )
    assert desk.check() == ["Nothing explains a status code of the CRM"]
    assert '"ON_HOLD": 2.' in desk.last_text()
    assert '"ON_HOLD": OPEN' in desk.last_text()
    desk.execute("update opportunities set unknown_status_code = 'LOST?' where remote_id = '3'")
    assert desk.check() == ["Nothing explains a further status code of the CRM"]
    assert '"ON_HOLD": 2, "LOST?": 1.' in desk.last_text()
    assert desk.check() == []
    desk.execute("update opportunities set unknown_status_code = null, crm_outcome = 'OPEN'")
    assert desk.check() == ["All status codes are explained"]


def test_new_attributes_of_the_crm_are_told_once(desk: Desk) -> None:
    add = (
        "insert into crm_attributes (name, type, first_seen_at)"
        " select unnest(%s::text[]), 'number', now() - %s"
    )
    desk.execute(add, ["Name", "Budget_c", "Margin_c"], timedelta(weeks=1))
    desk.execute(
        "insert into declared_fields (name, attribute, filter, sort, place, position)"
        " values ('budget', 'Budget_c', false, false, 'deal', 0)"
    )
    assert desk.check() == []

    desk.execute(add, ["GoLive_c", "Score_c"], timedelta())
    assert desk.check() == ["The CRM has changed its attributes"]
    assert "new in the CRM: GoLive_c (number) (add under fields: - GoLive_c);" in desk.last_text()
    assert "Margin_c" not in desk.last_text()
    desk.pass_time("2 days")
    assert desk.check() == []

    desk.execute(
        "update crm_attributes set type = 'string', previous_type = type, type_changed_at = now()"
        " where name = 'Budget_c'"
    )
    desk.execute("update crm_attributes set gone_since = now() where name = 'Margin_c'")
    assert desk.check() == ["The CRM has changed further attributes"]
    assert "Budget_c was number, is string (to choose the type yourself:" in desk.last_text()
    assert "gone from the CRM: Margin_c" in desk.last_text()
    aged = "update crm_attributes set {0} = {0} - interval '15 days'"
    for column in ("first_seen_at", "gone_since", "type_changed_at"):
        desk.execute(aged.format(column))
    assert desk.check() == []

    # A field that people declared stays news as long as it is gone.
    desk.execute(
        "update crm_attributes set gone_since = now() - interval '15 days' where name = 'Budget_c'"
    )
    assert desk.check() == ["The CRM has changed its attributes"]
    assert "Budget_c; budget is empty from now on" in desk.last_text()


def test_an_outage_of_the_database_is_sent_once_for_all_processes(desk: Desk) -> None:
    desk.urls.append(desk.receiver.url("pager"))
    with desk.without_database():
        assert desk.check() == ["The database cannot be used"]
        assert "not currently accepting connections" in desk.last_text()
        assert desk.check() == []
        age(Outage.of(desk.database), DAY)
        assert desk.check() == ["Reminder: The database cannot be used"]
    assert desk.check() == ["The database can be used again"]
    assert desk.check() == []
    assert desk.receiver.titles("pager") == desk.receiver.titles()


def test_a_dead_service_gets_the_outage_later(desk: Desk) -> None:
    desk.urls.append(desk.receiver.url("pager"))
    desk.receiver.refusing["pager"] = 500
    with desk.without_database():
        assert desk.check() == ["The database cannot be used"]
        del desk.receiver.refusing["pager"]
        age(Outage.of(desk.database), 60)
        assert desk.check() == []
        assert desk.receiver.titles("pager") == ["The database cannot be used"]
        desk.receiver.refusing["pager"] = 500
    assert desk.check() == ["The database can be used again"]
    del desk.receiver.refusing["pager"]
    age(Outage.of(desk.database), 60)
    assert desk.check() == []
    assert desk.receiver.titles("pager")[1:] == ["The database can be used again"]


def test_a_restart_of_the_database_is_no_outage(desk: Desk) -> None:
    with desk.without_database():
        desk.watcher(patience=30).check()
        age(Outage.of(desk.database), 29)
        desk.watcher(patience=30).check()
    assert desk.check() == []
    assert not Outage.of(desk.database).is_known()
    with desk.without_database():
        desk.watcher(patience=30).check()
        age(Outage.of(desk.database), 31)
        desk.watcher(patience=30).check()
    assert desk.receiver.titles() == ["The database cannot be used"]


def test_an_outage_is_sent_once_even_if_no_file_can_be_written(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "DATA", tmp_path / "file")
    (tmp_path / "file").touch()
    watcher = desk.watcher()
    with desk.without_database():
        watcher.check()
        watcher.check()
    watcher.check()
    watcher.check()
    assert desk.receiver.titles() == [
        "The database cannot be used",
        "The database can be used again",
    ]


def test_missing_tables_are_an_outage(desk: Desk, database: str) -> None:
    desk.database = database
    desk.execute("drop view sync_logs cascade")
    assert desk.check() == ["The database cannot be used"]
    assert desk.last_text().endswith(': relation "sync_logs" does not exist')


def test_a_watcher_checks_at_intervals(desk: Desk) -> None:
    services = Services(desk.urls[0])
    with Watcher(desk.database, services, 26, interval=0.05, patience=0):
        desk.run("FAIL")
        wait_until(lambda: desk.receiver.titles() == ["The sync failed"])
        desk.run("SUCCESS", "0 minutes")
        wait_until(lambda: desk.receiver.titles()[1:] == ["The sync works again"])


@pytest.fixture
def log() -> Iterator[list[str]]:
    """The log, with the level of the API."""
    lines: list[str] = []

    class Lines(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record.getMessage())

    root, handler = logging.getLogger(), Lines()
    level = root.level
    root.setLevel(logging.INFO)
    root.addHandler(handler)
    yield lines
    root.removeHandler(handler)
    root.setLevel(level)


def test_the_api_checks_as_well(desk: Desk) -> None:
    desk.reject(1)
    api = subprocess.Popen(
        [sys.executable, "-m", "api"],
        cwd=ROOT,
        env=os.environ
        | {"DATABASE_URL": desk.database, "API_PORT": "0", "NOTIFY_URLS": desk.urls[0]},
    )
    wait_until(lambda: desk.receiver.titles() or api.poll() is not None)
    api.terminate()
    api.wait()
    assert desk.receiver.titles() == ["Records could not be loaded"]


def test_a_wrong_number_of_hours_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_LATE_HOURS", "a day")
    with pytest.raises(ValueError, match=r"^NOTIFY_LATE_HOURS must be a whole number"):
        late_hours()


def test_an_unknown_address_is_refused_without_showing_it(
    log: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(ValueError, match=r"^NOTIFY_URLS: .* address 2$"):
        Services("mailto://user:secret@example.com nonsense://secret")
    assert log == []
    assert capfd.readouterr() == ("", "")


def test_a_failed_message_is_logged_without_secrets(
    desk: Desk, log: list[str], capfd: pytest.CaptureFixture[str]
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"127.0.0.1:{free.getsockname()[1]}"
    desk.urls = [
        desk.receiver.url("token1234", user="ada:s%2Fcret5"),
        f"json://ada:s%2Fcret5@{dead}/token1234?-key=token5678",
    ]
    desk.receiver.refusing["token1234"] = 401
    desk.run("FAIL")
    assert desk.check() == []
    refused, unreachable = log
    assert refused.startswith("service 1 (json) of NOTIFY_URLS did not accept a message")
    assert "401" in refused
    assert unreachable.startswith("service 2 (json) of NOTIFY_URLS did not accept a message")
    shown = " ".join([*log, *capfd.readouterr()])
    assert not any(secret in shown for secret in ("cret5", "token"))


def test_the_test_message(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_URLS", f"{desk.receiver.url()} {desk.receiver.url('pager')}")
    desk.receiver.refusing["pager"] = 503
    accepted, refused = send_test().items()
    assert accepted == ("1 (json)", None)
    assert refused[0] == "2 (json)"
    assert "503" in str(refused[1])
    assert desk.receiver.titles() == ["Test"]
    monkeypatch.setenv("NOTIFY_URLS", "")
    assert send_test() == {}


def age(known: Outage, seconds: float) -> None:
    """Let time pass in the state of an outage."""

    def older(value: Any) -> Any:
        match value:
            case dict():
                return {name: older(one) for name, one in value.items()}
            case float():
                return value - seconds
        return value

    known._path.write_text(json.dumps(older(json.loads(known._path.read_text()))))


@pytest.mark.parametrize(
    ("address", "problem"),
    [
        ("http://{}/secret5", "could not be called: timed out"),
        ("http://{}/secret 5", "could not be called: InvalidURL"),
        ("ftp://{}/secret5", "must begin with https:// or http://"),
    ],
)
def test_a_dead_mans_switch_that_cannot_be_called(
    receiver: Receiver,
    log: list[str],
    monkeypatch: pytest.MonkeyPatch,
    address: str,
    problem: str,
) -> None:
    monkeypatch.setattr(command, "DEADLINE_SECONDS", 0.1)
    monkeypatch.setenv("NOTIFY_SUCCESS_URL", address.format(receiver.address))
    receiver.delay = 0.5
    command.call_success_url()
    assert log == [f"NOTIFY_SUCCESS_URL {problem}"]


def end_run(desk: Desk, run_id: str, **environment: str) -> None:
    """Let a process end that has registered a run."""
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from notifications import run_end; run_end.prepare(*sys.argv[1:])",
            desk.database,
            run_id,
        ],
        cwd=ROOT,
        check=True,
        env=os.environ
        | {
            "DATABASE_URL": desk.database,
            "NOTIFY_URLS": desk.urls[0],
            "NOTIFY_SUCCESS_URL": f"http://{desk.receiver.address}/ping",
        }
        | environment,
    )


def test_only_a_successful_sync_calls_the_dead_mans_switch(desk: Desk) -> None:
    desk.urls = [""]
    end_run(desk, add_run(desk.database, kind="reconcile"))
    end_run(desk, add_run(desk.database, load_succeeded=False))
    end_run(desk, add_run(desk.database, cancelled_by="ada"))
    assert desk.receiver.called == []
    end_run(desk, add_run(desk.database))
    assert desk.receiver.called == ["/ping"]


@pytest.mark.parametrize(("trigger", "sent"), [("schedule", []), ("shell", ["The sync failed"])])
def test_a_run_leaves_the_alerts_to_the_scheduler_that_started_it(
    desk: Desk, trigger: str, sent: list[str]
) -> None:
    failed = add_run(desk.database, load_succeeded=False)
    end_run(desk, failed, MELTANO_JOB_TRIGGER=trigger)
    assert desk.receiver.titles() == sent


@pytest.fixture
def no_outage(pipeline: Pipeline) -> Iterator[None]:
    """Remove the outage file that runs in other processes write."""
    yield
    Outage.of(pipeline.database)._path.unlink(missing_ok=True)


@pytest.mark.usefixtures("no_outage")
def test_a_run_sends_its_failure_and_calls_the_dead_mans_switch(
    pipeline: Pipeline, receiver: Receiver
) -> None:
    pipeline.environment |= {
        "NOTIFY_URLS": receiver.url(),
        "NOTIFY_SUCCESS_URL": f"http://{receiver.address}/ping/secret5",
    }
    pipeline.crm.fault("error", status=403)
    assert pipeline.meltano("run", "sync").returncode == 1
    assert receiver.titles() == ["The sync failed"]
    assert "403" in receiver.received[-1][1]["message"]
    pipeline.crm.clear_faults()
    assert receiver.called == []

    receiver.refusing["ping/secret5"] = 404
    done = pipeline.meltano("run", "sync")
    assert done.returncode == 0
    assert receiver.titles()[1:] == ["The sync works again"]
    assert receiver.called == ["/ping/secret5"]
    assert "NOTIFY_SUCCESS_URL was called, and answered 404" in done.stdout
    assert "secret5" not in done.stdout

    with Desk(pipeline.database, receiver).without_database():
        assert pipeline.meltano("run", "sync").returncode == 1
    assert receiver.titles()[2:] == ["The database cannot be used"]


class _MailServer(socketserver.StreamRequestHandler):
    """Takes one mail after the other, and keeps them."""

    mails: ClassVar[list[EmailMessage]] = []

    def handle(self) -> None:
        self.wfile.write(b"220 ready\r\n")
        for line in self.rfile:
            command = line.strip().upper()
            if command == b"DATA":
                self.wfile.write(b"354 go on\r\n")
                lines = list(iter(self.rfile.readline, b".\r\n"))
                mail = message_from_bytes(b"".join(lines), policy=default)
                assert isinstance(mail, EmailMessage)
                self.mails.append(mail)
            self.wfile.write(b"250 yes\r\n")


def test_mails_are_plain_text() -> None:
    body = 'reason: <a href="http://evil.example">Renew your password</a>'
    with socketserver.ThreadingTCPServer(("127.0.0.1", 0), _MailServer) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        port = server.server_address[1]
        people = "from=crm@example.com&to=ops@example.com"
        services = Services(f"mailto://127.0.0.1:{port}/?smtp=127.0.0.1&mode=insecure&{people}")
        assert services.send(1, Message("1 record was rejected", body, "failure")) is None
        server.shutdown()
    (mail,) = _MailServer.mails
    assert [part.get_content_type() for part in mail.walk()] == ["text/plain"]
    assert body in mail.get_content()
