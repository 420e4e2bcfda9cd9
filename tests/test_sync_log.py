"""Each run has one row in the sync log, with any end, and the next run completes its work."""

import logging
import os
import random
import signal
import subprocess
import time
from contextlib import closing, suppress
from pathlib import Path

import psutil
import psycopg
import pytest
from oracle_crm_sandbox import Sandbox

from database.embedded import start_embedded, stop_embedded
from runs import registry
from runs.recorder import RunRecorder
from tests.api.conftest import DefaultSettings, calling
from tests.conftest import PIPELINE, Pipeline, assert_equal_to_crm, wait_until
from tests.runs import add_run


@pytest.fixture
def sandbox(crm_server: Sandbox) -> Sandbox:
    """A CRM with few deals: these tests mostly wait."""
    crm_server.reset(records=400)
    return crm_server


def child(meltano: subprocess.Popen[bytes], name: str) -> psutil.Process | None:
    """Return the running process of a plugin of Meltano, if any."""
    for process in psutil.Process(meltano.pid).children(recursive=True):
        # A process that has just ended has no command any more.
        with suppress(psutil.ZombieProcess, psutil.NoSuchProcess):
            if any(part.endswith(f"/{name}") for part in process.cmdline()):
                return process
    return None


def slow_down(pipeline: Pipeline) -> None:
    """Make a first load take some seconds: many small pages, each late."""
    pipeline.crm.settings(page_cap=25)
    pipeline.crm.fault("latency", ms=1000)


def wait_until_half_read(pipeline: Pipeline) -> None:
    """Wait until the run has read a quarter of the pages, so that it still takes some seconds."""
    wait_until(lambda: pipeline.crm.requests()["total"] > 7)


def assert_next_run_makes_all_good(pipeline: Pipeline) -> None:
    """Assert that a plain run succeeds now, and that PostgreSQL then equals the CRM."""
    pipeline.crm.clear_faults()
    pipeline.crm.settings(page_cap=499)
    assert pipeline.sync()["status"] == "SUCCESS"
    assert_equal_to_crm(pipeline)


def test_a_run_is_seen_while_it_runs_and_a_second_is_refused(pipeline: Pipeline) -> None:
    slow_down(pipeline)
    running = pipeline.start()
    wait_until_half_read(pipeline)
    pipeline.crm.fault("latency", ms=10_000)  # longer than the second run, even on a busy machine
    wait_until(lambda: any(run["total_fetched"] for run in pipeline.syncs()))
    (seen,) = pipeline.syncs()
    assert seen["status"] == "RUNNING"
    assert seen["sync_type"] == "FULL"
    assert seen["completed_at"] is None
    assert 0 < seen["total_fetched"] < 400

    refused = pipeline.meltano("run", *PIPELINE)
    assert refused.returncode != 0
    assert "already running" in refused.stdout
    assert len(pipeline.syncs()) == 1
    pipeline.crm.clear_faults()

    assert running.wait(timeout=120) == 0
    (done,) = pipeline.syncs()
    assert (done["status"], done["total_fetched"], done["new_records"]) == ("SUCCESS", 400, 400)


@pytest.mark.commands
def test_a_run_from_a_shell_is_cancelled_through_the_api(pipeline: Pipeline) -> None:
    slow_down(pipeline)
    meltano = pipeline.start(to_kill=True)
    wait_until_half_read(pipeline)
    with calling(pipeline.database, DefaultSettings()) as caller:
        run_id = caller.get("/api/sync-status").json()["run_id"]
        # The recorder writes every two seconds.
        wait_until(lambda: caller.post(f"/api/sync-runs/{run_id}/cancel").status_code == 202)
        meltano.wait(timeout=60)
        run = caller.get("/api/sync-status").json()
    assert (run["run_id"], run["status"]) == (run_id, "FAILED")
    assert run["error_message"] == "Cancelled by service-admin."
    assert_next_run_makes_all_good(pipeline)


def test_oracle_fails_half_way(pipeline: Pipeline) -> None:
    pipeline.crm.settings(page_cap=25)
    pipeline.crm.fault("error", status=500, after=7)
    done = pipeline.meltano("run", *PIPELINE)
    assert done.returncode != 0
    (run,) = pipeline.syncs()
    assert run["status"] == "FAILED"
    assert run["sync_type"] == "FULL"
    assert 0 < run["total_fetched"] < 400
    assert "500" in run["error_message"]
    assert "\n" not in run["error_message"]
    kept = pipeline.query("select count(*) as n from raw.opportunities")
    assert kept == [{"n": run["total_fetched"]}]
    assert_next_run_makes_all_good(pipeline)


def test_a_run_that_reaches_its_time_limit_is_a_success_with_a_note(pipeline: Pipeline) -> None:
    slow_down(pipeline)
    run = pipeline.sync(TAP_ORACLE_CRM_MAX_RUNTIME_SECONDS="3")
    assert (run["status"], run["sync_type"]) == ("SUCCESS", "FULL")
    assert 0 < run["total_fetched"] < 400
    assert run["new_records"] == run["total_fetched"]
    assert run["error_message"].startswith("Stopped at the run-time limit of 3 s")
    assert_next_run_makes_all_good(pipeline)
    assert pipeline.last_sync()["error_message"] is None


def test_the_loader_fails(pipeline: Pipeline) -> None:
    pipeline.sync()
    pipeline.query(
        """alter table raw.opportunities add constraint no_more check ("Name" <> 'Unloadable')"""
    )
    chosen = pipeline.crm.rows()[0]["OptyId"]
    pipeline.crm.update(chosen, Name="Unloadable")
    assert pipeline.meltano("run", *PIPELINE).returncode != 0
    run = pipeline.last_sync()
    assert run["status"] == "FAILED"
    assert 'violates check constraint "no_more"' in run["error_message"]
    assert "Unloadable" not in run["error_message"]
    pipeline.query("alter table raw.opportunities drop constraint no_more")
    assert_next_run_makes_all_good(pipeline)


def test_dbt_fails(pipeline: Pipeline) -> None:
    pipeline.query("alter table opportunities rename column sector to sector_")
    assert pipeline.meltano("run", *PIPELINE).returncode != 0
    (run,) = pipeline.syncs()
    assert run["status"] == "FAILED"
    assert run["total_fetched"] == 400
    assert "lacks sector: run `make setup`" in run["error_message"]
    pipeline.query("alter table opportunities rename column sector_ to sector")
    assert_next_run_makes_all_good(pipeline)
    assert pipeline.last_sync()["new_records"] == 400


def test_loaded_but_never_merged(pipeline: Pipeline) -> None:
    assert pipeline.meltano("run", "tap-oracle-crm", "target-postgres").returncode == 0
    (run,) = pipeline.syncs()
    assert run["status"] == "FAILED"
    assert "not merged" in run["error_message"]
    # dbt alone completes that run
    assert pipeline.meltano("run", "dbt-postgres:run").returncode == 0
    (run,) = pipeline.syncs()
    assert (run["status"], run["new_records"]) == ("SUCCESS", 400)
    assert_equal_to_crm(pipeline)


def test_the_database_restarts_half_way(pipeline: Pipeline, postgres_cluster: Path) -> None:
    slow_down(pipeline)
    running = pipeline.start()
    wait_until_half_read(pipeline)
    stop_embedded(postgres_cluster)
    start_embedded(postgres_cluster)
    running.wait(timeout=120)
    runs = pipeline.syncs()
    assert len(runs) == 1
    assert runs[0]["status"] == ("SUCCESS" if running.returncode == 0 else "FAILED")
    assert runs[0]["status"] == "SUCCESS" or runs[0]["error_message"]
    assert_next_run_makes_all_good(pipeline)


def test_the_progress_of_a_run_survives_a_lost_connection(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", pipeline.database)
    recorder, run_id = RunRecorder(), add_run(pipeline.database, "0", None)

    def count(records: int) -> None:
        metric = {"metric": "record_count", "value": records, "tags": {"stream": "opportunities"}}
        event = {"run_id": run_id, "name": "tap-oracle-crm", "metric_info": metric}
        recorder.emit(logging.makeLogRecord({"msg": event}))

    def seen() -> list[int]:
        rows = pipeline.query("select records_fetched from sync_runs where run_id = %s", run_id)
        return [row["records_fetched"] for row in rows]

    count(1)
    wait_until(lambda: seen() == [1])
    pipeline.query(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where application_name = 'run-recorder' and datname = current_database()"
    )
    count(41)
    recorder.close()
    assert seen() == [42]


@pytest.mark.commands
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_killed_runs_are_failed_at_once(pipeline: Pipeline, number: signal.Signals) -> None:
    victims = ("meltano", "tap-oracle-crm", "target-postgres-copy", "dbt-frozen")
    for count, victim in enumerate(victims, start=1):
        pipeline.crm.clear_requests()
        slow_down(pipeline)
        # From the start, since a run continues where the one before was killed.
        meltano = pipeline.start("--full-refresh", *PIPELINE, to_kill=True)
        if victim == "dbt-frozen":
            pipeline.crm.clear_faults()
            wait_until(lambda meltano=meltano: child(meltano, "dbt-frozen"))  # type: ignore[misc]
        else:
            wait_until_half_read(pipeline)
        time.sleep(random.uniform(0, 1))
        process = psutil.Process(meltano.pid) if victim == "meltano" else child(meltano, victim)
        assert process is not None
        os.kill(process.pid, number)
        code = meltano.wait(timeout=60)
        # On SIGTERM the loader ends with exit code 0, and Meltano takes it for the end of the load.
        assert code != 0 or (victim, number) == ("target-postgres-copy", signal.SIGTERM)
        with closing(registry.connect(pipeline.database)) as connection:
            registry.settle(connection)  # the next run and the API do this, too
        runs = pipeline.syncs()
        assert len(runs) == count
        assert runs[-1]["status"] == "FAILED"
        assert runs[-1]["error_message"]
        assert runs[-1]["completed_at"] is not None
        pipeline.crm.clear_faults()
    assert_next_run_makes_all_good(pipeline)
    assert len(pipeline.syncs()) == len(victims) + 1


def test_edits_made_during_merges_are_never_lost(pipeline: Pipeline) -> None:
    pipeline.sync()
    open_deals = pipeline.query(
        "select id from opportunities where workflow_status = 'NEW' order by id limit 50"
    )
    written: dict[int, str] = {}
    with psycopg.connect(pipeline.database, autocommit=True) as connection:
        for round_ in range(2):
            pipeline.crm.mass_update(300)
            syncing = pipeline.start()
            while syncing.poll() is None:
                deal = random.choice(open_deals)["id"]
                written[deal] = f"EDIT_{round_}_{len(written)}"
                connection.execute(
                    "update opportunities set workflow_status = %s where id = %s",
                    [written[deal], deal],
                )
                count = connection.execute("select count(*) from opportunities").fetchone()
                assert count == (400,)
                time.sleep(0.01)
            assert syncing.returncode == 0
    for deal, status in written.items():
        assert pipeline.query("select workflow_status from opportunities where id = %s", deal) == [
            {"workflow_status": status}
        ]
    assert_equal_to_crm(pipeline)
