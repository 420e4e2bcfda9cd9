"""The scheduler runs Meltano's schedules, catches up on missed runs, and stops."""

import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

import pytest

from database.environment import ROOT
from runs import control
from tests.conftest import Pipeline, wait_until
from tests.receiver import Receiver
from tests.runs import live_run

pytestmark = pytest.mark.commands


@contextmanager
def scheduler(pipeline: Pipeline, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(
        [sys.executable, "-m", "orchestrate.scheduler"],
        cwd=ROOT,
        env=pipeline.environment | environment,
    )
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=90) == 0


def schedule(pipeline: Pipeline, name: str) -> dict[str, Any]:
    return pipeline.query("select * from schedules where name = %s", name)[0]


def wait_until_scheduled(pipeline: Pipeline) -> None:
    due = "select name from schedules where next_run_at is not null"
    wait_until(lambda: pipeline.query(due))


def test_a_time_zone_that_does_not_exist_is_named(pipeline: Pipeline) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "orchestrate.scheduler"],
        cwd=ROOT,
        check=False,
        timeout=60,
        env=pipeline.environment | {"SCHEDULE_TIMEZONE": "Europe/Zuerich"},
        stderr=subprocess.PIPE,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr == (
        "SCHEDULE_TIMEZONE names no time zone: 'Europe/Zuerich'; write it like Europe/Zurich.\n"
    )


def test_a_missed_midnight_runs_once_on_return(pipeline: Pipeline) -> None:
    with scheduler(pipeline, SCHEDULE_TIMEZONE="Europe/Paris"):
        wait_until_scheduled(pipeline)
        wait_until(lambda: schedule(pipeline, "weekly-housekeeping")["next_run_at"])
    weekly: datetime = schedule(pipeline, "weekly-housekeeping")["next_run_at"]
    assert f"{weekly.astimezone(ZoneInfo('Europe/Paris')):%A %H:%M}" == "Sunday 04:00"
    nightly = schedule(pipeline, "nightly")
    assert (nightly["job"], nightly["interval"]) == ("sync", "0 0 * * *")
    assert pipeline.syncs() == []

    # Two nights pass while nothing runs.
    pipeline.query(
        "update schedules set next_run_at = now() - interval '2 days' where name = 'nightly'"
    )
    pipeline.query(
        "update schedules set next_run_at = now() - interval '2 days', paused_at = now(),"
        " paused_by = 'olga' where name = 'nightly-reconcile'"
    )
    with scheduler(pipeline):
        wait_until(lambda: schedule(pipeline, "nightly")["last_succeeded"] is not None)
    paused = schedule(pipeline, "nightly-reconcile")
    assert (paused["next_run_at"], paused["last_run_at"]) == (None, None)
    (run,) = pipeline.syncs()
    assert (run["status"], run["new_records"]) == ("SUCCESS", 1000)
    nightly = schedule(pipeline, "nightly")
    # By this a later run is recognised as one of the same job.
    assert pipeline.query("select job from run_logs") == [{"job": nightly["tasks"]}]
    assert nightly["last_succeeded"] is True
    now = datetime.now(UTC)
    assert now < nightly["next_run_at"] <= now + timedelta(days=1)
    assert nightly["next_run_at"].astimezone(UTC).hour == 0


def test_a_failed_sync_is_retried(pipeline: Pipeline) -> None:
    pipeline.query(
        "insert into rejected_records (record_key, stream, reason) values ('a', 'accounts', 'bad')"
    )
    with Receiver() as receiver:
        with scheduler(pipeline, NOTIFY_URLS=receiver.url()):
            wait_until_scheduled(pipeline)
            wait_until(receiver.titles)
        assert receiver.titles() == ["Records could not be loaded"]
    pipeline.query(
        "update schedules set next_run_at = now() - interval '1 hour' where name = 'nightly'"
    )
    pipeline.crm.fault("error", status=503)
    with Receiver() as switch:
        called = f"http://{switch.address}/ping"
        with scheduler(pipeline, SCHEDULE_RETRY_MINUTES="0.02,0.02", NOTIFY_SUCCESS_URL=called):
            wait_until(lambda: len(pipeline.syncs()) == 1 and pipeline.last_sync()["completed_at"])
            pipeline.crm.clear_faults()
            wait_until(lambda: schedule(pipeline, "nightly")["last_succeeded"])
            wait_until(lambda: switch.called)
        assert switch.called == ["/ping"]
    assert [run["status"] for run in pipeline.syncs()] == ["FAILED", "SUCCESS"]
    assert schedule(pipeline, "nightly")["attempt"] == 2


def test_a_retry_outlives_the_scheduler_and_the_last_one_is_the_end(pipeline: Pipeline) -> None:
    # In a time zone where it is noon, midnight is far.
    here = {"SCHEDULE_TIMEZONE": f"Etc/GMT{datetime.now(UTC).hour - 12:+d}"}
    with scheduler(pipeline, **here):
        wait_until_scheduled(pipeline)
    miss(pipeline)
    pipeline.crm.fault("error", status=403)
    here["SCHEDULE_RETRY_MINUTES"] = "60"
    with scheduler(pipeline, **here):
        wait_until(lambda: hours_ahead(pipeline) < 2 and ended(pipeline) == 1)
        wait_until(lambda: hours_ahead(pipeline) > 0)
    nightly = schedule(pipeline, "nightly")
    assert (nightly["last_succeeded"], nightly["attempt"]) == (None, 1), "not decided"

    # An hour passes.
    miss(pipeline)
    with scheduler(pipeline, **here):
        wait_until(lambda: schedule(pipeline, "nightly")["last_succeeded"] is False)
        assert ended(pipeline) == schedule(pipeline, "nightly")["attempt"] == 2
        wait_until(lambda: hours_ahead(pipeline) > 2)


def test_one_that_is_wanted_now_runs_even_if_paused_and_is_not_retried_if_cancelled(
    pipeline: Pipeline,
) -> None:
    pipeline.crm.fault("latency", ms=5000)
    with scheduler(pipeline, SCHEDULE_RETRY_MINUTES="0.02"):
        wait_until_scheduled(pipeline)
        order(pipeline, "paused_at = now(), paused_by = 'olga', wanted_by = 'olga'")
        wait_until(lambda: [run["status"] for run in pipeline.syncs()] == ["RUNNING"])
        (run,) = pipeline.query("select trigger, requested_by from run_logs")
        assert run == {"trigger": "schedule", "requested_by": "olga"}
        wait_until(lambda: pipeline.crm.requests()["total"])
        nightly = schedule(pipeline, "nightly")
        assert (nightly["next_run_at"], nightly["wanted_by"]) == (None, None)
        control.cancel(pipeline.database, str(pipeline.last_sync()["run_id"]), "ada")
        wait_until(lambda: schedule(pipeline, "nightly")["last_succeeded"] is False)
        order(pipeline, "paused_at = null")
        wait_until(lambda: hours_ahead(pipeline) > 0)
    assert schedule(pipeline, "nightly")["attempt"] == 1
    assert len(pipeline.syncs()) == 1


@pytest.mark.parametrize(
    ("name", "kind", "other"),
    [("nightly", "sync", "reconcile"), ("nightly-reconcile", "reconcile", "sync")],
)
def test_a_job_that_is_due_during_another_load_waits_for_it(
    pipeline: Pipeline, name: str, kind: str, other: str
) -> None:
    pipeline.sync()
    with scheduler(pipeline):
        wait_until_scheduled(pipeline)
    miss(pipeline, name)
    with live_run(pipeline.database, kind=other) as (_, process), scheduler(pipeline):
        wait_until(lambda: schedule(pipeline, name)["last_run_at"])
        time.sleep(3)
        assert schedule(pipeline, name)["last_succeeded"] is None
        assert len(pipeline.query("select from run_logs")) == 2
        process.kill()
        process.wait()
        wait_until(lambda: schedule(pipeline, name)["last_succeeded"] is not None, seconds=120)
    # The failure of the other run does not count for this one.
    assert (schedule(pipeline, name)["last_succeeded"], schedule(pipeline, name)["attempt"]) == (
        True,
        1,
    )
    (run,) = pipeline.query("select * from run_logs where trigger = 'schedule'")
    assert (run["kind"], run["status"]) == (kind, "SUCCESS")


def test_a_second_scheduler_waits_for_the_first_to_end(pipeline: Pipeline) -> None:
    held = "select pid from pg_locks where locktype = 'advisory' and granted"
    with scheduler(pipeline) as first:
        wait_until_scheduled(pipeline)
        (before,) = pipeline.query(held)
        miss(pipeline)
        second = subprocess.Popen(
            [sys.executable, "-m", "orchestrate.scheduler"],
            cwd=ROOT,
            env=pipeline.environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert second.stderr is not None
        assert "another scheduler works" in second.stderr.readline()
        assert pipeline.query(held) == [before]
        assert first.poll() is None
        second.terminate()
        second.communicate()
    assert pipeline.syncs() == []


def miss(pipeline: Pipeline, name: str = "nightly") -> None:
    pipeline.query(
        "update schedules set next_run_at = now() - interval '1 minute' where name = %s", name
    )


def order(pipeline: Pipeline, what: str) -> None:
    """Order something of the schedule `nightly`, as the API does."""
    pipeline.query(f"update schedules set {what} where name = 'nightly'")  # noqa: S608


def ended(pipeline: Pipeline) -> int:
    return sum(run["completed_at"] is not None for run in pipeline.syncs())


def hours_ahead(pipeline: Pipeline) -> float:
    due: datetime | None = schedule(pipeline, "nightly")["next_run_at"]
    return 0 if due is None else (due - datetime.now(UTC)).total_seconds() / 3600
