"""Notifications, against a real mail server on this machine."""

import asyncio
import html
import socket
from collections.abc import Iterator
from email import message_from_bytes
from email.message import EmailMessage
from email.policy import default
from typing import Any

import psycopg
import pytest
from aiosmtpd.controller import Controller

from api.database import make_pool
from api.notifications import notify, sender
from database.settings import Settings
from tests.runs import add_run


class Mailbox:
    """What takes the mails."""

    def __init__(self, port: int) -> None:
        self.port = port
        self.mails: list[EmailMessage] = []
        self.refuse = False

    async def handle_DATA(self, _server: Any, _session: Any, envelope: Any) -> str:  # noqa: N802
        if self.refuse:
            return "451 Not now"
        self.mails.append(message_from_bytes(envelope.content, policy=default))
        return "250 Taken"


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
    mailbox = Mailbox(port)
    controller = Controller(mailbox, hostname="127.0.0.1", port=port)
    controller.start()
    yield mailbox
    controller.stop()


class Desk:
    """A database and a mailbox: what happens in the one arrives in the other."""

    def __init__(self, database: str, mailbox: Mailbox, settings: Settings) -> None:
        self.database, self.mailbox, self.settings = database, mailbox, settings
        self.url = f"mailto://127.0.0.1:{mailbox.port}?from=sync@example.com&to=ops@example.com"
        self.urls = [self.url]

    def execute(self, sql: str, *parameters: object) -> None:
        with psycopg.connect(self.database) as connection:
            connection.execute(sql, parameters)

    def run(self, state: str, ago: str = "1 minute", **observed: object) -> None:
        """Let a run have ended."""
        succeeded = state == "SUCCESS"
        row: dict[str, Any] = {
            "load_succeeded": succeeded,
            "transform_succeeded": succeeded or None,
            "new_records": 1,
        }
        add_run(self.database, ago, **row | observed)

    def look(self) -> list[str]:
        """Look for incidents, and return the subjects of the mails that came of it."""

        async def once() -> None:
            async with make_pool(self.database, self.settings) as pool:
                await notify(pool, sender(self.urls), late_hours=26)

        before = len(self.mailbox.mails)
        asyncio.run(once())
        return [mail["subject"] for mail in self.mailbox.mails[before:]]

    def last_text(self) -> str:
        """Return the text of the last mail, in one line."""
        body = self.mailbox.mails[-1].get_body(("plain", "html"))
        return html.unescape(" ".join(body.get_content().split())) if body else ""


@pytest.fixture
def desk(database: str, mailbox: Mailbox, settings: Settings) -> Desk:
    return Desk(database, mailbox, settings)


def test_nothing_is_wrong(desk: Desk) -> None:
    assert desk.look() == []
    desk.run("SUCCESS")
    assert desk.look() == []


def test_a_failure_is_told_once_and_its_end_once(desk: Desk) -> None:
    desk.run("SUCCESS", "4 hours")
    desk.run("FAIL", "3 hours", error_message="tap-oracle-crm: 401 Unauthorized")
    assert desk.look() == ["The sync failed"]
    mail = desk.mailbox.mails[-1]
    assert mail["to"] == "ops@example.com"
    assert "401 Unauthorized" in str(mail)
    desk.run("FAIL", "2 hours")
    assert desk.look() == []
    desk.run("SUCCESS", "1 hour")
    assert desk.look() == ["The sync works again"]
    assert desk.look() == []
    desk.run("FAIL")
    assert desk.look() == ["The sync failed"]


def test_a_sync_that_is_tried_again_has_not_failed_yet(desk: Desk) -> None:
    desk.run("SUCCESS", "4 hours")
    desk.run("FAIL", "1 minute")
    desk.execute(
        "insert into schedules (name, job, interval, timezone, last_run_at)"
        " values ('nightly', 'sync', '0 0 * * *', 'UTC', now())"
    )
    assert desk.look() == []
    desk.execute("update schedules set last_succeeded = false")
    assert desk.look() == ["The sync failed"]
    # The next night it is at work again, which is not yet well.
    desk.execute("update schedules set last_succeeded = null")
    assert desk.look() == []
    desk.run("SUCCESS", "1 second")
    desk.execute("update schedules set last_succeeded = true")
    assert desk.look() == ["The sync works again"]


def test_nobody_waits_for_a_scheduler_that_died(desk: Desk) -> None:
    desk.run("FAIL", "1 minute")
    desk.execute(
        "insert into schedules (name, job, interval, timezone, last_run_at, heartbeat_at)"
        " values ('nightly', 'sync', '0 0 * * *', 'UTC', now(), now() - interval '4 minutes')"
    )
    assert desk.look() == ["The sync failed"]


def test_a_scheduled_job_that_failed_for_good(desk: Desk) -> None:
    desk.run("SUCCESS", "1 hour")
    desk.execute(
        "insert into schedules (name, job, interval, timezone, last_run_at)"
        " values ('weekly', 'reconcile', '0 3 * * 0', 'UTC', now())"
    )
    assert desk.look() == []
    desk.execute("update schedules set last_succeeded = false")
    assert desk.look() == ["A scheduled job failed"]
    assert "weekly (meltano run reconcile)" in str(desk.mailbox.mails[-1])
    desk.execute("update schedules set last_succeeded = null")
    assert desk.look() == []
    desk.execute("update schedules set last_succeeded = true")
    assert desk.look() == ["The scheduled jobs work again"]


def test_a_late_sync(desk: Desk) -> None:
    desk.run("SUCCESS", "27 hours")
    assert desk.look() == ["The sync is late"]
    desk.run("SUCCESS")
    assert desk.look() == ["The sync is on time again"]


def test_an_empty_sync(desk: Desk) -> None:
    desk.run("SUCCESS", "2 hours", sync_type="FULL", coverage="complete", new_records=0)
    assert desk.look() == ["The sync is empty"]
    desk.run("SUCCESS", sync_type="FULL", coverage="complete", new_records=5)
    assert desk.look() == ["The sync reads opportunities again"]


def test_an_incremental_sync_may_be_empty(desk: Desk) -> None:
    desk.run("SUCCESS", new_records=0)
    assert desk.look() == []


def test_rejects(desk: Desk) -> None:
    desk.execute(
        "insert into rejected_records (record_key, stream, reason)"
        " values ('a', 'opportunities', 'WinProb is no number')"
    )
    assert desk.look() == ["Records could not be loaded"]
    assert "WinProb is no number" in str(desk.mailbox.mails[-1])
    desk.execute("update rejected_records set resolved_at = now()")
    assert desk.look() == ["All records are loaded"]


def test_what_could_not_be_sent_is_sent_later(desk: Desk) -> None:
    desk.run("FAIL")
    desk.mailbox.refuse = True
    with pytest.raises(ConnectionError):
        desk.look()
    desk.mailbox.refuse = False
    assert desk.look() == ["The sync failed"]
    assert desk.look() == []


def test_a_service_that_is_dead_keeps_nothing_from_the_others(desk: Desk) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        dead = f"mailto://127.0.0.1:{free.getsockname()[1]}?from=a@example.com&to=b@example.com"
    desk.urls = [dead, desk.url]
    desk.execute(
        "insert into rejected_records (record_key, stream, reason) values ('a', 'accounts', 'bad')"
    )
    desk.run("FAIL", "1 minute")
    assert sorted(desk.look()) == ["Records could not be loaded", "The sync failed"]
    assert desk.look() == []
    desk.run("SUCCESS", "0 minutes")
    assert desk.look() == ["The sync works again"]
    assert desk.look() == []


def test_what_is_over_before_it_was_told_is_not_told(desk: Desk) -> None:
    desk.run("FAIL", "2 hours")
    desk.mailbox.refuse = True
    with pytest.raises(ConnectionError):
        desk.look()
    desk.run("SUCCESS")
    desk.mailbox.refuse = False
    assert desk.look() == []


def test_a_cancelled_sync_is_no_failure(desk: Desk) -> None:
    desk.run("FAIL", cancelled_by="ada")
    assert desk.look() == []
    # Nor does it make one that failed before it well.
    desk.run("FAIL", error_message="tap-oracle-crm: 401 Unauthorized")
    assert desk.look() == ["The sync failed"]
    desk.run("FAIL", cancelled_by="ada")
    assert desk.look() == []


def test_a_scheduled_job_that_was_cancelled_is_no_failure(desk: Desk) -> None:
    desk.run("SUCCESS")
    desk.execute(
        "insert into schedules (name, job, interval, timezone, last_run_at, last_succeeded)"
        " values ('weekly', 'reconcile', '0 3 * * 0', 'UTC', now(), false)"
    )
    desk.run("FAIL", kind="reconcile", cancelled_by="ada")
    assert desk.look() == []
    desk.run("FAIL", kind="reconcile")
    assert desk.look() == ["A scheduled job failed"]


def test_the_last_run_is_the_last_whatever_the_clocks_said(desk: Desk) -> None:
    desk.run("FAIL", "-2 hours")
    desk.run("SUCCESS")
    assert desk.look() == []
    desk.run("SUCCESS", "-3 hours")
    desk.run("SUCCESS", "27 hours")
    assert desk.look() == ["The sync is late"]


def test_a_url_that_names_no_service_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match=r"^NOTIFY_URLS: .* 2\. of them$"):
        sender(["mailto://user:secret@example.com", "nonsense://secret"])


def test_each_code_that_nothing_explains_is_told_of(desk: Desk) -> None:
    desk.execute(
        "insert into opportunities (remote_id, unknown_status_code)"
        " values ('1', 'ON_HOLD'), ('2', 'ON_HOLD'), ('3', null)"
    )
    assert desk.look() == ["Nothing explains a status code of the CRM"]
    assert 'code "ON_HOLD": 2.' in desk.last_text()
    assert '"ON_HOLD": OPEN' in desk.last_text()
    # A further code is told of while the first is still open.
    desk.execute("update opportunities set unknown_status_code = 'LOST?' where remote_id = '3'")
    assert desk.look() == ["Nothing explains a status code of the CRM"]
    assert 'code "LOST?": 1.' in desk.last_text()
    assert desk.look() == []
    desk.execute(
        "update opportunities set unknown_status_code = null, crm_outcome = 'OPEN'"
        " where unknown_status_code = 'ON_HOLD'"
    )
    assert desk.look() == ["A status code is explained"]
    assert "ON_HOLD" in desk.last_text()
    assert desk.look() == []
