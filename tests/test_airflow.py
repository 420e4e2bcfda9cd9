"""A real Airflow runs the DAGs against the sandbox: `make test-airflow`.

Not a part of `make test`: Airflow has its own environment, which takes longer to install and to
start than these tests. AIRFLOW_ENV names an existing one.
"""

import itertools
import json
import os
import secrets
import signal
import socket
import subprocess
import time
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from hypothesis import given
from hypothesis import strategies as st
from oracle_crm_sandbox import Sandbox

from database.environment import DATA, ROOT
from orchestrate.airflow.first_load import cuts
from tests.conftest import Pipeline, assert_equal_to_crm, wait_until
from tests.receiver import Receiver

BIN = Path(os.environ.get("AIRFLOW_ENV", DATA / "airflow")) / "bin"
RECORDS = 20_000
FIRST_LOAD = "oracle-crm.first-load"


class Airflow:
    """Scheduler, DAG processor and API server, with a number of workers."""

    def __init__(self, postgres: str, home: Path, environment: dict[str, str]) -> None:
        name = f"airflow_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
            connection.execute(f"create database {name}")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.lineage = home / "lineage.jsonl"
        self.environment = environment | {
            "AIRFLOW_HOME": str(home),
            "AIRFLOW__API__HOST": "127.0.0.1",
            "AIRFLOW__API__PORT": str(port),
            "AIRFLOW__API__SECRET_KEY": secrets.token_hex(32),
            "AIRFLOW__API__WORKERS": "1",
            "AIRFLOW__API_AUTH__JWT_SECRET": secrets.token_hex(32),
            "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "orchestrate" / "airflow" / "dags"),
            "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"http://127.0.0.1:{port}/execution/",
            "AIRFLOW__CORE__LOAD_EXAMPLES": "false",
            "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_ALL_ADMINS": "true",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"{postgres.replace('postgresql://', 'postgresql+psycopg2://')}/{name}",
            "AIRFLOW__OPENLINEAGE__NAMESPACE": "oracle-crm",
            "AIRFLOW__OPENLINEAGE__TRANSPORT": json.dumps(
                {"type": "file", "log_file_path": str(self.lineage), "append": True}
            ),
            "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        }
        self._log = (home / "processes.log").open("ab")
        self._scheduler: subprocess.Popen[bytes] | None = None
        subprocess.run(
            [BIN / "airflow", "db", "migrate"],
            env=self.environment,
            check=True,
            stdout=self._log,
            stderr=self._log,
        )
        self._running = [self._start("api-server"), self._start("dag-processor")]
        self._http = httpx.Client(base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=30)
        wait_until(self._is_up, seconds=120)
        token = self._http.get("/auth/token").raise_for_status().json()["access_token"]
        self._http.headers["Authorization"] = f"Bearer {token}"
        wait_until(lambda: len(self.dags()) >= 4 or self.import_errors(), seconds=120)

    def _start(self, *command: str, **environment: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [BIN / "airflow", *command],
            env=self.environment | environment,
            stdout=self._log,
            stderr=self._log,
            start_new_session=True,
        )

    def _is_up(self) -> bool:
        try:
            return self._http.get("/api/v2/version").status_code == 200
        except httpx.TransportError:
            return False

    def dags(self) -> dict[str, dict[str, Any]]:
        """Return Airflow's data about the DAGs, by id."""
        found = self._http.get("/api/v2/dags").raise_for_status().json()["dags"]
        return {dag["dag_id"]: dag for dag in found}

    def import_errors(self) -> list[str]:
        """Return the import errors of DAGs."""
        found = self._http.get("/api/v2/importErrors").raise_for_status().json()
        return [error["stack_trace"] for error in found["import_errors"]]

    def work(self, workers: int, **environment: str) -> None:
        """Restart the scheduler with this number of workers and this environment."""
        self._stop_scheduler()
        environment["AIRFLOW__CORE__PARALLELISM"] = str(workers)
        self._scheduler = self._start("scheduler", "--skip-serve-logs", **environment)

    def start(self, dag: str, **conf: object) -> str:
        """Start a DAG and return the run's id."""
        path = f"/api/v2/dags/{dag}"
        self._http.patch(path, json={"is_paused": False}).raise_for_status()
        run = self._http.post(f"{path}/dagRuns", json={"logical_date": None, "conf": conf})
        started: str = run.raise_for_status().json()["dag_run_id"]
        return started

    def wait(self, dag: str, run: str, seconds: float = 240) -> str:
        """Wait until a run ends, and return its state."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}"
        deadline = time.monotonic() + seconds
        while (state := self._http.get(path).raise_for_status().json()["state"]) not in {
            "success",
            "failed",
        }:
            assert time.monotonic() < deadline, self.tasks(dag, run)
            time.sleep(0.3)
        return str(state)

    def tasks(self, dag: str, run: str) -> list[dict[str, Any]]:
        """Return the task instances of a run."""
        path = f"/api/v2/dags/{dag}/dagRuns/{run}/taskInstances?limit=100"
        found: list[dict[str, Any]] = (
            self._http.get(path).raise_for_status().json()["task_instances"]
        )
        return found

    def clear_failed(self, dag: str, run: str) -> None:
        """Clear the failed tasks of a run and the tasks after them, so that they run again."""
        answer = self._http.post(
            f"/api/v2/dags/{dag}/clearTaskInstances",
            json={
                "dag_run_id": run,
                "dry_run": False,
                "only_failed": True,
                "include_downstream": True,
                "reset_dag_runs": True,
            },
        )
        answer.raise_for_status()

    def _stop_scheduler(self) -> None:
        if self._scheduler is not None:
            _stop(self._scheduler)

    def close(self) -> None:
        """Stop all processes."""
        self._stop_scheduler()
        for process in self._running:
            _stop(process)
        self._log.close()


def _stop(process: subprocess.Popen[bytes]) -> None:
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(timeout=30)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture(scope="module")
def crm() -> Iterator[Sandbox]:
    with Sandbox(records=RECORDS) as sandbox:
        yield sandbox


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with Receiver() as receiver:
        yield receiver


@pytest.fixture
def pipeline(database: str, crm: Sandbox, tmp_path: Path) -> Pipeline:
    """The pipeline between the sandbox of many rows and a fresh database."""
    crm.reset()
    return Pipeline(database, crm, tmp_path)


@pytest.fixture(scope="module")
def airflow(
    postgres: str,
    migrated: str,
    crm: Sandbox,
    receiver: Receiver,
    tmp_path_factory: pytest.TempPathFactory,
) -> Iterator[Airflow]:
    home = tmp_path_factory.mktemp("airflow")
    name = f"scheduled_{uuid.uuid4().hex[:12]}"
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database {name} template {migrated}")
    environment = (
        os.environ
        | crm.env
        | {
            "DATABASE_URL": f"{postgres}/{name}",
            "NOTIFY_URLS": receiver.url(),
            "SCHEDULE_RETRY_MINUTES": "0.02",
            # It is noon there, since Airflow at once runs a schedule that was due just before.
            "SCHEDULE_TIMEZONE": f"Etc/GMT{datetime.now(UTC).hour - 12:+d}",
        }
    )
    started = Airflow(postgres, home, environment)
    yield started
    started.close()


def most_loads_at_once(tasks: list[dict[str, Any]]) -> int:
    """The largest number of partitions that were loaded at the same time."""
    loads = [
        [datetime.fromisoformat(task[name]) for name in ("start_date", "end_date")]
        for task in tasks
        if task["task_id"] == "load"
    ]
    return max(sum(began <= start < ended for began, ended in loads) for start, _ in loads)


@given(keys=st.sets(st.integers(1, 10**6), min_size=1, max_size=300), parts=st.integers(1, 20))
def test_partitions_have_about_as_many_rows_each(keys: set[int], parts: int) -> None:
    def count(upto: int) -> int:
        return sum(key <= upto for key in keys)

    found = cuts(count, min(keys), max(keys), len(keys), parts)
    assert found == sorted(set(found))
    assert len(found) < parts
    bounds = [0, *found, max(keys)]
    sizes = [count(high) - count(low) for low, high in itertools.pairwise(bounds)]
    assert sum(sizes) == len(keys)
    # Each end may be wrong by a tenth of a share, and rows are whole numbers.
    assert max(sizes) <= 1.2 * len(keys) / parts + 2


@pytest.mark.airflow
def test_meltanos_schedules_are_the_dags(airflow: Airflow) -> None:
    assert airflow.import_errors() == []
    dags = airflow.dags()
    assert dags.keys() == {
        "oracle-crm.nightly",
        "oracle-crm.nightly-reconcile",
        "oracle-crm.nightly-build",
        "oracle-crm.weekly-housekeeping",
        FIRST_LOAD,
    }
    assert dags["oracle-crm.nightly"]["timetable_summary"] == "0 0 * * *"
    assert (
        "tap-oracle-crm target-postgres dbt-postgres:run"
        in (dags["oracle-crm.nightly"]["description"])
    )


@pytest.mark.airflow
@pytest.mark.timeout(1200)
def test_one_and_two_workers_load_the_same_table(
    airflow: Airflow, postgres: str, migrated: str, crm: Sandbox, tmp_path: Path
) -> None:
    crm.reset()
    tables = []
    for workers in (1, 2):
        name = f"loaded_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
            connection.execute(f"create database {name} template {migrated}")
        pipeline = Pipeline(f"{postgres}/{name}", crm, tmp_path / name)
        crm.fault("latency", ms=150)
        airflow.work(workers, **pipeline.environment)
        run = airflow.start(FIRST_LOAD, partitions=4)
        assert airflow.wait(FIRST_LOAD, run, 400) == "success", airflow.tasks(FIRST_LOAD, run)
        tasks = airflow.tasks(FIRST_LOAD, run)
        assert most_loads_at_once(tasks) == workers
        assert {task["try_number"] for task in tasks} == {1}
        assert_equal_to_crm(pipeline)
        (sync,) = pipeline.syncs()
        assert (sync["status"], sync["sync_type"]) == ("SUCCESS", "INCREMENTAL")
        assert sync["total_fetched"] < RECORDS / 10
        (state,) = pipeline.query("select state_id from meltano.state")
        assert state["state_id"].endswith(":tap-oracle-crm-to-target-postgres")
        tables.append(pipeline.query("select * from raw.opportunities order by 1"))
    assert [len(table) for table in tables] == [RECORDS, RECORDS]
    assert as_in_the_crm(tables[0]) == as_in_the_crm(tables[1])


def as_in_the_crm(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Remove the columns with load times and batches."""
    return [
        {name: value for name, value in row.items() if not name.startswith("_")} for row in rows
    ]


@pytest.mark.airflow
@pytest.mark.timeout(900)
def test_a_failed_first_load_continues_where_it_was(
    airflow: Airflow, pipeline: Pipeline, crm: Sandbox
) -> None:
    # Only the last partition is refused, after some pages, in its first and second attempt.
    crm.fault("error", status=403, query="is null", after=8)
    airflow.work(2, **pipeline.environment)
    run = airflow.start(FIRST_LOAD, partitions=2)
    assert airflow.wait(FIRST_LOAD, run) == "failed"
    states = {(task["task_id"], task["map_index"]): task for task in airflow.tasks(FIRST_LOAD, run)}
    assert states["load", 0]["state"] == "success"
    assert states["load", 1]["state"] == "failed"
    assert states["load", 1]["try_number"] == 2
    assert pipeline.query("select from opportunities") == []
    (there,) = pipeline.query("select count(*) as rows from raw.opportunities")
    assert RECORDS / 2 < there["rows"] < RECORDS

    crm.clear_faults()
    crm.clear_requests()
    crm.mutate(update=20, delete=5)
    airflow.clear_failed(FIRST_LOAD, run)
    assert airflow.wait(FIRST_LOAD, run) == "success", airflow.tasks(FIRST_LOAD, run)
    assert crm.requests()["rows"] < RECORDS - there["rows"] + RECORDS / 10
    assert pipeline.meltano("run", "reconcile").returncode == 0
    assert_equal_to_crm(pipeline)


@pytest.mark.airflow
@pytest.mark.timeout(900)
def test_a_failed_task_sends_an_alert_and_a_successful_one_has_its_lineage(
    airflow: Airflow, pipeline: Pipeline, crm: Sandbox, receiver: Receiver
) -> None:
    crm.settings(forbidden=["opportunities"])
    airflow.work(1, **pipeline.environment)
    receiver.received.clear()
    run = airflow.start("oracle-crm.nightly")
    assert airflow.wait("oracle-crm.nightly", run) == "failed"
    assert [sync["status"] for sync in pipeline.syncs()] == ["FAILED", "FAILED"]
    ((_, told),) = receiver.received
    assert told["title"] == "oracle-crm.nightly failed"
    assert "Task sync" in told["message"]

    crm.settings(forbidden=[])
    for schedule in ("nightly", "nightly-reconcile", "nightly-build", "weekly-housekeeping"):
        run = airflow.start(f"oracle-crm.{schedule}")
        assert airflow.wait(f"oracle-crm.{schedule}", run) == "success", schedule
    assert pipeline.last_sync()["new_records"] == len(crm.rows(fields=["OptyId"]))
    assert len(pipeline.syncs()) == 3
    assert_equal_to_crm(pipeline)

    events = [json.loads(line) for line in airflow.lineage.read_text().splitlines()]
    written = {
        (event["job"]["name"], output["name"])
        for event in events
        if event["eventType"] == "COMPLETE"
        for output in event["outputs"]
    }
    database = pipeline.database.rsplit("/", 1)[1]
    assert any(
        job == "oracle-crm.nightly.sync" and table.endswith(".public.opportunities")
        for job, table in written
    ), (written, database)
