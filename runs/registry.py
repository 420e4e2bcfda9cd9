"""The register of runs: only one run loads at a time, and each load has a number.

The number is a fencing token. It comes from a sequence of the database, so a later run has a higher
one. Every batch of the loader and every merge checks in its own transaction that its number is
still the one in `public.load_fence`. So a run that seemed dead but continues can do no harm. Only
the database's clock decides which run is alive. No lock lasts longer than a transaction, so that
all of this works through a connection pooler.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, LiteralString

import psutil
import psycopg
from psycopg.rows import DictRow, dict_row

from database.address import url_for
from database.locks import bounded, lock_seconds
from runs import meltano_runs, processes

NUMBER = "ORACLE_CRM_RUN_NUMBER"
"""The environment variable that passes a run's number to its loader and to dbt."""
LOADER = "target-postgres"
READERS = {
    "tap-oracle-crm": "sync",
    "tap-oracle-crm-complete": "reconcile",
    "tap-oracle-crm-partition": "partition",
    "tap-oracle-crm-deal": "refresh",
}

UNDER_WAY = """
select run_id, kind, run_number, host, pid_namespace, pid, process_started_at, started_at,
    sync_run_is_alive(sync_runs) as is_alive,
    load_succeeded is false or transform_succeeded is not null as is_through
from public.sync_runs
where ended_at is null and heartbeat_at is not null
"""
# The last printed line is the reason only if the run had not begun; later it only shows progress.
DIED = """
update public.sync_runs
set
    ended_at = greatest(heartbeat_at, started_at),
    died = true,
    error_message = coalesce(error_message, case when observed_at is null then %(words)s end)
where run_id = %(run_id)s and ended_at is null
"""
_END = """
update public.sync_runs
set
    ended_at = coalesce(ended_at, clock_timestamp()),
    died = coalesce(%(died)s, died),
    error_message = coalesce(error_message, case when observed_at is null then %(words)s end)
where run_id = %(run_id)s
"""
_KINDS = {
    "sync": "A sync",
    "reconcile": "A reconcile",
    "partition": "A first load",
    "refresh": "A refresh of a deal",
}


class RunningError(Exception):
    """Another load is running.

    Attributes:
        run_id: the other run.
        kind: its kind.
        what: its kind as text.
    """

    def __init__(self, other: DictRow) -> None:
        self.run_id, self.kind = other["run_id"], other["kind"]
        self.what = _KINDS.get(self.kind, "A load")
        super().__init__(
            f"{self.what} is already running: {self.run_id} on {other['host']}, since "
            f"{other['started_at']:%Y-%m-%d %H:%M:%S %Z}. Wait until it has ended, or cancel it."
        )


class SupersededError(Exception):
    """A run may not load: another one has taken its place, or the run has ended."""


@dataclass(frozen=True)
class Job:
    """The work of a run.

    Attributes:
        kind: `sync`, `reconcile`, `partition`, `refresh`, or `other` if it loads nothing.
        blocks: its plugins, as on Meltano's command line.
        state_id_suffix: the suffix of its Meltano state, if it has a state of its own.
    """

    kind: str
    blocks: tuple[str, ...]
    state_id_suffix: str | None = None

    @classmethod
    def of(cls, blocks: Sequence[str], state_id_suffix: str | None = None) -> "Job":
        """Return the job that consists of these plugins."""
        kinds = [kind for name, kind in READERS.items() if name in blocks and LOADER in blocks]
        return cls(kinds[0] if kinds else "other", tuple(blocks), state_id_suffix)

    @property
    def loads(self) -> bool:
        """Whether it writes to the raw tables."""
        return LOADER in self.blocks


Database = str | psycopg.Connection[DictRow]
"""A URL, or a connection to it, for who has several things to do."""


@contextmanager
def transaction(database: Database) -> Iterator[psycopg.Connection[DictRow]]:
    """Begin a short transaction.

    Raises:
        LockedError: another session holds a lock for longer than SYNC_LOCK_TIMEOUT.
    """
    opened = closing(connect(database)) if isinstance(database, str) else nullcontext(database)
    with opened as connection, bounded(connection, lock_seconds()):
        yield connection


def connect(url: str) -> psycopg.Connection[DictRow]:
    """Connect for one or two short transactions; this also works through a pooler."""
    return psycopg.connect(
        url_for("run", url),
        autocommit=True,
        row_factory=dict_row,
        connect_timeout=10,
        application_name="runs",
        prepare_threshold=None,
    )


def register(
    database: Database,
    run_id: str,
    job: Job,
    process: psutil.Process | None,
    *,
    full: bool = False,
    trigger: str = "shell",
    requested_by: str | None = None,
    number: int | None = None,
    force: bool = False,
) -> int | None:
    """Register the start of a run; return the number of its load, None if it does not load.

    If its starter has registered the run already, it keeps its number.

    Args:
        database: where the register is.
        run_id: Meltano's id of the run.
        job: its work.
        process: its process; None if it has not started yet.
        full: whether all records are to be read.
        trigger: what started the run.
        requested_by: the user who asked for it.
        number: the number of a load that several runs share.
        force: replace a load that is running.

    Raises:
        RunningError: another load is running.
        SupersededError: a later run has taken its place, or a run with this id has ended.
        LockedError: another session holds a lock for longer than SYNC_LOCK_TIMEOUT.
    """
    with transaction(database) as connection:
        current = _lock_fence(connection)
        own = connection.execute(
            "select * from public.sync_runs where run_id = %s", [run_id]
        ).fetchone()
        if own is not None:
            number = own["run_number"]
            _check_own(own, process)
        elif job.loads and number is None:
            number = _next_number(connection, force=force)
            current = number
        if job.loads and number != current:
            raise SupersededError(
                f"The load with number {number} was superseded by a later run: start it again."
            )
        connection.execute(
            """
            insert into public.sync_runs (
                run_id, kind, job, state_id_suffix, run_number, sync_type, trigger, requested_by,
                host, pid_namespace, pid, process_started_at, heartbeat_at
            )
            values (
                %(run_id)s, %(kind)s, %(job)s, %(suffix)s, %(number)s, %(sync_type)s, %(trigger)s,
                %(requested_by)s, %(host)s, %(pid_namespace)s, %(pid)s, %(process_started_at)s,
                clock_timestamp()
            )
            on conflict (run_id) do update set
                host = excluded.host,
                pid_namespace = excluded.pid_namespace,
                pid = excluded.pid,
                process_started_at = excluded.process_started_at,
                heartbeat_at = excluded.heartbeat_at
            """,
            {
                "run_id": run_id,
                "kind": job.kind,
                "job": " ".join(job.blocks),
                "suffix": job.state_id_suffix,
                "number": number,
                "sync_type": "FULL" if full else None,
                "trigger": trigger,
                "requested_by": requested_by,
            }
            | processes.columns(process or psutil.Process())
            | ({} if process else {"pid": None, "process_started_at": None}),
        )
    return number


def begin_shared_load(url: str) -> int:
    """Return the number of a new load that several runs will share.

    Raises:
        RunningError: another load is running.
    """
    with transaction(url) as connection:
        _lock_fence(connection)
        return _next_number(connection, force=False)


def end(url: str, run_id: str, words: str | None = None, *, died: bool | None = None) -> None:
    """Record the end of a run, and its last output if no other reason is known.

    Args:
        url: the database.
        run_id: the run.
        words: the last line that it printed, if it failed.
        died: whether its process was killed, if that is known.
    """
    with transaction(url) as connection:
        connection.execute(_END, {"run_id": run_id, "words": words, "died": died})


def ended(database: Database, run_ids: Sequence[str]) -> list[str]:
    """Return which of these runs have ended."""
    if not run_ids:
        return []
    with transaction(database) as connection:
        rows = connection.execute(
            "select run_id::text from public.sync_runs"
            " where run_id::text = any(%s) and ended_at is not null",
            [list(run_ids)],
        ).fetchall()
    return [row["run_id"] for row in rows]


def settle(connection: psycopg.Connection[DictRow], *, silent_too: bool = False) -> None:
    """Record the end of all dead runs.

    Args:
        connection: to the database.
        silent_too: also count a run on another machine as dead if it has had no heartbeat for
            long. If it is still alive, the number of the next run stops it.
    """
    for run in connection.execute(UNDER_WAY).fetchall():
        if has_died(run) or (silent_too and not processes.is_here(run) and not run["is_alive"]):
            connection.execute(DIED, died(run["run_id"]))


def has_died(run: dict[str, Any]) -> bool:
    """Tell whether a run of UNDER_WAY is certainly dead: it ran here, and its process is gone."""
    return processes.is_here(run) and processes.process_of(run) is None


def died(run_id: object) -> dict[str, Any]:
    """Return the parameters of DIED."""
    return {"run_id": run_id, "words": processes.last_words(run_id)}


def number_from_environment() -> int | None:
    """Return the number of the load that the starter of this process has passed to it."""
    text = os.environ.get(NUMBER, "")
    return int(text) if text.isdecimal() else None


def _lock_fence(connection: psycopg.Connection[DictRow]) -> int:
    """Block other registrations until the transaction ends; return the current load's number."""
    number: int = _row(connection, "select run_number from public.load_fence for update")[
        "run_number"
    ]
    settle(connection, silent_too=True)
    meltano_runs.close_ended_ones(connection)
    return number


def _next_number(connection: psycopg.Connection[DictRow], *, force: bool) -> int:
    """Take the next number; the load before may then no longer write."""
    for other in connection.execute(UNDER_WAY).fetchall():
        if other["run_number"] is not None and not other["is_through"] and not force:
            raise RunningError(other)
    number: int = _row(
        connection,
        "update public.load_fence set run_number = nextval('public.run_numbers'),"
        " began_after = batch returning run_number",
    )["run_number"]
    return number


def _check_own(own: DictRow, process: psutil.Process | None) -> None:
    """Refuse a run whose id another run has, or had."""
    if own["ended_at"] is not None:
        raise SupersededError(f"Run {own['run_id']} has ended: give each run an id of its own.")
    family = [] if process is None else [process.pid, *(one.pid for one in process.parents())]
    if own["pid"] is not None and own["pid"] not in family:
        raise RunningError(own)


def _row(connection: psycopg.Connection[DictRow], statement: LiteralString) -> DictRow:
    row = connection.execute(statement).fetchone()
    assert row is not None  # noqa: S101 - a statement that always has one
    return row
