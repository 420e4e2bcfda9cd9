"""A simulated world: a CRM, a database, machines, and their random events, by one seed."""

from __future__ import annotations

import itertools
import json
import logging
import os
import random as global_random
import subprocess
import sys
import traceback
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from random import Random
from typing import Any, TypeVar
from unittest import mock

import psycopg
from psycopg.rows import dict_row
from singer_sdk.metrics import Point
from sqlalchemy import Engine
from tap_oracle_crm.tap import TapOracleCRM
from target_postgres_copy.connector import CopyConnector

from database.address import libpq_environment, sqlalchemy_url
from database.environment import DBT_SETTINGS, ROOT
from tests.simulation.crm import SimulatedCrm, Weather
from tests.simulation.executor import Executor, Host, Process
from tests.simulation.ledger import Ledger, Violation
from tests.simulation.merges import Merges
from tests.simulation.pipeline import Plan, Read, Run, selected

PACKAGES = ("tap_oracle_crm", "target_postgres_copy", "singer_sdk")
STATUSES = ("NEW", "ASSIGNED", "UNDER_ASSESSMENT", "PENDING_REVIEW", "APPROVED", "REJECTED")
NAME = "simulation"
EMPTY = """
truncate
    raw.opportunities, raw.rejected_records, raw.read_keys, raw.opportunity_statuses,
    public.opportunities, public.rejected_records, public.sync_runs, public.reconciliations,
    public.opportunity_changes, public.merge_marks, public.status_outcomes
cascade;
delete from clock.jump;
insert into clock.jump values ('0');
update public.load_fence set run_number = 0, batch = 0, began_after = 0;
alter sequence public.run_numbers restart;
"""
CLOCK = """
create schema if not exists clock;
create table if not exists clock.jump (by interval not null);
create or replace function clock.now() returns timestamptz language sql stable as
    $$ select pg_catalog.now() + (select sum(by) from clock.jump) $$;
create or replace function clock.clock_timestamp() returns timestamptz language sql volatile as
    $$ select pg_catalog.clock_timestamp() + (select sum(by) from clock.jump) $$;
"""
"""A clock for the database that can be set; new connections use it instead of the real one."""

_T = TypeVar("_T")


class Database:
    """A database that worlds use one after the other, and dbt's statements on it."""

    def __init__(self, url: str, merges: Merges) -> None:
        self.url, self.merges = url, merges
        self.connection = psycopg.connect(url, autocommit=True, row_factory=dict_row)
        self.prepared_streams: set[str] = set()
        """The streams whose tables the loader has inspected."""
        self._free: list[psycopg.Connection[Any]] = []
        self.catalogs: dict[tuple[str, str], dict[str, Any]] = {}

    @classmethod
    def create(cls, server: str, template: str, scratch: Path) -> Database:
        """Create the database.

        Args:
            server: the server's URL, without a database.
            template: the database to copy; the copy is migrated.
            scratch: a folder for dbt's files.
        """
        with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
            connection.execute(f"create database {NAME} template {template}")
        url = f"{server}/{NAME}"
        environment = (
            os.environ
            | libpq_environment(url)
            | DBT_SETTINGS
            | {
                "DATABASE_URL": url,
                "DBT_PROJECT_DIR": str(ROOT / "transform"),
                "DBT_PROFILES_DIR": str(ROOT / "transform"),
                "DBT_TARGET_PATH": str(scratch / "dbt"),
                "DBT_LOG_PATH": str(scratch / "dbt"),
            }
        )
        subprocess.run(
            [sys.executable, "-m", "database", "migrate"], cwd=ROOT, check=True, env=environment
        )
        merges = Merges.of(environment, scratch)
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(CLOCK)
            # In this one thread, a wait for another transaction would never end.
            connection.execute(f"alter database {NAME} set lock_timeout = 30")
            connection.execute(f"alter database {NAME} set search_path = clock, pg_catalog, public")
        return cls(url, merges)

    @cached_property
    def engine(self) -> Engine:
        """The loader's connections, shared: one for each simulated process would cost too much."""
        url = sqlalchemy_url(self.url, "loader", timezone="UTC")
        return CopyConnector(config={"sqlalchemy_url": url}).create_engine()

    def connect(self) -> psycopg.Connection[Any]:
        """Return a connection that no process uses.

        It is one that another process has left, if possible: a new one would first have to read
        the catalog for each of dbt's long statements.
        """
        return self._free.pop() if self._free else psycopg.connect(self.url)

    def disconnect(self, connection: psycopg.Connection[Any]) -> None:
        """Undo what a process has not committed, as if its connection had been closed."""
        connection.rollback()
        self._free.append(connection)

    def empty(self) -> None:
        """Delete all data."""
        self.connection.execute(EMPTY)


class World:
    """The world of one seed."""

    def __init__(self, seed: int, database: Database) -> None:
        self.seed = seed
        self.random = Random(seed)
        self.url, self.merges = database.url, database.merges
        self.prepared_streams, self._catalogs = database.prepared_streams, database.catalogs
        self.connection, self.engine = database.connection, database.engine
        self.connect, self.disconnect = database.connect, database.disconnect
        database.empty()
        self.executor = Executor(Random(self.random.random()), self._between)
        self.crm = SimulatedCrm(self.executor, self.random, self.random.randrange(6, 40))
        self.weather = Weather(self.random)
        self.hosts = [Host("alpha"), Host("beta")]
        self.processes: list[Process] = []
        Process.numbers = itertools.count(1000)
        self.runs: list[Run] = []
        self.states: dict[str, Any] = {}
        self.share = 0.2
        self.batch_size = self.random.choice([3, 10, 10_000])
        self.tap_settings = {
            "page_size": self.random.choice([3, 7, 499]),
            "concurrency": self.random.choice([1, 2, 4]),
        }
        self.restlessness = self.random.choice([0.0, 0.02, 0.05, 0.1])
        self.is_settling = False
        self.story: list[str] = []
        self.tally: Counter[str] = Counter()
        self.ledger = Ledger(self)
        self.before_the_end: Callable[[], object] = lambda: None

    # The story

    def tell(self, what: str) -> None:
        """Add an event to the story."""
        self.tally["superseded"] += "superseded" in what
        self.tally["refused to delete so many"] += "deals are gone" in what
        self.story.append(f"{self.executor.step:6d} {self.executor.now:9.1f} s  {what}")

    def report(self, error: Exception) -> str:
        """Return the story of a failed world, and the command to repeat it."""
        wrong = str(error)
        if not isinstance(error, AssertionError):
            wrong = "".join(traceback.format_exception(error))
        return "\n".join(
            [
                f"Seed {self.seed}, step and time:",
                *self.story,
                f"WRONG: {wrong}",
                f"To see it again: make simulate SEEDS={self.seed}",
            ]
        )

    def play(self) -> None:
        """Run the world to its end, and check the rules.

        Raises:
            Violation: a rule is broken.
        """
        global_random.seed(self.seed)
        with ExitStack() as stack:
            enter = stack.enter_context
            enter(self.executor.in_place_of_the_real(*PACKAGES))
            enter(mock.patch.object(CopyConnector, "create_engine", return_value=self.engine))
            enter(
                mock.patch.multiple(
                    "runs.processes",
                    columns=_columns,
                    is_here=self._is_here,
                    process_of=self._process_of,
                )
            )
            enter(mock.patch("runs.meltano_runs.close_ended_ones"))
            # All transactions are this thread's: while one waits for a lock, none can end.
            enter(mock.patch("runs.registry.lock_seconds", return_value=0.01))
            enter(_listening_to_metrics(self))
            try:
                self.executor.run(self._run_events, Process("people", Host("office")))
            finally:
                for process in self.processes:
                    self.executor.end(process)

    def _run_events(self) -> None:
        for _ in range(self.random.randrange(1, 5)):
            self._run_pipeline(self._some_plan())
            for _ in range(self.random.randrange(4)):
                self.tell(f"CRM: {self.crm.happen()}")
                self.ledger.look_at_crm()
        self._settle()

    def _some_plan(self) -> Plan:
        draw = self.random.random
        return Plan(
            kind="reconcile" if draw() < 0.25 else "sync",
            full=draw() < 0.1,
            force=draw() < 0.1,
            tap={"max_runtime_seconds": 3} if draw() < 0.15 else {},
            model_by_model=draw() < 0.1,
        )

    def _run_pipeline(self, plan: Plan, host: Host | None = None) -> Run:
        """Start a run and wait until it has ended, or for some seconds."""
        run = Run(self, plan, host or self.random.choice(self.hosts))
        process = run.start()
        patience = float("inf") if self.is_settling or self.random.random() < 0.8 else 4.0
        end = self.executor.now + patience
        while self.executor.now < end and (process.is_alive or self._children(run)):
            self.executor.sleep(0.5)
        self.ledger.check(run)
        self.tally[f"{plan.kind}: {self.ledger.status(run) or 'refused'}"] += 1
        return run

    def _children(self, run: Run) -> list[Process]:
        return [process for process in run.children if process.is_alive]

    # Events

    def _between(self) -> None:
        """Make random events happen between any two steps."""
        for event in self.crm.commit_late():
            self.tell(f"CRM: {event}")
            self.ledger.look_at_crm()
        if self.is_settling or self.random.random() >= self.restlessness:
            return
        happenings: list[tuple[int, Callable[[], str]]] = [
            (10, self._crm_changes),
            (6, self._people_edit),
            (3, self._kill),
            (2, self._freeze),
            (1, self._jump),
            (1, self._change_weather),
        ]
        weights = [weight for weight, _ in happenings]
        happen = self.random.choices([one for _, one in happenings], weights)[0]
        if event := happen():
            self.tally[happen.__name__.strip("_").replace("_", " ")] += 1
            self.tell(event)

    def _crm_changes(self) -> str:
        event = self.crm.happen()
        self.ledger.look_at_crm()
        return f"CRM: {event}"

    def _people_edit(self) -> str:
        rows = self.connection.execute(
            "select id, remote_id, workflow_status from opportunities"
            " where workflow_status_before_close is null order by id"
        ).fetchall()
        if not rows:
            return ""
        row, status = self.random.choice(rows), self.random.choice(STATUSES)
        try:
            edited = self.connection.execute(
                "update opportunities set workflow_status = %s"
                " where id = %s and workflow_status_before_close is null returning id",
                [status, row["id"]],
            ).fetchone()
        except psycopg.errors.LockNotAvailable:
            return f"people: {row['remote_id']} is being merged, {status} has to wait"
        if edited:
            self.ledger.workflow[row["remote_id"]] = status
        return f"people: {row['remote_id']} is {status}"

    def _kill(self) -> str:
        living = [process for process in self.processes if process.is_alive]
        if not living:
            return ""
        victim = self.random.choice(living)
        self.executor.end(victim)
        return f"killed: {victim}"

    def _freeze(self) -> str:
        host = self.random.choice(self.hosts)
        host.is_frozen = not host.is_frozen
        if host.is_frozen:
            # Its heartbeats stop.
            self.connection.execute("insert into clock.jump values ('30 s')")
        return f"{host.name} {'stands still' if host.is_frozen else 'goes on'}"

    def _jump(self) -> str:
        by = timedelta(seconds=self.random.choice([-86400, -3600, -60, 60, 3600, 86400]))
        match self.random.choice(["alpha", "beta", "CRM", "database"]):
            case "CRM":
                self.crm.clock_is_ahead_by += by
                self.ledger.crm_clock_went_back |= by < timedelta()
                whose = "the CRM"
            case "database":
                self.connection.execute("insert into clock.jump values (%s)", [by])
                whose = "the database"
            case name:
                host = next(host for host in self.hosts if host.name == name)
                host.clock_is_ahead_by += by
                whose = name
        return f"clock of {whose}: {by.total_seconds():+,.0f} s"

    def _change_weather(self) -> str:
        self.weather = Weather(self.random)
        return f"{self.weather.share:.0%} of the requests fail"

    # The end

    def _settle(self) -> None:
        """Stop all events, sync and reconcile, and compare."""
        self.tell("all events stop")
        self.is_settling = True
        for host in self.hosts:
            host.is_frozen = False
        self.weather.share = 0.0
        self.crm.commit_late(all_of_them=True)
        self.ledger.look_at_crm()
        while any(process.is_alive for process in self.processes):
            self.executor.sleep(1)
        self.connection.execute("insert into clock.jump values ('30 s')")
        self.executor.sleep(10)
        self.share = 1.0
        self.crm.events = 0
        for kind in ("sync", "reconcile"):
            run = self._run_pipeline(Plan(kind=kind))
            self.ledger.must(self.ledger.status(run) == "SUCCESS", f"the last {kind} fails")
        self.before_the_end()
        self.ledger.check_end()

    # Machinery

    def patiently(self, attempt: Callable[[], _T]) -> _T:
        """Retry until no lock blocks it."""
        for _ in range(300):
            try:
                return attempt()
            except psycopg.errors.LockNotAvailable:
                self.executor.sleep(0.5)
        raise Violation("a lock is never released")

    def has_loaded(self, run: Run, records: list[Read]) -> None:
        """Record the records of a batch."""
        self.ledger.has_loaded(records)
        self.tell(f"{run} loads {len(records)} records")

    def catalog(self, tap: TapOracleCRM, kind: str) -> dict[str, Any]:
        """Return the selected catalog of a tap; it is cached for the same attributes."""
        attributes = tap.streams["opportunities"].schema["properties"]
        key = (kind, json.dumps(attributes))
        if key not in self._catalogs:
            self._catalogs[key] = selected(tap.catalog_dict, kind)
        return self._catalogs[key]

    def _is_here(self, run: dict[str, Any]) -> bool:
        return bool(run["host"] == self.executor.process.host.name)

    def _process_of(self, run: dict[str, Any]) -> Process | None:
        return next((one for one in self.processes if one.pid == run["pid"] and one.is_alive), None)


def _columns(process: Process) -> dict[str, Any]:
    name = process.host.name
    return {"host": name, "pid_namespace": name, "pid": process.pid, "process_started_at": 0.0}


class _Metrics(logging.Handler):
    """Passes the metrics of a tap to the recorder of its run."""

    def __init__(self, world: World) -> None:
        super().__init__()
        self._world = world

    def emit(self, record: logging.LogRecord) -> None:
        process = self._world.executor.process
        run = next((run for run in self._world.runs if process in run.children), None)
        point = record.args[0] if isinstance(record.args, tuple) else None
        if run and process.name == "tap" and isinstance(point, Point):
            run.observe({"name": TapOracleCRM.name, "metric_info": point.to_dict()})


def _listening_to_metrics(world: World) -> Any:
    logger = logging.getLogger("singer_sdk.metrics")
    return mock.patch.object(logger, "handlers", [_Metrics(world)])
