"""Runs of the pipeline in one process: the real tap and loader, without Meltano.

This module does Meltano's work: it registers the run, gives the state to the tap, connects tap and
loader, stores the states from the loader, and passes events to the recorder. Then it sends dbt's
recorded statements.
"""

from __future__ import annotations

import copy
import uuid
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any

import msgspec
import psycopg
import yaml
from msgspec import Raw
from msgspec.structs import astuple
from oracle_crm_sandbox import PASSWORD, USER
from psycopg.pq import TransactionStatus
from singer_sdk.sinks import Sink
from tap_oracle_crm.errors import OracleCrmError
from tap_oracle_crm.tap import TapOracleCRM
from target_postgres_copy.connector import LoadRefusedError
from target_postgres_copy.lines import Record
from target_postgres_copy.sink import CopySink
from target_postgres_copy.target import CopyTarget

from database.address import sqlalchemy_url
from database.environment import ROOT
from runs import recorder, registry
from runs.registry import Job
from tests.simulation.crm import ADDRESS, Transport
from tests.simulation.executor import Host, Process, Task
from tests.simulation.merges import MassDeletionError, Node, refuse_mass_deletion

if TYPE_CHECKING:
    from tests.simulation.world import World

_PLUGINS = {
    plugin["name"]: plugin
    for kind in ("extractors", "loaders")
    for plugin in yaml.safe_load((ROOT / "meltano.yml").read_text())["plugins"][kind]
}
READER, COMPLETE = "tap-oracle-crm", "tap-oracle-crm-complete"
TAP = _PLUGINS[READER]["config"] | {
    "base_url": ADDRESS,
    "username": USER,
    "password": PASSWORD,
    "max_retries": 3,
    "mapped_fields": "Practice_c,GEO_c,Region_c,Sector_c",
}


@dataclass(frozen=True)
class Plan:
    """The parameters of a run."""

    kind: str = "sync"
    full: bool = False
    """Meltano's --full-refresh."""
    force: bool = False
    suffix: str | None = None
    """The suffix of the state's id."""
    tap: dict[str, Any] = field(default_factory=dict)
    """Settings of the tap."""
    model_by_model: bool = False
    """Call dbt once for each model, without the run's number."""

    def __str__(self) -> str:
        words = ["full" * self.full, self.kind, "--force" * self.force, self.suffix or ""]
        words += [f"{name}={value}" for name, value in self.tap.items()]
        return " ".join(filter(None, [*words, "model by model" * self.model_by_model]))


@dataclass
class Read:
    """A loaded record: its key, and whether it is valid by the rules of tap and dbt."""

    key: str
    is_good: bool


class Pipe:
    """Lines from one process to another, with a small buffer."""

    def __init__(self, world: World) -> None:
        self._executor = world.executor
        self._lines: deque[bytes] = deque()
        self._part = b""
        self._has_writer = self._has_reader = True
        self._waiting: list[Task] = []

    def write(self, data: bytes) -> None:
        """Write line by line.

        Raises:
            BrokenPipeError: the reader is closed.
        """
        *lines, self._part = (self._part + data).split(b"\n")
        for line in lines:
            while len(self._lines) >= 5 and self._has_reader:
                self._executor.wait(self._waiting)
            if not self._has_reader:
                raise BrokenPipeError
            self._lines.append(line)
            self._executor.wake(self._waiting)
            self._executor.pause()

    def close_writer(self) -> None:
        """Close the writing end."""
        self._has_writer = False
        self._executor.wake(self._waiting)

    def close_reader(self) -> None:
        """Close the reading end."""
        self._has_reader = False
        self._executor.wake(self._waiting)

    def __iter__(self) -> Iterator[bytes]:
        while True:
            while not self._lines:
                if not self._has_writer:
                    return
                self._executor.wait(self._waiting)
            line = self._lines.popleft()
            self._executor.wake(self._waiting)
            yield line


class SimulatedSink(CopySink):
    """A sink that reports the records that it has loaded."""

    target: SimulatedTarget

    def __init__(self, target: SimulatedTarget, *args: Any, **kwargs: Any) -> None:
        super().__init__(target, *args, **kwargs)
        self.target = target
        self._taken: list[Read] = []

    def setup(self) -> None:
        """Inspect the table only the first time, since no simulated run changes it."""
        if self.stream_name in self.target.run.world.prepared_streams:
            self.append_only = False
        else:
            super().setup()

    def is_plain(self) -> bool:
        """Whether the table is plain; inspect it only the first time."""
        prepared = self.target.run.world.prepared_streams
        if self.stream_name not in prepared and super().is_plain():
            prepared.add(self.stream_name)
        return self.stream_name in prepared

    def add(self, key: Any, record: Record, extracted: str | None, *, has_escapes: bool) -> bool:
        """Add a record to the batch."""
        values = dict(zip(self.lines.names, astuple(record), strict=True))
        if self.stream_name == "opportunities":
            chance = values["WinProb"]
            if isinstance(chance, Raw):
                chance = msgspec.json.decode(chance)
            is_good = chance is None or 0 <= float(chance) <= 100
            self._taken.append(Read(str(values["OptyId"]), is_good))
        elif self.stream_name == "rejected_records":
            self._taken.append(Read(values["remote_id"] or values["id"], is_good=False))
        return super().add(key, record, extracted, has_escapes=has_escapes)

    def process_batch(self, context: dict[str, Any]) -> None:
        """Write a batch."""
        self.target.run.world.executor.pause()
        super().process_batch(context)
        self.target.run.world.has_loaded(self.target.run, self._taken)
        self._taken = []


class SimulatedTap(TapOracleCRM):
    """The tap, connected to the CRM without sockets."""

    def __init__(self, run: Run, **given: Any) -> None:
        world = run.world
        self.adapter = Transport(world.crm, lambda: world.weather)
        settings = TAP | world.tap_settings | run.plan.tap
        super().__init__(config=settings, **given)


class SimulatedTarget(CopyTarget):
    """The loader; it drains its sinks one after the other, in random order."""

    default_sink_class = SimulatedSink

    def __init__(self, run: Run, **settings: Any) -> None:
        self.run = run
        super().__init__(**settings)

    def _drain_all(self, sink_list: Any, parallelism: int) -> None:
        sinks: list[Sink] = list(sink_list)
        for sink in self.run.world.random.sample(sinks, len(sinks)):
            self.drain_one(sink)

    def _write_state_message(self, state: dict[str, Any]) -> None:
        self.run.keep(state)


class Run:
    """One `meltano run`."""

    def __init__(self, world: World, plan: Plan, host: Host) -> None:
        self.world, self.plan, self.host = world, plan, host
        self.run_id = str(uuid.UUID(int=world.random.getrandbits(128), version=4))
        self.process = Process(f"{plan}", host)
        self.began = world.executor.step
        self.number: int | None = None
        self.children: list[Process] = []
        world.runs.append(self)
        world.ledger.begins(self)
        self._observed = recorder._Run(self.run_id)

    def __str__(self) -> str:
        return f"run {self.number or '?'}"

    # Meltano

    def start(self) -> Process:
        """Start the run."""
        self.world.executor.run_process(self._run, self.process)
        self.world.processes.append(self.process)
        return self.process

    def _run(self) -> int:
        plan, world = self.plan, self.world
        plugin = COMPLETE if plan.kind == "reconcile" else READER
        job = Job.of([plugin, registry.LOADER, f"dbt-postgres:{plan.kind}"], plan.suffix)
        try:
            self.number = world.patiently(
                lambda: registry.register(
                    world.url,
                    self.run_id,
                    job,
                    self.process,  # type: ignore[arg-type]
                    full=plan.full,
                    force=plan.force,
                )
            )
        except registry.RunningError as error:
            world.tell(f"{self} ({plan}) on {self.host.name}: refused, {error}")
            return 1
        world.tell(f"{self} begins on {self.host.name}: {plan}")
        code = self._extract_and_load(f"{plugin}-to-{registry.LOADER}:{plan.suffix or ''}")
        if code == 0 and not plan.model_by_model:
            code = self._transform()
        elif code == 0:
            code = self._transform_model_by_model()
        self._save(ended=True)
        registry.end(world.url, self.run_id)
        world.tell(f"{self} ends with {code}")
        return code

    def _extract_and_load(self, state_id: str) -> int:
        executor = self.world.executor
        self._state_id = state_id
        state = None if self.plan.full else copy.deepcopy(self.world.states.get(state_id))
        pipe = Pipe(self.world)
        codes: dict[str, int] = {}
        waiting: list[Task] = []
        tap = Process("tap", self.host)
        loader = Process("loader", self.host)
        tap.output = pipe.write
        for process, main in ((tap, lambda: self._tap(state)), (loader, lambda: self._load(pipe))):

            def note(main: Callable[[], int] = main, name: str = process.name) -> int:
                codes[name] = main()
                return codes[name]

            executor.run_process(note, process)
            process.at_end.append(lambda: executor.wake(waiting))
        tap.at_end.append(pipe.close_writer)
        loader.at_end.append(pipe.close_reader)
        # Meltano passes on the tap's output: if it ends, the pipe closes at both ends.
        self.process.at_end += [pipe.close_writer, pipe.close_reader]
        self._adopt(tap, loader)
        while tap.is_alive or loader.is_alive:
            executor.wait(waiting)
        succeeded = codes.get("tap") == 0 and codes.get("loader") == 0
        self.observe(
            {
                "success": succeeded,
                "block_type": "ExtractLoadBlocks",
                "err": "killed",
                "name": "meltano",
            }
        )
        return 0 if succeeded else 1

    def _adopt(self, *children: Process) -> None:
        self.children += children
        self.world.processes += children

    def keep(self, state: dict[str, Any]) -> None:
        """Store a state, like Meltano while it is running."""
        if self.process.is_alive and state:
            self.world.states[self._state_id] = copy.deepcopy(state)

    # The recorder

    def observe(self, event: dict[str, Any]) -> None:
        """Pass an event of Meltano's log to the recorder."""
        if not self.process.is_alive:
            return
        if self._observed.observe(event) and self._observed.is_urgent:
            self._save()

    def _save(self, *, ended: bool = False) -> None:
        values = self._observed.__dict__ | {"changed": True, "ended": ended}
        self.world.patiently(lambda: self.world.connection.execute(recorder._SAVE, values))
        self._observed.is_urgent = False

    # Tap and loader

    def _tap(self, state: dict[str, Any] | None) -> int:
        try:
            discovered = SimulatedTap(self, setup_mapper=False)
            catalog = self.world.catalog(discovered, self.plan.kind)
            SimulatedTap(self, catalog=catalog, state=state).sync_all()
        except (OracleCrmError, SystemExit) as error:
            self.world.tell(f"{self}: the tap fails: {error}")
            self.observe({"name": TapOracleCRM.name, "level": "error", "event": str(error)})
            return 1
        return 0

    def _load(self, pipe: Pipe) -> int:
        address = sqlalchemy_url(self.world.url, f"loader {self.run_id}", timezone="UTC")
        target = SimulatedTarget(
            self,
            config=_PLUGINS[registry.LOADER]["config"]
            | {"sqlalchemy_url": address, "run_number": self.number}
            | {"batch_size_rows": self.world.batch_size},
        )
        try:
            target.listen(pipe)
        except LoadRefusedError as error:
            self.world.tell(f"{self}: the loader fails: {error}")
            self.observe({"name": registry.LOADER, "level": "error", "event": str(error)})
            return 1
        return 0

    # dbt

    def _transform(self) -> int:
        nodes = self.world.merges.nodes(self._transformation, self.run_id, self.number)
        failed = self.world.merges.nodes(f"failed {self.plan.kind}", self.run_id, self.number)
        return self._dbt(nodes, failed[-1])

    @property
    def _transformation(self) -> str:
        return "full" if self.plan.full and self.plan.kind == "sync" else self.plan.kind

    def _transform_model_by_model(self) -> int:
        run_id = str(uuid.UUID(int=self.world.random.getrandbits(128), version=4))
        before, *models, after = self.world.merges.nodes(self._transformation, run_id, None)
        (*_, failed) = self.world.merges.nodes(f"failed {self.plan.kind}", run_id, None)
        for model in self._in_any_order(models):
            # Only the process that merges the opportunities runs the hooks.
            if model.name == "opportunities":
                code = self._dbt([before, model, after], failed)
            else:
                code = self._dbt([model], None)
            if code:
                return code
        return 0

    def _dbt(self, nodes: list[Node], failed: Node | None) -> int:
        """Run a process of dbt to its end."""
        process = Process("dbt", self.host)
        executor, waiting, codes = self.world.executor, list[Task](), list[int]()
        connection = self.world.connect()

        def main() -> int:
            codes.append(self._merge(connection, nodes, failed))
            return codes[0]

        process.at_end += [
            lambda: self.world.disconnect(connection),
            lambda: executor.wake(waiting),
        ]
        self._adopt(process)
        executor.run_process(main, process)
        while process.is_alive:
            executor.wait(waiting)
        return codes[0] if codes else 137

    def _in_any_order(self, models: list[Node]) -> list[Node]:
        """Return models in a random order that dbt may use."""
        waiting = self.world.random.sample(models, len(models))
        ordered: list[Node] = []
        while waiting:
            names = {model.name for model in waiting}
            ordered.append(next(model for model in waiting if not model.parents & names))
            waiting.remove(ordered[-1])
        return ordered

    def _merge(
        self, connection: psycopg.Connection[Any], nodes: list[Node], failed: Node | None
    ) -> int:
        hooks = [node for node in nodes if node.is_hook]
        models = self._in_any_order([node for node in nodes if not node.is_hook])
        if hooks:
            self._send(connection, hooks[0])
        not_merged: set[str] = set()
        for model in models:
            try:
                if not model.parents & not_merged:
                    self._send(connection, model)
                    continue
            except (psycopg.Error, MassDeletionError) as error:
                connection.rollback()
                self.world.tell(f"{self}: {model.name} fails: {str(error).splitlines()[0]}")
            not_merged.add(model.name)
        if hooks:
            self._send(connection, failed if failed and not_merged else hooks[1])
        return 1 if not_merged else 0

    def _send(self, connection: psycopg.Connection[Any], node: Node) -> None:
        """Send the statements of a node, in one transaction."""
        window = None
        for statement in node.statements:
            self.world.executor.pause()
            cursor = self._once_free(connection, statement)
            if "merging_until" in statement and window is None:
                window = self.world.ledger.window(node.name)
            if cursor.description and not node.is_hook:
                refuse_mass_deletion(statement, cursor.fetchone(), self.world.share)
            # Hooks after the transaction begin with its end; what comes then may be killed.
            if window is not None and connection.info.transaction_status == TransactionStatus.IDLE:
                self.world.ledger.has_merged(node.name, window)
                window = None
        self.world.executor.pause()
        connection.commit()
        if not node.is_hook:
            self.world.tell(f"{self} merges {node.name}")
        if window is not None:
            self.world.ledger.has_merged(node.name, window)

    def _once_free(
        self, connection: psycopg.Connection[Any], statement: str
    ) -> psycopg.Cursor[Any]:
        """Retry a statement until no other transaction has its locks."""

        def attempt() -> psycopg.Cursor[Any]:
            connection.execute("savepoint statement")
            try:
                return connection.execute(statement.encode())
            except psycopg.errors.LockNotAvailable:
                connection.execute("rollback to savepoint statement")
                raise

        return self.world.patiently(attempt)


def selected(catalog: dict[str, Any], kind: str) -> dict[str, Any]:
    """Select the same attributes in a catalog as meltano.yml for a kind of run."""
    patterns = _PLUGINS[READER]["select"]
    own = _PLUGINS[COMPLETE] if kind == "reconcile" else {}
    catalog = copy.deepcopy(catalog)
    for entry in catalog["streams"]:
        name = entry["tap_stream_id"]
        changed = own.get("metadata", {}).get(name, {})
        if method := changed.get("replication-method"):
            entry["replication_method"] = method
        for item in entry["metadata"]:
            metadata = item["metadata"]
            if not item["breadcrumb"]:
                metadata |= changed
                metadata["selected"] = name in own.get("select_filter", [name]) and any(
                    fnmatchcase(name, one.split(".")[0]) for one in patterns
                )
            elif metadata.get("inclusion") != "automatic":
                attribute = f"{name}.{item['breadcrumb'][-1]}"
                metadata["selected"] = any(fnmatchcase(attribute, one) for one in patterns)
    return catalog
