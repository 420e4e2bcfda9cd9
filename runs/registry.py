"""The register of runs: one loads at a time, and each that loads has a number.

The number is a fencing token. It comes from a sequence of the database, a later run has a higher
one, and every batch of the loader and every merge checks in its own transaction that the number
is still the one in `public.load_fence`. So what is left of a run that was thought dead can do no
harm, and no clock but the database's decides which run lives. Nothing here lasts longer than a
transaction, so that all of it works through a connection pooler.
"""

import os
import socket
import uuid
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import psutil
import psycopg
from psycopg.rows import DictRow, dict_row

from runs import meltano_runs

NUMBER = "ORACLE_CRM_RUN_NUMBER"
"""The environment variable that hands a run's number to its loader and to dbt."""
LOADER = "target-postgres"
READERS = {
    "tap-oracle-crm": "sync",
    "tap-oracle-crm-complete": "reconcile",
    "tap-oracle-crm-partition": "partition",
}

UNDER_WAY = """
select run_id, kind, run_number, host, pid, process_started_at, started_at, heartbeat_at,
    sync_run_is_alive(sync_runs) as is_alive
from public.sync_runs
where ended_at is null and heartbeat_at is not null
"""
_END = """
update public.sync_runs
set ended_at = clock_timestamp(), error_message = coalesce(error_message, %(words)s)
where run_id = %(run_id)s and ended_at is null
"""
DIED = """
update public.sync_runs
set
    ended_at = greatest(heartbeat_at, started_at),
    load_succeeded = coalesce(load_succeeded, false),
    error_message = coalesce(error_message, case
        when load_succeeded then 'The run died while it merged. The next sync merges what was loaded.'
        else 'The run died while it loaded. The next sync goes on from what was kept.'
    end)
where run_id = %s and ended_at is null
"""


class RunningError(Exception):
    """Another run is under way that loads; `run_id` is that one's."""

    def __init__(self, other: DictRow) -> None:
        super().__init__(
            f"A {other['kind']} is already running: {other['run_id']} on {other['host']}, since "
            f"{other['started_at']:%Y-%m-%d %H:%M:%S %Z}. Wait until it has ended, or cancel it."
        )
        self.run_id = other["run_id"]


class SupersededError(Exception):
    """A run was given a number that is no longer the one that may load."""


@dataclass(frozen=True)
class Job:
    """What a run does.

    Attributes:
        kind: `sync`, `reconcile`, `partition`, or `other` where nothing is loaded.
        blocks: the plugins that it runs, as on Meltano's command line.
        state_id_suffix: the suffix of its Meltano state, where it has one of its own.
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


def connect(url: str) -> psycopg.Connection[DictRow]:
    """Connect for a short transaction or two."""
    return psycopg.connect(
        url, autocommit=True, row_factory=dict_row, connect_timeout=10, application_name="runs"
    )


def register(
    url: str,
    run_id: str,
    job: Job,
    *,
    full: bool = False,
    trigger: str = "shell",
    requested_by: str | None = None,
    number: int | None = None,
    force: bool = False,
) -> int | None:
    """Write down that a run begins; return the number that lets it load, None if it does not.

    A run that is registered already (by who started it) keeps its number.

    Args:
        url: the database.
        run_id: the run as Meltano names it.
        job: what it does.
        full: it was asked to read everything.
        trigger: what started it.
        requested_by: who asked for it.
        number: the number of a load that several runs share.
        force: take the place of a run that is under way.

    Raises:
        RunningError: another run that loads is under way.
        SupersededError: a later run has taken the place of the load of this number.
    """
    with closing(connect(url)) as connection, connection.transaction():
        # Its lock lets one register at a time.
        fence = _row(connection, "select run_number from public.load_fence for update")
        own = connection.execute(
            "select run_number from public.sync_runs where run_id = %s", [run_id]
        ).fetchone()
        settle(connection)
        if own is not None:
            number = own["run_number"]
        elif job.loads and number is None:
            if not force:
                _refuse_while_another_loads(connection, run_id)
            number = _row(connection, "select nextval('public.run_numbers') as number")["number"]
            connection.execute("update public.load_fence set run_number = %s", [number])
        elif job.loads and number != fence["run_number"]:
            raise SupersededError(
                f"The load of number {number} was superseded by a later run: begin it anew."
            )
        process = psutil.Process()
        connection.execute(
            """
            insert into public.sync_runs (
                run_id, kind, job, state_id_suffix, run_number, sync_type, trigger, requested_by,
                host, pid, process_started_at, heartbeat_at
            )
            values (
                %(run_id)s, %(kind)s, %(job)s, %(suffix)s, %(number)s, %(sync_type)s, %(trigger)s,
                %(requested_by)s, %(host)s, %(pid)s, %(process_started_at)s, clock_timestamp()
            )
            on conflict (run_id) do update set
                host = excluded.host,
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
                "host": socket.gethostname(),
                "pid": process.pid,
                "process_started_at": process.create_time(),
            },
        )
    return number


def begin_shared_load(url: str) -> int:
    """Return the number of a new load that several runs will share.

    Raises:
        RunningError: another run that loads is under way.
    """
    with closing(connect(url)) as connection, connection.transaction():
        _row(connection, "select run_number from public.load_fence for update")
        settle(connection)
        _refuse_while_another_loads(connection, str(uuid.UUID(int=0)))
        number: int = _row(connection, "select nextval('public.run_numbers') as number")["number"]
        connection.execute("update public.load_fence set run_number = %s", [number])
    return number


def end(url: str, run_id: str, words: str | None = None) -> None:
    """Write down that a run has ended, and its last words where nothing else says why."""
    with closing(connect(url)) as connection:
        connection.execute(_END, {"run_id": run_id, "words": words})


def settle(connection: psycopg.Connection[Any]) -> None:
    """Write down the end of the runs that are dead, so that the next one can begin at once."""
    dead = []
    for run in connection.execute(UNDER_WAY).fetchall():
        if has_died(run):
            connection.execute(DIED, [run["run_id"]])
            dead.append(run["run_id"])
    if dead:
        meltano_runs.close(connection, dead)


def has_died(run: DictRow) -> bool:
    """Tell whether a run that has not ended is dead: its process is gone, or silent elsewhere."""
    if run["host"] == socket.gethostname():
        return process_of(run) is None
    return not run["is_alive"]


def process_of(run: DictRow) -> psutil.Process | None:
    """Return the process of a run on this machine, or None if it is gone."""
    try:
        process = psutil.Process(run["pid"])
        # The number may be another process's by now.
        is_same = abs(process.create_time() - run["process_started_at"]) < 1
        return process if is_same and process.status() != psutil.STATUS_ZOMBIE else None
    except psutil.NoSuchProcess:
        return None


def number_from_environment() -> int | None:
    """Return the number that whoever started this process has given it."""
    text = os.environ.get(NUMBER, "")
    return int(text) if text.isdecimal() else None


def _refuse_while_another_loads(connection: psycopg.Connection[DictRow], run_id: str) -> None:
    for other in connection.execute(UNDER_WAY).fetchall():
        if other["run_number"] is not None and str(other["run_id"]) != run_id:
            raise RunningError(other)


def _row(connection: psycopg.Connection[DictRow], statement: str) -> DictRow:
    row = connection.execute(statement).fetchone()
    assert row is not None  # noqa: S101 - a statement that always has one
    return row
