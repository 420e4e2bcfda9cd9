"""Starting, watching and looking back on syncs.

The process is a stand-in here: these are the API's own tests.
"""

import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import psycopg
import pytest

from orchestrate import sync
from tests.api.conftest import Caller


class Command:
    """What `orchestrate.sync` starts instead of Meltano."""

    def __init__(self, script: str) -> None:
        self.script = script
        self.full: list[bool] = []

    def __call__(self, full: bool) -> list[str]:
        self.full.append(full)
        return [sys.executable, "-c", self.script]


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Command]:
    """A process that waits for the test's end in place of the pipeline."""
    end = tmp_path / "end"
    command = Command(
        f"import pathlib, time\nwhile not pathlib.Path({str(end)!r}).exists(): time.sleep(0.02)"
    )
    monkeypatch.setattr(sync, "command", command)
    monkeypatch.setattr(sync, "LOGS", tmp_path / "logs")
    yield command
    end.touch()


def until(caller: Caller, status: str) -> dict[str, Any]:
    """Wait for the last sync to have a status, and return it."""
    for _ in range(500):
        run: dict[str, Any] = caller.get("/api/sync-status").json()
        if run["status"] == status:
            return run
        time.sleep(0.02)
    raise AssertionError(f"no {status}: {run}")


def test_there_is_nothing_before_the_first(caller: Caller) -> None:
    assert caller.get("/api/sync-status").status_code == 404
    assert caller.get("/api/sync-history").json() == []


def test_a_sync_shows_as_running_from_the_moment_it_is_started(
    caller: Caller, command: Command
) -> None:
    answer = caller.post("/api/sync-database", json={"full": True})
    assert answer.status_code == 202
    run = answer.json()
    assert (run["status"], run["sync_type"], run["id"]) == ("RUNNING", "FULL", None)
    assert command.full == [True]
    assert caller.get("/api/sync-status").json() == run
    assert caller.get("/api/sync-history").json() == [run]


def test_of_many_at_once_one_is_started_and_the_rest_are_told_which(
    caller: Caller, command: Command
) -> None:
    together = threading.Barrier(10)

    def post(_: int) -> tuple[int, dict[str, Any]]:
        together.wait()
        answer = caller.post("/api/sync-database")
        return answer.status_code, answer.json()

    with ThreadPoolExecutor(10) as threads:
        answers = list(threads.map(post, range(10)))
    (started,) = [body for status, body in answers if status == 202]
    refused = [body for status, body in answers if status == 409]
    assert len(refused) == 9
    assert {body["run"]["run_id"] for body in refused} == {started["run_id"]}
    assert command.full == [False]


def test_one_that_dies_before_it_begins_is_failed_with_its_last_words(
    caller: Caller, command: Command
) -> None:
    command.script = "import sys; sys.exit('\\x1b[31mORACLE_BASE_URL is not set\\x1b[0m')"
    run_id = caller.post("/api/sync-database").json()["run_id"]
    run = until(caller, "FAILED")
    assert run["run_id"] == run_id
    assert run["error_message"] == "ORACLE_BASE_URL is not set"
    assert run["completed_at"] is not None
    assert caller.post("/api/sync-database").status_code == 202


def test_a_run_from_a_shell_counts_too(caller: Caller, command: Command) -> None:
    run_id = "7b0ac4a8-6e5e-4f0b-9d25-6a6d1f1a8c11"
    with psycopg.connect(caller.database, autocommit=True) as shell:
        shell.execute(
            "insert into meltano.runs (job_name, run_id, state, started_at, last_heartbeat_at,"
            " payload, payload_flags, trigger)"
            " values ('dev:tap-oracle-crm-to-target-postgres', %s, 'RUNNING', now(), now(), '{}',"
            " 0, 'cli')",
            [run_id],
        )
        shell.execute("select pg_advisory_lock(hashtextextended(%s, 0))", [run_id])
        assert caller.get("/api/sync-status").json()["status"] == "RUNNING"
        answer = caller.post("/api/sync-database")
        assert answer.status_code == 409
        assert answer.json()["run"]["run_id"] == run_id
    run = until(caller, "FAILED")
    assert "died" in run["error_message"]
    assert caller.post("/api/sync-database").status_code == 202


def test_full_must_be_said_clearly(caller: Caller, command: Command) -> None:
    bodies: list[Any] = [{"full": "yes"}, {"fuel": True}, []]
    for body in bodies:
        assert caller.post("/api/sync-database", json=body).status_code == 422
    assert command.full == []
