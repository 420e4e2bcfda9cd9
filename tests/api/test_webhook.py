"""The CRM's calls: who may call, and what comes of calls."""

import hashlib
import hmac
import time
from base64 import b64encode
from collections.abc import Callable

import psycopg
import pytest
from pydantic import SecretStr

from api.sync import webhook
from database.settings import Settings
from runs import processes
from tests.api.conftest import Caller, Command, DefaultSettings, calling, until
from tests.conftest import wait_until
from tests.runs import add_run, live_run

PATH = "/api/webhooks/oracle"
SECRET = "a secret of the tests'"
SHARED = {"X-Webhook-Secret": SECRET}


@pytest.fixture
def settings() -> Settings:
    return DefaultSettings(
        oracle_webhook_secret=SecretStr(SECRET), webhook_quiet_seconds=0.3, api_lock_timeout=1
    )


@pytest.fixture
def crm(caller: Caller, command: Command) -> Caller:
    """An admin and the CRM, before an API whose syncs are stand-ins; one has succeeded before."""
    add_run(caller.database)
    return caller


def sign(body: bytes, at: float | None = None, secret: str = SECRET) -> dict[str, str]:
    timestamp = str(int(time.time() if at is None else at))
    digest = hmac.new(secret.encode(), timestamp.encode() + b"." + body, hashlib.sha256)
    return {"X-Webhook-Timestamp": timestamp, "X-Webhook-Signature": digest.hexdigest()}


def basic(password: str) -> dict[str, str]:
    return {"Authorization": "Basic " + b64encode(f"crm:{password}".encode()).decode()}


# Signed when the test runs, since a signature ends after minutes.
@pytest.mark.parametrize(
    ("headers", "status"),
    [
        (lambda: SHARED, 202),
        (lambda: basic(SECRET), 202),
        (lambda: sign(b"{}"), 202),
        (lambda: sign(b"{}") | {"X-Webhook-Timestamp": "1"}, 401),
        (dict, 401),
        (lambda: {"X-Webhook-Secret": "wrong"}, 401),
        (lambda: basic("wrong"), 401),
        (lambda: {"Authorization": "Basic ?"}, 401),
        (lambda: {"Authorization": "Bearer " + SECRET}, 401),
        (lambda: sign(b"{} "), 401),
        (lambda: sign(b"{}", secret="wrong"), 401),
        (lambda: sign(b"{}", at=time.time() - 600), 401),
        (lambda: sign(b"{}", at=time.time() + 600), 401),
        (lambda: SHARED | {"X-Webhook-Signature": "wrong"}, 401),
    ],
)
def test_who_may_call(crm: Caller, headers: Callable[[], dict[str, str]], status: int) -> None:
    crm.be(None)
    answer = crm.post(PATH, content=b"{}", headers=headers())
    assert answer.status_code == status


def test_a_token_is_no_key_to_the_webhook(crm: Caller) -> None:
    assert crm.post(PATH, content=b"{}").status_code == 401


def test_a_burst_asks_for_one_sync(crm: Caller, command: Command) -> None:
    for number in range(20):
        assert crm.post(PATH, json={"OptyId": number}, headers=SHARED).status_code == 202
    assert until(crm, "RUNNING")["sync_type"] == "INCREMENTAL"
    assert command.full == [False]


def test_a_call_during_a_sync_asks_for_one_after_it(crm: Caller, command: Command) -> None:
    first = crm.post("/api/sync-database", json={"full": True}).json()
    crm.post(PATH, headers=SHARED)
    time.sleep(1.5)  # for the API to have looked at it
    assert command.full == [True]
    crm.post(f"/api/sync-runs/{first['run_id']}/cancel")
    for _ in range(500):
        run = crm.get("/api/sync-status").json()
        if run["run_id"] != first["run_id"]:
            break
        time.sleep(0.02)
    assert (run["status"], run["sync_type"]) == ("RUNNING", "INCREMENTAL")


def test_what_was_asked_for_survives_the_api(database: str, crm: Caller) -> None:
    with psycopg.connect(database) as connection:
        connection.execute("insert into sync_wanted (since, latest) values (now(), now())")
    assert until(crm, "RUNNING")["sync_type"] == "INCREMENTAL"


def test_a_sync_that_died_before_it_began_holds_no_other_up(database: str, crm: Caller) -> None:
    with live_run(database):
        pass
    crm.post(PATH, headers=SHARED)
    # Not through the API, which would notice the death when asked for the status.
    started = "select count(*) from sync_runs where trigger = 'webhook'"
    with psycopg.connect(database, autocommit=True) as connection:
        wait_until(lambda: connection.execute(started).fetchone() == (1,))


def test_without_a_secret_nobody_may_call(database: str) -> None:
    with calling(database, DefaultSettings()) as caller:
        answer = caller.post(PATH, headers={"X-Webhook-Secret": ""})
    assert answer.status_code == 401
    assert "ORACLE_WEBHOOK_SECRET" in answer.json()["detail"]


def test_an_order_waits_until_a_sync_can_be_started(
    crm: Caller, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(webhook, "SHORTEST_WAIT_SECONDS", 2)
    processes.LOGS.touch()  # where a folder should be
    crm.post(PATH, headers=SHARED)
    until(crm, "FAILED")
    for _ in range(10):  # further calls do not let it try more often
        crm.post(PATH, headers=SHARED)
        time.sleep(0.5)
    failed = crm.get("/api/sync-history", params={"status": "FAILED"}).json()
    assert 1 <= len(failed) <= 2, "the next attempts are after 2 and 4 seconds"
    assert "could not be started" in failed[0]["error_message"]
    processes.LOGS.unlink()
    assert until(crm, "RUNNING")["sync_type"] == "INCREMENTAL"
