"""Starting, watching and looking back on syncs.

The process is a stand-in here: these are the API's own tests.
"""

import json
import socket
import subprocess
import sys
import threading
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from api.auth import Role
from api.sync import events
from database.environment import ROOT
from runs import processes
from tests.api.conftest import Caller, Command, fill, until
from tests.runs import add_run, live_run, silence


def test_there_is_nothing_before_the_first(caller: Caller) -> None:
    assert caller.get("/api/sync-status").status_code == 404
    assert caller.get("/api/sync-history").json() == []


def test_a_sync_shows_as_running_from_the_moment_it_is_started(
    caller: Caller, command: Command
) -> None:
    answer = caller.post("/api/sync-database", json={"full": True})
    assert answer.status_code == 202
    run = answer.json()
    assert (run["status"], run["sync_type"]) == ("RUNNING", "FULL")
    assert run["id"] > 0
    assert command.full == [True]
    assert caller.get("/api/sync-status").json() == run
    assert caller.get("/api/sync-history").json() == [run]


def test_a_start_that_waits_for_a_lock_is_given_up(
    caller: Caller, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SYNC_LOCK_TIMEOUT", "1")
    with psycopg.connect(caller.database) as holder:
        holder.execute("lock table load_fence")
        answer = caller.post("/api/sync-database")
        assert answer.status_code == 503
        assert "`make doctor` names it" in answer.json()["detail"]
        assert "pg_terminate" not in answer.text
        assert command.full == []
    assert caller.post("/api/sync-database").status_code == 202


@pytest.mark.parametrize(
    "path", ["/api/sync-database", "/api/opportunities/300000000000001/refresh"]
)
def test_a_run_that_cannot_be_started_is_a_problem_with_a_reason(
    caller: Caller, command: Command, path: str
) -> None:
    fill(caller.database, 1)
    processes.LOGS.touch()  # where a folder should be
    answer = caller.post(path)
    assert answer.status_code == 503
    assert answer.headers["content-type"] == "application/problem+json"
    assert "could not start it: File exists" in answer.json()["detail"]
    assert ".data/logs" in answer.json()["detail"]
    assert str(processes.LOGS) not in answer.text
    with psycopg.connect(caller.database) as connection:
        runs = connection.execute("select run_id, status, error_message from run_logs").fetchall()
    ((run_id, status, said),) = runs
    assert (status, "could not be started" in said) == ("FAILED", True)
    assert caller.get(f"/sync/runs/{run_id}").status_code == 200
    processes.LOGS.unlink()
    assert caller.post(path).status_code == 202


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
    with live_run(caller.database) as (run_id, _):
        load(caller.database, run_id)
        assert caller.get("/api/sync-status").json()["status"] == "RUNNING"
        answer = caller.post("/api/sync-database")
        assert answer.status_code == 409
        assert answer.json()["run"]["run_id"] == run_id
    # Its process is gone, which this machine sees at once.
    run = caller.get("/api/sync-status").json()
    assert (run["run_id"], run["status"], run["end_reason"]) == (run_id, "FAILED", "died")
    assert "died" in run["error_message"]
    assert caller.post("/api/sync-database").status_code == 202


def test_a_run_tells_all_that_is_known_of_it(caller: Caller) -> None:
    fill(caller.database, 1)
    known = {"trigger": "api", "requested_by": "mira", "new_records": 1, "updated_records": 2}
    known |= {"unchanged_records": 3, "failed_records": 2}
    failed = add_run(caller.database, "2 hours", "10 seconds", transform_succeeded=False)
    run_id = add_run(caller.database, "1 hour", "10 seconds", **known)
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "update sync_runs set transform_started_at = started_at + interval '6 seconds',"
            " transform_completed_at = started_at + interval '9 seconds' where run_id = %s",
            [run_id],
        )
        connection.execute(
            "insert into rejected_records (record_key, stream, remote_id, reason, last_run_id,"
            " resolved_at)"
            " select 'opportunities:' || n, 'opportunities', n, 'WinProb: bad',"
            " case when n < 3 then %s::uuid end,"
            " case n when 1 then now() end from generate_series(1, 3) as n",
            [run_id],
        )
        connection.execute(
            "insert into opportunity_arrivals (arrived_at, run_id, ids, deals)"
            " values (now() - interval '3605 seconds', %s, '{[1,2)}', 1)",
            [run_id],
        )
    run = caller.get(f"/api/sync-runs/{run_id}").json()
    assert (run["kind"], run["trigger"], run["requested_by"]) == ("sync", "api", "mira")
    assert (run["outcome"], run["is_counted"], run["total_fetched"]) == ("REJECTS", True, 8)
    assert [(phase["name"], phase["seconds"]) for phase in run["phases"]] == [
        ("LOADING", 6),
        ("MERGING", 3),
        ("ENDING", 1),
    ]
    assert run["new_deals"] == 1
    reason = {"stream": "opportunities", "reason": "WinProb: bad", "records": 2, "unresolved": 1}
    assert run["rejects"] == [reason | {"remote_ids": ["1", "2"]}]
    wanted = {"run_id": run_id, "resolved": "true"}
    assert caller.get("/api/rejected-records", params=wanted).json()["total"] == 2
    assert run["succeeded_since"] is None
    before = caller.get(f"/api/sync-runs/{failed}").json()
    assert (before["outcome"], before["succeeded_since"]) == ("FAILED", run_id)
    assert (before["rejects"], before["new_deals"]) == ([], 0)


def test_the_page_of_a_reconcile_says_what_it_found(caller: Caller) -> None:
    run_id = add_run(caller.database, kind="reconcile", trigger="cli", host="node-1.example.com")
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into reconciliations (run_id, compared, corrected, corrected_fields, changed,"
            " missed, new, gone, failed, proves_absence)"
            ' values (%s, 1001, 12, \'{"customer": 11, "stage": 1}\', 1, 0, 3, 2, 0, true)',
            [run_id],
        )
    found = caller.get(f"/api/sync-runs/{run_id}").json()
    assert found["reconciliation"].startswith("1,001 compared: 12 corrected (11 customer, 1 stage)")
    shown = caller.get(f"/sync/runs/{run_id}").text
    for words in (found["reconciliation"], "a command on the server", "node-1.example.com"):
        assert words in shown
    assert "went to where it was started" in shown
    assert "Log" not in caller.be(Role.VIEWER).get(f"/sync/runs/{run_id}").text


def test_managers_read_the_end_of_a_log_without_its_secrets(
    caller: Caller, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORACLE_PASS", "geheim & lang")
    command.script = """
import sys
print("first line")
print("x" * 70_000)
print("<b>Signing in</b> with geheim & lang, geheim%20%26%20lang", flush=True)
sys.exit("It failed.")
"""
    run_id = caller.post("/api/sync-database").json()["run_id"]
    assert until(caller, "FAILED")["error_message"] == "It failed."
    shown = caller.get(f"/sync/runs/{run_id}").text
    assert "&lt;b&gt;Signing in&lt;/b&gt; with ***, ***\nIt failed." in shown
    assert "first line" not in shown
    assert "xxx" not in shown
    assert "geheim" not in shown
    assert "Signing in" not in caller.be(Role.VIEWER).get(f"/sync/runs/{run_id}").text


def test_the_history_in_parts(caller: Caller) -> None:
    for hours in range(60, 0, -1):
        add_run(caller.database, f"{hours} hours", transform_succeeded=hours % 10 != 0)

    def history(**wanted: str | int) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = caller.get("/api/sync-history", params=wanted).json()
        return found

    first = history(limit=50)
    assert [run["id"] for run in history(before=first[-1]["id"])] == [
        first[-1]["id"] - number for number in range(1, 11)
    ]
    assert len(history(status="FAILED")) == 6
    assert history(since=first[4]["started_at"], limit=1000) == first[:5]
    assert 'href="/sync?before=' in caller.get("/sync").text
    part = {"HX-Request": "true", "HX-Target": "more-syncs"}
    rows = caller.get("/sync", params={"before": first[-1]["id"]}, headers=part).text
    assert rows.count("<tr") == 10


def test_a_run_elsewhere_is_dead_after_some_silence(caller: Caller, command: Command) -> None:
    elsewhere = {"host": "elsewhere.example.com", "pid_namespace": "another", "pid": 1}
    run_id = add_run(caller.database, "0", None, **elsewhere, process_started_at=0)
    silence(caller.database, run_id, 4)
    assert caller.get("/api/sync-status").json()["status"] == "RUNNING"
    assert caller.post("/api/sync-database").status_code == 409
    silence(caller.database, run_id, 17)
    run = caller.get("/api/sync-status").json()
    assert (run["status"], run["end_reason"]) == ("FAILED", "died")
    # It may only have been cut off: unless another takes its place, it goes on when heard of again.
    silence(caller.database, run_id, -20)
    assert caller.get("/api/sync-status").json()["status"] == "RUNNING"
    silence(caller.database, run_id, 20)
    assert caller.post("/api/sync-database").status_code == 202
    silence(caller.database, run_id, -20)
    assert caller.get(f"/api/sync-runs/{run_id}").json()["status"] == "FAILED"


def test_a_reconcile_is_seen_and_cancelled_and_is_no_sync(caller: Caller, command: Command) -> None:
    with live_run(caller.database, kind="reconcile") as (run_id, process):
        answer = caller.post("/api/sync-database")
        assert (answer.status_code, answer.json()["run"]["run_id"]) == (409, run_id)
        assert answer.json()["detail"] == "A reconcile is under way."
        assert caller.get("/api/sync-status").status_code == 404
        assert caller.get(f"/api/sync-runs/{run_id}").json()["status"] == "RUNNING"
        assert caller.post(f"/api/sync-runs/{run_id}/cancel").status_code == 202
        process.wait(timeout=10)
    run = caller.get(f"/api/sync-runs/{run_id}").json()
    assert (run["status"], run["end_reason"]) == ("FAILED", "cancelled")
    assert caller.post("/api/sync-database").status_code == 202


def test_the_next_sync_need_not_wait_for_one_that_is_through(
    caller: Caller, command: Command
) -> None:
    """Its process may take a moment to end."""
    with live_run(caller.database, transform_succeeded=True):
        assert caller.get("/api/sync-status").json()["status"] == "SUCCESS"
        assert caller.post("/api/sync-database").status_code == 202


def test_before_it_has_read_a_sync_is_what_it_set_out_to_be(
    caller: Caller, command: Command
) -> None:
    """The first one reads everything, whatever was asked for."""
    first = caller.post("/api/sync-database").json()
    assert first["sync_type"] == "FULL"
    caller.post(f"/api/sync-runs/{first['run_id']}/cancel")
    until(caller, "FAILED")
    add_run(caller.database)
    assert caller.post("/api/sync-database").json()["sync_type"] == "INCREMENTAL"


def test_full_must_be_said_clearly(caller: Caller, command: Command) -> None:
    bodies: list[Any] = [{"full": "yes"}, {"fuel": True}, []]
    for body in bodies:
        assert caller.post("/api/sync-database", json=body).status_code == 422
    assert command.full == []


def load(database: str, run_id: str) -> None:
    """Let a run be recorded as loading, for ten seconds now, by its recorder."""
    with psycopg.connect(database) as connection:
        connection.execute(
            "update sync_runs set started_at = now() - interval '10 s', observed_at = now(),"
            " sync_type = 'INCREMENTAL', records_claimed = 1000, records_fetched = 250"
            " where run_id = %s",
            [run_id],
        )


def test_a_sync_is_followed_to_its_end(
    server: httpx.Client, database: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    run_id = server.post("/api/sync-database").json()["run_id"]
    seen: list[tuple[str, dict[str, Any]]] = []
    with (
        psycopg.connect(database, autocommit=True) as meltano,
        server.stream("GET", f"/api/sync-runs/{run_id}/events") as stream,
    ):
        assert stream.headers["content-type"].startswith("text/event-stream")
        event = ""
        for line in stream.iter_lines():
            if line.startswith("event: "):
                event = line.removeprefix("event: ")
            elif line.startswith("data: "):
                seen.append((event, json.loads(line.removeprefix("data: "))))
                if len(seen) == 1:
                    load(database, run_id)
                elif seen[-1][1]["phase"] == "LOADING":
                    meltano.execute("update sync_runs set transform_started_at = now()")
                elif seen[-1][1]["phase"] == "MERGING":
                    meltano.execute(
                        "update sync_runs set new_records = 250, updated_records = 0,"
                        " unchanged_records = 0, load_succeeded = true, transform_succeeded = true,"
                        " transform_completed_at = now()"
                    )
    phases = [data["phase"] for _, data in seen]
    assert phases == ["STARTING", "LOADING", "MERGING", "ENDED"]
    assert [event for event, _ in seen] == ["progress"] * 3 + ["end"]
    starting, loading, end = seen[0][1], seen[1][1], seen[-1][1]
    assert (starting["percent"], starting["records_claimed"]) == (None, None)
    assert (loading["percent"], loading["records_claimed"]) == (25, 1000)
    assert loading["records_per_second"] == pytest.approx(25, rel=0.2)
    assert (end["status"], end["new_records"]) == ("SUCCESS", 250)


@pytest.mark.timeout(30)
def test_who_is_barred_follows_no_longer(
    server: httpx.Client, database: str, command: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "POLL_SECONDS", 0.02)
    run_id = server.post("/api/sync-database").json()["run_id"]
    with server.stream("GET", f"/api/sync-runs/{run_id}/events") as stream:
        lines = stream.iter_lines()
        assert next(lines) == "event: progress"
        with psycopg.connect(database, autocommit=True) as admin:
            admin.execute("update users set active = false")
        assert "event: end" not in list(lines)
    assert server.get(f"/api/sync-runs/{run_id}").status_code == 401


def test_nobody_follows_an_unknown_sync(caller: Caller) -> None:
    run_id = uuid.uuid4()
    for path in (f"/api/sync-runs/{run_id}/events", f"/api/sync-runs/{run_id}"):
        assert caller.get(path).status_code == 404
    assert caller.post(f"/api/sync-runs/{run_id}/cancel").status_code == 404


def test_a_sync_is_cancelled(caller: Caller, command: Command) -> None:
    run_id = caller.post("/api/sync-database").json()["run_id"]
    assert caller.be(Role.ASSESSOR).post(f"/api/sync-runs/{run_id}/cancel").status_code == 403
    assert caller.be(Role.MANAGER).post(f"/api/sync-runs/{run_id}/cancel").status_code == 202
    run = until(caller, "FAILED")
    assert run["run_id"] == run_id
    assert run["error_message"] == "Cancelled by service-manager."
    again = caller.post(f"/api/sync-runs/{run_id}/cancel")
    assert again.status_code == 409
    assert "ended" in again.json()["detail"]
    trail = caller.be(Role.ADMIN).get("/api/audit", params={"subject": "sync"}).json()
    assert [entry["action"] for entry in trail] == ["cancel", "start"]


def test_a_run_whose_process_nobody_knows_is_not_cancelled(caller: Caller) -> None:
    run_id = add_run(caller.database, "0", None, host=socket.gethostname())
    answer = caller.post(f"/api/sync-runs/{run_id}/cancel")
    assert answer.status_code == 409
    assert "It is starting" in answer.json()["detail"]
    assert caller.get(f"/api/sync-runs/{run_id}").json()["status"] == "RUNNING"


def test_no_other_process_is_taken_for_that_of_a_run(caller: Caller) -> None:
    """Neither that of another machine or container, whatever its host's name, nor a later one."""
    with live_run(caller.database, pid_namespace="another") as (run_id, other):
        answer = caller.post(f"/api/sync-runs/{run_id}/cancel")
        assert answer.status_code == 409
        assert f"runs on {socket.gethostname()}: stop it there" in answer.json()["detail"]
        assert caller.get(f"/api/sync-runs/{run_id}").json()["status"] == "RUNNING"
        assert other.poll() is None
    with live_run(caller.database, process_started_at=0) as (run_id, other):
        answer = caller.post(f"/api/sync-runs/{run_id}/cancel")
        assert answer.status_code == 409
        assert "has ended" in answer.json()["detail"]
        assert caller.get(f"/api/sync-runs/{run_id}").json()["status"] == "FAILED"
        assert other.poll() is None


def test_a_clock_that_is_set_makes_no_run_dead(
    caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    with live_run(caller.database):
        booted = psutil.boot_time()
        # Linux moves the time of the start with the clock.
        monkeypatch.setattr("psutil._pslinux.boot_time", lambda: booted + 3600)
        assert caller.get("/api/sync-status").json()["status"] == "RUNNING"


def test_a_sync_outlives_who_started_it(caller: Caller, command: Command, tmp_path: Path) -> None:
    script = f"""
import os, pathlib
from runs import control, processes
processes.LOGS = pathlib.Path({str(tmp_path)!r})
run = control.start({caller.database!r}, False, "test", argv={command(False)!r})
print(run["run_id"], flush=True)
os._exit(0)
"""
    starter = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, text=True, stdout=subprocess.PIPE, check=True
    )
    run = caller.get("/api/sync-status").json()
    assert (run["run_id"], run["status"]) == (starter.stdout.strip(), "RUNNING")
    assert caller.post("/api/sync-database").status_code == 409
    caller.post(f"/api/sync-runs/{run['run_id']}/cancel")
    assert until(caller, "FAILED")["run_id"] == run["run_id"]


def test_the_schedules(caller: Caller) -> None:
    assert caller.get("/api/schedules").json() == []
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into schedules (name, job, interval, timezone, next_run_at)"
            " values ('nightly', 'sync', '0 0 * * *', 'UTC', '2026-02-05T00:00:00Z')"
        )
    (nightly,) = caller.get("/api/schedules").json()
    assert (nightly["name"], nightly["next_run_at"]) == ("nightly", "2026-02-05T00:00:00Z")
    pause = {"paused": True}
    nightly = caller.patch("/api/schedules/nightly", json=pause).json()
    assert (nightly["paused_by"], nightly["wanted_by"]) == ("service-admin", None)
    assert caller.patch("/api/schedules/nightly", json=pause).json() == nightly
    assert caller.post("/api/schedules/nightly/run").json()["wanted_by"] == "service-admin"
    nightly = caller.patch("/api/schedules/nightly", json={"paused": False}).json()
    assert (nightly["paused_at"], nightly["paused_by"]) == (None, None)
    assert caller.patch("/api/schedules/none", json=pause).status_code == 404
    trail = caller.get("/api/audit", params={"subject": "schedule"}).json()
    assert [entry["action"] for entry in trail] == ["resume", "start", "pause"]
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "update schedules set heartbeat_at = now() - interval '1 hour', wanted_by = null"
        )
    refused = caller.post("/api/schedules/nightly/run")
    assert (refused.status_code, "No scheduler runs" in refused.text) == (409, True)
    assert caller.get("/api/schedules").json()[0]["wanted_by"] is None
    assert (
        "oracle_crm_schedule_next_run_timestamp_seconds 1.7702496e+09"
        in caller.get("/metrics").text
    )


def test_a_deal_is_refreshed_unless_a_run_loads(caller: Caller, command: Command) -> None:
    fill(caller.database, 2)
    with psycopg.connect(caller.database, autocommit=True) as connection:
        connection.execute("update opportunities set remote_id = 'of the old system' where id = 2")
    path = "/api/opportunities/{}/refresh"
    assert caller.post(path.format("of the old system")).status_code == 409
    assert caller.post(path.format("1 or OptyId > 0")).status_code == 404
    run = caller.post(path.format("300000000000001"))
    assert run.status_code == 202, run.text
    progress = caller.get(f"/api/sync-runs/{run.json()['run_id']}").json()
    assert progress["status"] == "RUNNING"
    assert caller.get("/api/sync-history").json() == []
    process = psutil.Process()
    (child,) = [one for one in process.children() if "TAP_ORACLE_CRM_DEAL_FILTER" in one.environ()]
    assert child.environ()["TAP_ORACLE_CRM_DEAL_FILTER"] == "OptyId = 300000000000001"
    refused = caller.post(path.format("300000000000001"))
    assert refused.status_code == 409
    assert refused.json()["detail"] == "A refresh of a deal is under way."
    assert refused.json()["run"]["run_id"] == run.json()["run_id"]
    assert caller.post("/api/sync-database").status_code == 409


def test_a_schedule_that_failed_is_well_after_a_run_by_hand(caller: Caller) -> None:
    with psycopg.connect(caller.database) as connection:
        connection.execute(
            "insert into schedules (name, job, tasks, interval, timezone, last_run_at,"
            " last_succeeded) values ('nightly-build', 'build', 'dbt-postgres:build', '30 3 * * *',"
            " 'UTC', now() - interval '1 hour', false)"
        )
    run: dict[str, Any] = {"kind": "other", "run_number": None, "job": "dbt-postgres:build"}
    add_run(caller.database, trigger="schedule", **run, error_message="It failed.")

    def shown() -> tuple[str, bool, bool]:
        (build,) = caller.get("/api/schedules").json()
        _, _, health = caller.get("/admin/health").text.partition('id="schedules"')
        schedules, _, _ = health.partition("</section>")
        is_failed = "Failed" in schedules
        assert is_failed != ("by a later run" in schedules)
        return build["outcome"], "Failed last" in caller.get("/sync").text, is_failed

    assert shown() == ("FAILED", True, True)
    add_run(caller.database, **run)
    assert shown() == ("SUCCESS", False, False)
    paused = caller.patch("/api/schedules/nightly-build", json={"paused": True}).json()
    assert paused["outcome"] == "SUCCESS"
