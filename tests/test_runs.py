"""Only one run loads at a time, for any starter and any end of the run before."""

import json
import logging
import os
import signal
import subprocess
import sys
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest
from oracle_crm_sandbox import Sandbox

from database.environment import ROOT
from runs import control, registry
from runs.registry import Job, RunningError, SupersededError
from tests.conftest import PIPELINE, Pipeline, wait_until
from tests.runs import add_run, live_run, silence
from tests.test_sync_log import child, slow_down

SYNC = Job.of(PIPELINE)
RECONCILE = Job.of(["tap-oracle-crm-complete", "target-postgres", "dbt-postgres:reconcile"])
PARTITION = Job.of(["tap-oracle-crm-partition", "target-postgres"])
MERGE = Job.of(["dbt-postgres:run"])


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    """A CRM with few deals: these tests mostly wait."""
    with Sandbox(records=200) as crm:
        yield crm


def register(database: str, job: Job, **options: Any) -> int | None:
    """Register a run of this process."""
    return registry.register(database, str(uuid.uuid4()), job, psutil.Process(), **options)


def query(database: str, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(database, autocommit=True) as connection:
        cursor = connection.execute(statement, parameters)
        return cursor.fetchall() if cursor.description else []


# The register


@pytest.mark.parametrize("job", [SYNC, RECONCILE, PARTITION], ids=lambda job: job.kind)
@pytest.mark.parametrize("kind", ["sync", "reconcile", "partition", "other"])
def test_while_one_loads_no_other_does(database: str, kind: str, job: Job) -> None:
    with live_run(database, kind=kind, state_id_suffix="another"):
        with pytest.raises(RunningError, match="is already running"):
            register(database, job)
        with pytest.raises(RunningError, match="is already running"):
            registry.begin_shared_load(database)
        assert register(database, MERGE) is None  # a merge does not load
    assert register(database, job) is not None


def test_the_parts_of_a_load_share_their_number(database: str) -> None:
    number = registry.begin_shared_load(database)
    for _ in range(2):
        assert register(database, PARTITION, number=number) == number
    with pytest.raises(RunningError, match=r"^A first load is already running"):
        register(database, SYNC)
    later = register(database, SYNC, force=True)
    assert later is not None
    assert later > number
    with pytest.raises(SupersededError, match="start it again"):
        register(database, PARTITION, number=number)


def test_a_run_that_replaces_another_ends_its_right_to_write(database: str) -> None:
    old = register(database, SYNC)
    query(database, "select raw.begin_batch(%s)", old)
    query(database, "select check_run(%s)", old)
    new = register(database, SYNC, force=True)
    for statement in ("select raw.begin_batch(%s)", "select check_run(%s)"):
        query(database, statement, new)
        with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="superseded"):
            query(database, statement, old)


def test_an_id_is_that_of_one_run(database: str) -> None:
    run_id, own = str(uuid.uuid4()), psutil.Process()
    number = registry.register(database, run_id, SYNC, None)
    assert registry.register(database, run_id, SYNC, own) == number, "by who does it"
    assert registry.register(database, run_id, SYNC, own) == number
    child = subprocess.Popen(["sleep", "60"])
    assert registry.register(database, run_id, SYNC, psutil.Process(child.pid)) == number
    with pytest.raises(RunningError):
        registry.register(database, run_id, SYNC, own)
    child.kill()
    child.wait()
    registry.end(database, run_id)
    with pytest.raises(SupersededError, match="an id of its own"):
        registry.register(database, run_id, SYNC, own)


def test_a_dead_run_is_noticed_here_at_once_and_elsewhere_after_some_silence(
    database: str,
) -> None:
    with live_run(database) as (here, _):
        pass
    assert register(database, MERGE) is None
    assert query(database, "select died from sync_runs where run_id = %s", here) == [(True,)]

    elsewhere = add_run(database, "0", None, pid_namespace="another", pid=1, process_started_at=0)
    silence(database, elsewhere, 15)
    with pytest.raises(RunningError):
        register(database, SYNC)
    silence(database, elsewhere, 10)
    assert register(database, SYNC) is not None
    # The end is final, even if the run sends a heartbeat again.
    silence(database, elsewhere, -30)
    (row,) = query(database, "select status, end_reason from run_logs where run_id = %s", elsewhere)
    assert row == ("FAILED", "died")


def test_a_changed_table_of_runs_in_meltano_costs_only_a_warning(
    database: str, caplog: pytest.LogCaptureFixture
) -> None:
    query(database, "alter table meltano.runs rename column state to status")
    with live_run(database) as (dead, _):
        pass
    with caplog.at_level(logging.WARNING):
        assert register(database, SYNC) is not None
    assert "Meltano has changed its table of runs" in caplog.text
    log = query(database, "select run_id::text, status from sync_logs order by id")
    assert [status for _, status in log] == ["FAILED", "RUNNING"]
    assert log[0][0] == dead


def test_a_run_that_cannot_be_started_says_why(database: str) -> None:
    with pytest.raises(FileNotFoundError):
        control.start(database, False, "test", argv=["/nowhere/meltano"])
    (row,) = query(database, "select status, end_reason, error_message from sync_logs")
    assert row[:2] == ("FAILED", "failed")
    assert row[2].startswith("It could not be started: ")


# Meltano


def refused(pipeline: Pipeline, *arguments: str) -> str:
    done = pipeline.meltano(*arguments)
    assert done.returncode == 1, done.stdout
    return done.stdout


def test_a_second_run_is_refused_with_any_state(pipeline: Pipeline) -> None:
    before = pipeline.query("select * from meltano.runs")
    with live_run(pipeline.database, kind="reconcile") as (run_id, _):
        for arguments in (
            ["run", "sync"],
            ["--environment", "prod", "run", "--state-id-suffix", "mine", *PIPELINE],
            ["run", "reconcile"],
        ):
            assert f"A reconcile is already running: {run_id}" in refused(pipeline, *arguments)
        assert pipeline.query("select * from meltano.runs") == before
    assert pipeline.sync()["status"] == "SUCCESS"
    assert len(pipeline.query("select * from run_logs")) == 2


def test_a_load_that_meltano_would_not_log_is_refused(pipeline: Pipeline) -> None:
    for command in ("el", "elt"):
        said = refused(pipeline, command, *PIPELINE[:2])
        assert f"meltano {command} is not logged" in said
        assert "meltano run tap-oracle-crm target-postgres dbt-postgres:run" in said
    assert pipeline.query("select * from raw.opportunities") == []
    assert pipeline.query("select * from run_logs") == []


def test_the_parts_of_a_load_run_at_once_in_one_folder(pipeline: Pipeline) -> None:
    planned = pipeline.module("orchestrate.airflow.first_load", "plan", "3")
    assert planned.returncode == 0, planned.stderr
    parts = [
        pipeline.start("tap-oracle-crm-partition", "target-postgres", **environment)
        for environment in json.loads(planned.stdout)
    ]
    assert [part.wait(timeout=120) for part in parts] == [0, 0, 0], pipeline.query(
        "select * from run_logs"
    )
    assert pipeline.query("select count(*) as n from raw.opportunities") == [{"n": 200}]
    assert len(pipeline.query("select from meltano.state")) == 3
    assert folders_of_runs(pipeline) == []


def folders_of_runs(pipeline: Pipeline) -> list[Path]:
    return list(Path(pipeline.environment["MELTANO_SYS_DIR_ROOT"]).glob("runs/*"))


def test_force_takes_over(pipeline: Pipeline) -> None:
    slow_down(pipeline)
    first = pipeline.start()
    wait_until(lambda: pipeline.crm.requests()["total"] > 3)
    (old,) = pipeline.query("select * from sync_runs")
    pipeline.crm.clear_faults()
    forced = pipeline.meltano("run", "-f", *PIPELINE)
    assert forced.returncode == 0, forced.stdout
    first.wait(timeout=120)
    (new,) = pipeline.query("select * from sync_runs where run_id != %s", old["run_id"])
    assert new["run_number"] > old["run_number"]
    assert pipeline.last_sync()["run_id"] == new["run_id"]
    assert pipeline.last_sync()["status"] == "SUCCESS"
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState):
        pipeline.query("select raw.begin_batch(%s)", old["run_number"])


def test_a_run_that_is_killed_before_meltano_records_it_has_a_row(pipeline: Pipeline) -> None:
    meltano = pipeline.start(to_kill=True)
    wait_until(lambda: pipeline.query("select from sync_runs"))
    meltano.kill()
    meltano.wait()
    assert pipeline.query("select * from meltano.runs") == []
    assert pipeline.sync()["status"] == "SUCCESS"
    dead, _ = pipeline.syncs()
    assert (dead["status"], dead["end_reason"]) == ("FAILED", "died")
    assert dead["error_message"] == "The run died before it began to load."


def test_a_run_that_is_killed_while_it_loads_does_not_block_the_next(pipeline: Pipeline) -> None:
    """Without the register, Meltano would refuse the next run for five minutes."""
    slow_down(pipeline)
    meltano = pipeline.start(to_kill=True)
    wait_until(lambda: pipeline.crm.requests()["total"] > 3)
    os.killpg(meltano.pid, signal.SIGKILL)
    meltano.wait()
    assert pipeline.query("select state::text from meltano.runs") == [{"state": "RUNNING"}]
    assert len(folders_of_runs(pipeline)) == 1
    pipeline.crm.clear_faults()
    assert pipeline.sync()["status"] == "SUCCESS"
    assert pipeline.syncs()[0]["end_reason"] == "died"
    assert folders_of_runs(pipeline) == []


def test_a_build_that_is_interrupted_is_no_success(synced: Pipeline) -> None:
    """Such as by Ctrl-C: it has not tested everything."""
    with psycopg.connect(synced.database) as holder:
        holder.execute("lock table opportunities")
        build = synced.start("build", to_kill=True)
        seen = "select from sync_runs where kind = 'other' and observed_at is not null"
        wait_until(lambda: synced.query(seen))
        build.send_signal(signal.SIGINT)
    build.wait(timeout=60)  # Meltano waits for dbt, which waits for the lock
    (run,) = synced.query("select * from run_logs where kind = 'other'")
    assert (run["status"], run["error_message"]) == ("FAILED", "It was interrupted.")


def test_a_run_that_is_cancelled_while_dbt_merges_is_cancelled_for_ever(
    pipeline: Pipeline,
) -> None:
    meltano = pipeline.start(to_kill=True)
    wait_until(lambda: child(meltano, "dbt-frozen"))
    dbt = child(meltano, "dbt-frozen")
    assert dbt is not None
    run_id = str(pipeline.last_sync()["run_id"])
    control.cancel(pipeline.database, run_id, "ada")
    meltano.wait(timeout=60)
    wait_until(lambda: not dbt.is_running() or dbt.status() == psutil.STATUS_ZOMBIE)

    def end() -> tuple[Any, ...]:
        with registry.connect(pipeline.database) as connection:
            registry.settle(connection)
        run = pipeline.syncs()[0]
        return run["status"], run["end_reason"], run["error_message"]

    assert end() == ("FAILED", "cancelled", "Cancelled by ada.")
    # A later merge of its records does not change this.
    merged = pipeline.meltano("run", "dbt-postgres:run")
    assert merged.returncode == 0, merged.stdout
    assert pipeline.query("select count(*) as n from opportunities") == [{"n": 200}]
    assert end() == ("FAILED", "cancelled", "Cancelled by ada.")
    with pytest.raises(control.CannotCancelError, match="ended"):
        control.cancel(pipeline.database, run_id, "ada")
    assert pipeline.sync()["status"] == "SUCCESS"


def test_a_command_that_is_not_a_run_writes_nothing(pipeline: Pipeline) -> None:
    def written() -> list[Any]:
        return [
            pipeline.query(f"select * from {table}")  # noqa: S608
            for table in ("sync_runs", "load_fence", "meltano.runs", "run_logs", "merge_marks")
        ]

    before = written()
    for arguments in (
        ["schedule", "list"],
        ["invoke", "dbt-postgres", "parse"],
        ["config", "list", "target-postgres"],
    ):
        done = pipeline.meltano(*arguments)
        assert done.returncode == 0, done.stdout
    assert written() == before


@pytest.mark.parametrize(
    "arguments",
    [["run", "--dry-run", *PIPELINE], ["run", "--dry-run", "sync"], ["run", "--help"]],
    ids=" ".join,
)
def test_a_command_that_runs_nothing_needs_no_database(
    pipeline: Pipeline, arguments: list[str]
) -> None:
    away = "postgresql://nobody@127.0.0.1:9/none"
    done = pipeline.meltano(*arguments, DATABASE_URL=away)
    assert done.returncode == 0, done.stdout
    assert "database" not in done.stdout.replace("--database-uri TEXT  System database URI", "")


def test_each_run_has_one_row_however_it_is_started(pipeline: Pipeline) -> None:
    done = pipeline.meltano("--environment", "dev", "schedule", "run", "nightly")
    assert done.returncode == 0, done.stdout
    (run,) = pipeline.query("select * from sync_runs")
    assert (run["kind"], run["job"]) == ("sync", " ".join(PIPELINE))
    assert run["run_number"] is not None
    assert (run["load_succeeded"], run["died"]) == (True, False)
    assert run["ended_at"] >= run["transform_completed_at"] > run["started_at"]


def test_the_number_of_a_run_that_was_superseded_merges_nothing(
    pipeline: Pipeline, tmp_path: Path
) -> None:
    pipeline.sync()
    done = pipeline.meltano("invoke", "dbt-postgres", "run", ORACLE_CRM_RUN_NUMBER="0")
    assert done.returncode != 0
    assert "superseded by a later one" in done.stdout


def test_a_starter_that_dies_leaves_the_last_words(database: str, tmp_path: Path) -> None:
    script = f"""
import os, pathlib, time
from runs import control, processes
processes.LOGS = pathlib.Path({str(tmp_path)!r})
argv = ["sh", "-c", "sleep 1; echo ORACLE_BASE_URL is not set; exit 1"]
print(control.start({database!r}, False, "test", argv=argv)["run_id"], flush=True)
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)
    log = f"""
import pathlib
from runs import processes, registry
processes.LOGS = pathlib.Path({str(tmp_path)!r})
with registry.connect({database!r}) as connection:
    registry.settle(connection)
"""

    def ended() -> bool:
        subprocess.run([sys.executable, "-c", log], cwd=ROOT, check=True)
        return query(database, "select error_message from sync_logs where status = 'FAILED'") == [
            ("ORACLE_BASE_URL is not set",)
        ]

    wait_until(ended)
