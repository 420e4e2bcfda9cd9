"""Waits for locks: they end after a time, and the error says who holds the lock."""

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
from psycopg import sql
from psycopg.rows import class_row, tuple_row

from database.environment import DBT_SETTINGS, setting

# Who waits for somebody who waits himself waits for that one's holder.
_WAITS: LiteralString = """
with recursive waiting as (
    select distinct locks.pid
    from pg_locks as locks
    inner join pg_stat_activity as activity on locks.pid = activity.pid
    where not locks.granted and activity.datname = current_database()
),

held_up as (
    select
        pid as waiting,
        unnest(pg_blocking_pids(pid)) as pid
    from waiting
    union
    select
        held_up.waiting,
        unnest(pg_blocking_pids(held_up.pid)) as pid
    from held_up
)

select distinct
    held_up.waiting as waiting_pid,
    waits.application_name as waiting_application,
    held_up.pid,
    coalesce(holds.application_name, '') as application,
    coalesce(holds.usename, '') as role,
    holds.xact_start as since
from held_up
inner join pg_stat_activity as waits on held_up.waiting = waits.pid
left join pg_stat_activity as holds on held_up.pid = holds.pid
where held_up.pid not in (select waiting.pid from waiting)
order by since, pid, waiting_pid
"""

# A reader's lock is in the way of no sync.
_FORGOTTEN: LiteralString = """
select distinct
    activity.pid,
    activity.application_name as application,
    activity.usename as role,
    activity.xact_start as since
from pg_locks as locks
inner join pg_stat_activity as activity on locks.pid = activity.pid
inner join pg_class on locks.relation = pg_class.oid
inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
where
    locks.granted and locks.mode != 'AccessShareLock'
    and activity.datname = current_database()
    and pg_namespace.nspname in ('public', 'raw', 'staging', 'meltano')
    and activity.state = 'idle in transaction'
    and activity.xact_start < clock_timestamp() - make_interval(secs => %s)
order by since
"""


@dataclass(frozen=True)
class Holder:
    """A session that holds locks.

    Attributes:
        pid: its process on the server; 0 is a prepared transaction.
        application: what it calls itself.
        role: its role.
        since: when its transaction began; None if this role may not see it.
    """

    pid: int
    application: str
    role: str
    since: datetime | None

    def __str__(self) -> str:
        if self.pid == 0:
            return "a prepared transaction"
        since = f", since {self.since.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC" if self.since else ""
        return f"process {self.pid} ({self.application or 'unnamed'}, role {self.role}{since})"

    @property
    def remedy(self) -> str:
        """The SQL that ends what holds the lock."""
        if self.pid == 0:
            return "select gid from pg_prepared_xacts; then: rollback prepared 'the gid'"
        return f"select pg_terminate_backend({self.pid})"


@dataclass(frozen=True)
class Wait:
    """A session that waits for a lock.

    Attributes:
        pid: its process on the server.
        application: what it calls itself.
        holder: who holds the lock.
    """

    pid: int
    application: str
    holder: Holder


class LockedError(psycopg.errors.LockNotAvailable):
    """A lock was not free in time; the message says who holds it, and how to end that.

    Attributes:
        holder: who holds it, if that was seen.
    """

    holder: Holder | None = None


def lock_seconds() -> float:
    """Return how long a sync waits for a lock.

    Raises:
        SystemExit: the setting is no number of seconds.
    """
    text = setting("SYNC_LOCK_TIMEOUT") or DBT_SETTINGS["SYNC_LOCK_TIMEOUT"]
    if not text.isdecimal() or int(text) == 0:
        sys.exit("SYNC_LOCK_TIMEOUT must be a number of seconds, 1 or more")
    return int(text)


def waits(connection: psycopg.Connection[Any]) -> list[Wait]:
    """Return who waits for whom at the moment, in this database."""
    rows = connection.cursor(row_factory=tuple_row).execute(_WAITS)
    return [Wait(pid, application, Holder(*holder)) for pid, application, *holder in rows]


def forgotten(connection: psycopg.Connection[Any], seconds: float) -> list[Holder]:
    """Return who is idle in a transaction for longer than some seconds, with locks on our tables.

    Only sessions that this role may see.
    """
    cursor = connection.cursor(row_factory=class_row(Holder))
    return cursor.execute(_FORGOTTEN, [seconds]).fetchall()


@contextmanager
def bounded(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Run a transaction that waits for each lock no longer than some seconds.

    Raises:
        LockedError: a lock was not free in time.
    """
    with naming_holder(connection, seconds), connection.transaction():
        wait_at_most(connection, seconds)
        yield


def wait_at_most(connection: psycopg.Connection[Any], seconds: float) -> None:
    """Let the transaction that is open wait for each lock no longer than some seconds."""
    # For the transaction only: through a pooler the session is another's next.
    connection.execute(
        sql.SQL("set local lock_timeout = {}").format(sql.Literal(f"{seconds * 1000:.0f}ms"))
    )


@contextmanager
def naming_holder(connection: psycopg.Connection[Any], seconds: float) -> Iterator[None]:
    """Turn a lock timeout into an error that names who holds the lock.

    Args:
        connection: where the timeout is set.
        seconds: that timeout. Shortly before, a second connection looks who holds the lock.

    Raises:
        LockedError: a lock was not free in time.
    """
    seen: list[Wait] = []
    is_over = threading.Event()

    def look() -> None:
        if is_over.wait(seconds / 2):
            return
        info = connection.info
        with (
            suppress(psycopg.Error),
            psycopg.connect(
                info.dsn, password=info.password, autocommit=True, connect_timeout=5
            ) as other,
        ):
            while not is_over.wait(seconds / 4):
                found = waits(other)
                # Through a pooler the process has another number than it says.
                own = [one for one in found if one.pid == info.backend_pid]
                seen[:] = own or found or seen

    watcher = threading.Thread(target=look, name="locks", daemon=True)
    watcher.start()
    try:
        yield
    except Exception as error:
        # SQLAlchemy has one of its own around the driver's.
        if not isinstance(getattr(error, "orig", error), psycopg.errors.LockNotAvailable):
            raise
        text = f"The database did not give a lock within {seconds:g} s"
        if seen:
            text += f": {seen[0].holder} holds it. To end that: {seen[0].holder.remedy}"
        locked = LockedError(text)
        locked.holder = seen[0].holder if seen else None
        raise locked from error
    finally:
        is_over.set()
        # The caller may set environment variables: the process can crash if a thread reads one
        # meanwhile. If it is in a connection that hangs, it is not waited for.
        watcher.join(timeout=1)
