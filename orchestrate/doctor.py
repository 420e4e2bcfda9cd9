"""`make doctor`: look at all that a sync needs, and say what to do where something is amiss.

`python -m orchestrate.doctor` prints a line for each check: ✓ it is well, ! look at it, ✗ syncs
fail or have stopped; `--json` prints the same for machines. The exit code is 1 if there is any ✗.
Nothing is changed; the CRM gets two requests. No check waits longer than its deadline, be it for a
lock, a slow query or the network. `--notify` sends a test message to each service of NOTIFY_URLS.

Settings: what the sync itself reads, and NOTIFY_LATE_HOURS (26), after which a sync is late.
"""

import argparse
import ctypes
import json
import queue
import re
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, LiteralString, cast

import psycopg
from psycopg import pq
from psycopg.conninfo import make_conninfo
from psycopg.rows import DictRow, dict_row
from tap_oracle_crm.crm import Crm, Overview
from tap_oracle_crm.errors import ConfigError, GaveUpError, OracleCrmError, RefusedError

from database import locks as locking
from database import objects, roles
from database.address import (
    EMBEDDED,
    PARTS,
    PASSWORDS,
    AddressError,
    database_url,
    parameters,
    url_for,
    url_setting,
)
from database.environment import DATA, ROOT, env_file, setting
from database.migrate import newest_migration
from database.preflight import Purpose, obstacles
from database.settings import Settings, read_settings, secret_hider
from declared.decisions import Decisions
from declared.file import MODELS, DeclarationError, differs, read_declared
from declared.outcomes import SECTIONS
from declared.store import CURRENT
from orchestrate.crm import tap_settings
from orchestrate.cron import ScheduleError, next_run, time_zone
from orchestrate.scheduler import HEARTBEAT_SECONDS, declared_schedules
from runs.control import PIPELINE

MARKS = {"ok": "✓", "warning": "!", "error": "✗"}
SKEW = timedelta(seconds=30)
NEW_ROWS, NEW_SHARE = 20, 0.05
"""More deals than these, of those that the CRM shows, are not new since the last sync."""
FULL_SYNC = f".venv/bin/meltano run --full-refresh {' '.join(PIPELINE)}"
GIGABYTE = 1 << 30
LOW_DISK, FULL_DISK = 5 * GIGABYTE, GIGABYTE // 2
LOCK_SECONDS, QUERY_SECONDS = 3, 10
"""How long a check waits for a lock, and for the answer of a query."""
MANY = 100_000
"""Rows that are not counted one by one."""

STUCK_VOTES: LiteralString = """
select
    approval ->> 'label' as label,
    approval ->> 'value' as value,
    count(*) as deals
from assessments
inner join opportunities on opportunities.id = assessments.opportunity_id
cross join lateral jsonb_array_elements(assessments.approvals) as approval
where
    assessments.status = 'SUBMITTED'
    and coalesce(opportunities.crm_outcome, 'OPEN') = 'OPEN'
    and not exists (
        select from assessment_votes
        where assessment_votes.assessment_id = assessments.id
            and assessment_votes.function = approval ->> 'function'
    )
    and not exists (
        select from open_votes
        where open_votes.assessment_id = assessments.id
            and open_votes.function = approval ->> 'function'
    )
group by label, value
order by deals desc, label, value
limit 10
"""

READING, WRITING = pq.PollingStatus.READING, pq.PollingStatus.WRITING
PQERRORS_SQLSTATE = 3

Connection = psycopg.Connection[DictRow]


@dataclass(frozen=True)
class Finding:
    """The result of a check.

    Attributes:
        check: what was looked at.
        status: `ok`, `warning` or `error`.
        detail: what is so.
        advice: what to do; empty where nothing is to be done.
    """

    check: str
    status: str
    detail: str
    advice: str = ""


class Examination:
    """What the checks learn one after the other.

    Attributes:
        connection: to the database; None if it can't be used.
        settings: the settings; None if they are wrong.
        is_whole: whether all tables and views are there, so that checks can read them.
        held: what the database holds of the deals, where known.
    """

    def __init__(self) -> None:
        self.connection: Connection | None = None
        self.settings: Settings | None = None
        self.is_whole = False
        self.held: Held | None = None


@dataclass(frozen=True)
class Check:
    """A check.

    Attributes:
        name: the name of its line, where it can't be made.
        look: makes it.
        needs: what of the examination it needs: `connection`, `settings` or `is_whole`.
        seconds: its deadline.
    """

    name: str
    look: Callable[[Examination], Iterable[Finding]]
    needs: tuple[str, ...] = ()
    seconds: float = 15


def checks() -> tuple[Check, ...]:
    """Return all checks: what depends on nothing else first."""
    base, whole = ("connection",), ("connection", "is_whole")
    return (
        Check("disk", local_disk),
        Check("settings", settings),
        Check("secrets", secret_file),
        Check("encryption", encryption),
        Check("database", database, seconds=60),
        Check("clock of the database", database_clock, base),
        Check("size", server_disk, base),
        Check("locks", locks, base),
        Check("fitness", fitness, base, seconds=30),
        Check("migrations", migrations, base),
        Check("objects", whatever_is_missing, whole),
        Check("roles", rights, whole),
        Check("crm.yml", declaration),
        Check("schedule", schedule, whole, seconds=60),
        Check("last sync", last_sync, whole),
        Check("runs", runs, whole),
        Check("views", marts, whole),
        Check("statuses", statuses, whole),
        Check("totals", totals, whole),
        Check("approvals", approvals, whole),
        Check("deals", count, whole),
        Check("notifications", notifications),
        Check("crm", crm, seconds=120),
    )


def examine(made: Iterable[Check] | None = None, seconds: float | None = None) -> Iterator[Finding]:
    """Make all checks, or some of them; those whose needs are not met are left out.

    Args:
        made: the checks; None for all.
        seconds: how long they may take together; a finding names each check that is not made then.
    """
    examination = Examination()
    end = None if seconds is None else time.monotonic() + seconds
    try:
        for check in checks() if made is None else made:
            if not all(getattr(examination, need) for need in check.needs):
                continue
            left = check.seconds if end is None else min(check.seconds, end - time.monotonic())
            if left > 0:
                yield from within_deadline(replace(check, seconds=left), examination)
            else:
                detail = f"not looked at: the {seconds:g} s were over"
                yield Finding(check.name, "warning", detail, "Run make doctor on the server.")
    finally:
        if examination.connection is not None:
            examination.connection.close()


def within_deadline(check: Check, examination: Examination) -> Iterator[Finding]:
    """Make a check in a thread of its own, which is left alone when it takes too long."""
    found: queue.SimpleQueue[Finding | None] = queue.SimpleQueue()

    def look() -> None:
        try:
            for finding in check.look(examination):
                found.put(finding)
        except locking.LockedError as error:
            found.put(Finding(check.name, "error", *held_up(error.holder)))
        except psycopg.errors.QueryCanceled as error:
            found.put(Finding(check.name, "warning", *explain(error)))
        except psycopg.Error as error:
            found.put(Finding(check.name, "error", *explain(error)))
        except Exception as error:  # the other checks are still worth making
            said = f"{type(error).__name__}: {error}"
            found.put(Finding(check.name, "error", said, "This is a fault of the doctor itself."))
        finally:
            found.put(None)

    threading.Thread(target=look, name=check.name, daemon=True).start()
    deadline = time.monotonic() + check.seconds
    while True:
        try:
            finding = found.get(timeout=max(0.0, deadline - time.monotonic()))
        except queue.Empty:
            yield Finding(
                check.name,
                "error",
                f"no answer within {check.seconds:.3g} s",
                "Look at what it asks: its server, the network, a proxy or firewall between.",
            )
            if "connection" in check.needs:
                examination.connection = None  # the thread still waits on it
            return
        if finding is None:
            return
        yield finding


@contextmanager
def asking(examination: Examination) -> Iterator[Connection]:
    """Open a transaction that reads, and that neither a lock nor a slow query holds up.

    Raises:
        LockedError: another session holds a lock.
        psycopg.errors.QueryCanceled: the query took too long.
    """
    connection = examination.connection
    assert connection is not None  # noqa: S101 - what the check needs
    with locking.bounded(connection, LOCK_SECONDS):
        connection.execute("set transaction read only")
        connection.execute(f"set local statement_timeout = '{QUERY_SECONDS}s'")
        yield connection


def held_up(holder: locking.Holder | None) -> tuple[str, str]:
    """Return what a check waited for, and what to do about it."""
    if holder is None:
        return "another session holds a lock", "Try again; then see pg_stat_activity."
    return (
        f"{holder} holds a lock: syncs wait, too",
        f"If that is forgotten, end it: {holder.remedy}",
    )


# By classes and codes, since the server's words are in its own language.
_ADVICE = {
    "28": "Check user and password in DATABASE_URL (of a role of make roles, its own setting), and "
    "pg_hba.conf of the server.",
    "3D": "Correct the database's name in DATABASE_URL, or create it.",
    "42501": "Grant the role that right.",
    "53100": "The server's disk is full: free some.",
    "53200": "The server is out of memory: give it more, or lower its settings.",
    "53300": (
        "The server lets no more sessions in. End those that are not needed "
        "(select pid, usename, application_name, state from pg_stat_activity), or raise "
        "max_connections, or the connection limit of the role or database."
    ),
    "57014": "The server is busy, or the table is large: look at pg_stat_activity, and try again.",
    "57P03": "The server starts or stops: wait, and read its log.",
}


def explain(error: psycopg.Error, state: str | None = None) -> tuple[str, str]:
    """Return what an error of the database says, and what to do about it."""
    state = state or error.sqlstate or ""
    said = " ".join(str(error).split())
    codes = (state, state[:2])
    advice = next((_ADVICE[code] for code in codes if code in _ADVICE), "")
    return said, advice or "Look up what it says in the server's log."


@dataclass(frozen=True)
class Held:
    """What a database holds of the CRM's deals.

    Attributes:
        rows: how many deals it has that are not marked as deleted.
        rejects: how many more could not be loaded.
        is_loaded: whether a sync has ever come to its end.
    """

    rows: int
    rejects: int
    is_loaded: bool


def settings(examination: Examination) -> Iterator[Finding]:
    """Read all settings."""
    try:
        examination.settings = read_settings()
    except SystemExit as error:
        yield Finding("settings", "error", str(error), "Correct it: see .env.example.")


def secret_file(_: Examination) -> Iterator[Finding]:
    """Look at who may read `.env`."""
    file = env_file()
    if file.is_file() and file.stat().st_mode & 0o077:  # and no device, such as /dev/null
        detail = f"{file} can be read by other users of this machine"
        yield Finding("secrets", "warning", detail, f"It holds passwords: chmod 600 {file}")


def encryption(_: Examination) -> Iterator[Finding]:
    """Look at whether the connection to a database elsewhere may be read or diverted."""
    given = setting(url_setting())
    if given is None:
        return
    try:
        read = parameters(given)
    except AddressError:
        return  # the check of the database says so
    host = read.get("hostaddr") or read.get("host") or ""
    mode = read.get("sslmode") or "prefer"
    if host.startswith("/") or host in ("", "localhost", "127.0.0.1", "::1"):
        return
    if mode in ("disable", "allow", "prefer"):
        advice = (
            f"Add ?sslmode=verify-full to {url_setting()}, with sslrootcert if its CA is your own."
        )
        detail = f"with sslmode={mode} passwords and deals may cross the network unencrypted"
        yield Finding("encryption", "warning", detail, advice)


def database(examination: Examination) -> Iterator[Finding]:
    """Connect, and tell which server it is."""
    try:
        url = url_for("migrate", database_url())
    except SystemExit as error:
        yield Finding("database", "error", str(error), f"Correct {url_setting()}.")
        return
    try:
        connection = psycopg.connect(
            url,
            autocommit=True,
            connect_timeout=10,
            row_factory=dict_row,
            application_name="doctor",
            prepare_threshold=None,
        )
    except psycopg.OperationalError as error:
        is_answered = not isinstance(error, psycopg.errors.ConnectionTimeout)
        state = refusal(url) if is_answered else None
        if state is not None:
            yield Finding("database", "error", *explain(error, state))
            return
        yield Finding(
            "database",
            "error",
            explain(error)[0],
            f"Check host and port in {url_setting()}, and that the server runs.",
        )
        return
    info = connection.info
    where = f"PostgreSQL {info.parameter_status('server_version')}, {info.dbname} at {info.host}"
    examination.connection = connection
    if setting(url_setting()) is None:
        yield Finding(
            "database",
            "warning",
            f"{where}: the embedded one",
            "Good to try it; for production set DATABASE_URL to a server that is backed up.",
        )
    else:
        yield Finding("database", "ok", where)


def refusal(url: str) -> str | None:
    """Return the SQLSTATE with which a server refuses a connection; None if none answers.

    libpq can tell, but not through psycopg, which passes on the server's words alone.
    """
    with Path("/proc/self/maps").open() as maps:
        loaded = {line.split()[-1] for line in maps if "/libpq" in line}
    connection = pq.PGconn.connect_start(make_conninfo(url, connect_timeout=10).encode())
    pointer = ctypes.c_void_p(cast(Any, connection).pgconn_ptr)
    for path in loaded:
        ctypes.CDLL(path).PQsetErrorVerbosity(pointer, PQERRORS_SQLSTATE)
    deadline = time.monotonic() + 10
    while (state := connection.connect_poll()) in {READING, WRITING}:
        ready = select.poll()
        ready.register(connection.socket, select.POLLIN if state == READING else select.POLLOUT)
        if not ready.poll(max(0, deadline - time.monotonic()) * 1000):
            break
    said = connection.error_message.decode(errors="replace")
    connection.finish()
    codes = re.findall(r": +([0-9A-Z]{5})$", said, re.MULTILINE)
    return codes[-1] if codes else None


def fitness(examination: Examination) -> Iterator[Finding]:
    """Look whether anything stands in the way of the migrations."""
    found = obstacles(url_for("migrate", database_url()), Purpose.MIGRATE)
    for one in found:
        yield Finding(one.check, "error" if one.stops else "warning", one.detail, one.remedy)
    if any(one.stops for one in found) and examination.connection is not None:
        # Other advice would lead in a circle.
        examination.connection.close()
        examination.connection = None


def rights(examination: Examination) -> Iterator[Finding]:
    """Compare the rights of the parts' own roles with what they should be, if there are roles."""
    if not roles.are_configured():
        return
    connection = examination.connection
    assert connection is not None  # noqa: S101 - what the check needs
    with locking.bounded(connection, LOCK_SECONDS):  # it grants, and takes that back
        if not roles.are_used(connection):
            detail = "DATABASE_..._PASSWORD are set, but the roles are not there"
            yield Finding("roles", "error", detail, "Run make roles.")
            return
        found = roles.differences(connection)
    if found:
        more = f", and {len(found) - 3} more" if len(found) > 3 else ""
        yield Finding("roles", "error", "; ".join(found[:3]) + more, "Run make roles APPLY=1.")
        return
    for part in PARTS:
        try:
            psycopg.connect(url_for(part, database_url()), connect_timeout=10).close()
        except psycopg.OperationalError as error:
            advice = f"Check {PASSWORDS[part]}, then run make roles APPLY=1."
            yield Finding("roles", "error", explain(error)[0], advice)
            return
    yield Finding("roles", "ok", "each part has the rights that it needs, and no others")


def database_clock(examination: Examination) -> Iterator[Finding]:
    """Compare the database's clock with this machine's."""
    with asking(examination) as connection:
        before = datetime.now(UTC)
        there = _scalar(connection, "select clock_timestamp()")
        yield clock("database", there - before - (datetime.now(UTC) - before) / 2)


def server_disk(examination: Examination) -> Iterator[Finding]:
    """Look at the disk of the server where it is this machine's, else at the database's size."""
    with asking(examination) as connection:
        size = _scalar(connection, "select pg_size_pretty(pg_database_size(current_database()))")
        # Hidden from ordinary roles; this machine may have a folder of the same name, too.
        folder = _scalar(
            connection,
            """
            select setting from pg_settings
            where name = 'data_directory' and (
                inet_server_addr() is null or inet_server_addr() = inet_client_addr()
            )
            """,
        )
    detail = f"the database has {size}"
    if setting(url_setting()) is None:
        folder = str(EMBEDDED)
    if folder is None or not Path(folder).exists():
        yield Finding("server's disk", "ok", f"{detail}; its disk can't be seen from here")
        return
    seen = disk(shutil.disk_usage(folder).free)
    yield Finding("server's disk", seen.status, f"{detail}, {seen.detail}", seen.advice)


def locks(examination: Examination) -> Iterator[Finding]:
    """Tell who waits for a lock, who holds it, and whose transaction a sync would wait for."""
    with asking(examination) as connection:
        waits = locking.waits(connection)
        forgotten = locking.forgotten(connection, locking.lock_seconds())
    if not waits and not forgotten:
        yield Finding("locks", "ok", "nobody waits for one")
    for holder in dict.fromkeys(wait.holder for wait in waits):
        first, *more = [wait for wait in waits if wait.holder == holder]
        others = f" and {len(more)} more wait" if more else " waits"
        yield Finding(
            "locks",
            "error",
            f"process {first.pid} ({first.application or 'unnamed'}){others} for a lock that "
            f"{holder} holds",
            f"If that is forgotten, end it: {holder.remedy}",
        )
    for holder in forgotten:
        if holder not in {wait.holder for wait in waits}:
            yield Finding(
                "locks",
                "warning",
                f"{holder} has changed or locked tables, and does nothing now: a sync may wait",
                f"If that is forgotten, end it: {holder.remedy}",
            )


def migrations(examination: Examination) -> Iterator[Finding]:
    """Compare the database's migration with the newest."""
    newest = newest_migration()
    advice = "Run make setup."
    with asking(examination) as connection:
        if _scalar(connection, "select to_regclass('public.alembic_version')") is None:
            yield Finding("migrations", "error", "the database has no tables yet", advice)
            return
        current = _scalar(connection, "select max(version_num) from public.alembic_version")
    if current == newest:
        examination.is_whole = True
        yield Finding("migrations", "ok", f"{current}, the newest")
        return
    if current is not None and current > newest:
        advice = "The database is of a newer release: install that one."
    yield Finding("migrations", "error", f"{current}; the newest is {newest}", advice)


def whatever_is_missing(examination: Examination) -> Iterator[Finding]:
    """Look whether all that the migrations have made is still there."""
    with asking(examination) as connection:
        missing = objects.missing(connection)
    if not missing:
        yield Finding("tables and views", "ok", "all are there")
        return
    examination.is_whole = False
    if lost := objects.lost(missing):
        yield Finding(
            "tables and views",
            "error",
            f"missing, and its rows with it: {objects.in_words(lost)}",
            "Restore a backup: docs/restore.md.",
        )
        return
    raw = any(name.startswith("table raw.") for name in missing)
    yield Finding(
        "tables and views",
        "error",
        f"missing: {objects.in_words(missing)}",
        "Run make setup: it makes them again."
        + (" The next sync then reads everything." if raw else ""),
    )


def marts(examination: Examination) -> Iterator[Finding]:
    """Look whether the views that dbt makes at each run are there."""
    models = {path.stem: path.read_text() for path in (ROOT / "transform/models").rglob("*.sql")}
    views = [name for name, text in models.items() if "materialized=" not in text]
    with asking(examination) as connection:
        missing = [
            row["name"]
            for row in connection.execute(
                """
                select name from unnest(%s::text[]) as name
                where
                    exists (select from public.sync_logs where status = 'SUCCESS')
                    and not exists (
                        select from pg_views
                        where viewname = name and schemaname in ('public', 'staging')
                    )
                order by name
                """,
                [views],
            )
        ]
    if missing:
        yield Finding(
            "views of dbt",
            "error",
            f"missing: {', '.join(missing)}",
            "The next sync makes them again; at once: .venv/bin/meltano invoke dbt-postgres:run",
        )


def schedule(examination: Examination) -> Iterator[Finding]:
    """Compare Meltano's schedules with those of the scheduler, and see whether it lives."""
    try:
        declared = {
            (one["name"], one["job"]["name"], one["cron_interval"])
            for one in declared_schedules(timeout=50)
        }
    except subprocess.SubprocessError as error:
        said = _last_line(getattr(error, "stderr", None)) or str(error)
        yield Finding(
            "schedule",
            "error",
            f"Meltano lists none: {said}",
            "See what .venv/bin/meltano schedule list says; in meltano.yml or of the database.",
        )
        return
    if not declared:
        yield Finding("schedule", "warning", "none", "Declare schedules in meltano.yml.")
        return
    try:
        for _, _, interval in declared:
            next_run(interval, time_zone(), datetime.now(UTC))
    except ScheduleError as error:
        yield Finding("schedule", "error", str(error), "Correct meltano.yml or .env.")
    else:
        text = ", ".join(f"{name} ({interval})" for name, _, interval in sorted(declared))
        yield Finding("schedule", "ok", text)
    with asking(examination) as connection:
        known = connection.execute(
            """
            select name, job, interval, next_run_at, heartbeat_at, paused_at, paused_by,
                heartbeat_at < now() - make_interval(secs => %s) as is_silent
            from schedules
            order by next_run_at
            """,
            [4 * HEARTBEAT_SECONDS],
        ).fetchall()
    advice = "Start make schedule, unless cron or Airflow runs the schedules."
    if not known:
        yield Finding("scheduler", "warning", "has not run yet", advice)
    elif all(one["is_silent"] for one in known):
        last = max(one["heartbeat_at"] for one in known)
        yield Finding("scheduler", "warning", f"silent since {_minute(last)}", advice)
    elif declared != {(one["name"], one["job"], one["interval"]) for one in known}:
        yield Finding(
            "scheduler", "warning", "runs other schedules than meltano.yml declares", "Restart it."
        )
    else:
        due = next((one for one in known if one["next_run_at"] is not None), None)
        detail = f"next is {due['name']}, {_minute(due['next_run_at'])}" if due else "is starting"
        yield Finding("scheduler", "ok", detail)
    for one in known:
        if one["paused_at"] is not None:
            yield Finding(
                "paused schedule",
                "warning",
                f"{one['name']}, by {one['paused_by']} since {_minute(one['paused_at'])}",
                "Resume it in the console: Admin, Health.",
            )


def last_sync(examination: Examination) -> Iterator[Finding]:
    """Tell how the last sync ended, and whether it is longer ago than NOTIFY_LATE_HOURS."""
    # By the database's clock, as all of the log is: this machine's may be another.
    with asking(examination) as connection:
        run = connection.execute(
            "select *, clock_timestamp() - completed_at as age from sync_logs"
            " order by id desc limit 1"
        ).fetchone()
    if run is None:
        yield Finding("last sync", "warning", "there was none yet", "Run make sync.")
        return
    if run["status"] == "RUNNING":
        yield Finding("last sync", "ok", f"under way since {_minute(run['started_at'])}")
        return
    if run["status"] == "FAILED":
        yield Finding(
            "last sync",
            "error",
            f"failed at {_minute(run['completed_at'])}: {run['error_message']}",
            "Mend the cause and run make sync: it goes on from what was kept.",
        )
        return
    detail = f"succeeded at {_minute(run['completed_at'])}, {run['total_fetched']:,} read"
    hours = examination.settings.notify_late_hours if examination.settings else None
    if hours is not None and run["age"] > timedelta(hours=hours):
        yield Finding(
            "last sync", "error", detail, f"That is more than {hours:g} hours ago: see scheduler."
        )
        return
    yield Finding("last sync", "ok", detail)


def runs(examination: Examination) -> Iterator[Finding]:
    """List other running jobs, and runs that began later than the database's clock says."""
    with asking(examination) as connection:
        under_way = connection.execute(
            "select * from run_logs where status = 'RUNNING' and kind != 'sync' order by id"
        ).fetchall()
        ahead = connection.execute(
            """
            select count(*) as runs, max(greatest(started_at, completed_at)) as latest
            from run_logs
            where greatest(started_at, completed_at) > clock_timestamp() + interval '1 minute'
            """
        ).fetchone()
    for run in under_way:
        kind = "another run" if run["kind"] == "other" else f"a {run['kind']}"
        yield Finding("run", "ok", f"{kind} is under way since {_minute(run['started_at'])}")
    if ahead and ahead["runs"]:
        yield Finding(
            "clock of the runs",
            "warning",
            f"{ahead['runs']} runs are in the database's future, the last at "
            f"{_minute(ahead['latest'])}",
            "Its clock was ahead then, or is behind now: correct it (NTP). No data depends on it, "
            "but times and ages in the log are wrong.",
        )


def declaration(examination: Examination) -> Iterator[Finding]:
    """Read what is declared, and compare it with the database."""
    try:
        declared = read_declared()
        for name in MODELS:
            declared.model(name)
    except DeclarationError as error:
        yield Finding("crm.yml", "error", str(error), "Correct it: no sync starts before.")
        return
    detail = f"{len(declared.statuses)} statuses, {len(declared.stages)} stages"
    if examination.connection is not None and examination.is_whole:
        with asking(examination) as connection:
            if differs(connection, declared):
                detail += "; changed: the next sync applies it to all deals"
    yield Finding("crm.yml", "ok", detail)


def statuses(examination: Examination) -> Iterator[Finding]:
    """Name the status codes and stages that nothing explains."""
    with asking(examination) as connection:
        unknown = connection.execute(
            "select *, to_json(name)::text as quoted from unknown_statuses"
            " order by deals desc, name"
        ).fetchall()
    for section in SECTIONS:
        names = [one for one in unknown if one["section"] == section]
        if not names:
            yield Finding(section, "ok", "none is unknown")
            continue
        counts = ", ".join(f"{one['quoted']} (deals: {one['deals']:,})" for one in names[:20])
        more = f" and {len(names) - 20} more" if len(names) > 20 else ""
        yield Finding(
            section,
            "warning",
            f"nothing tells what these mean: {counts}{more}",
            f"Write into crm.yml under {section}: {names[0]['quoted']}: OPEN (or WON, LOST, "
            "CLOSED). Until then such deals stay as they are, and new ones count as open.",
        )


def totals(examination: Examination) -> Iterator[Finding]:
    """Compare the totals of the dashboard with the deals themselves."""
    with asking(examination) as connection:
        wrong = _scalar(connection, "select wrong_totals()")
    if wrong:
        yield Finding(
            "totals",
            "warning",
            f"the dashboard shows wrong numbers: {wrong:,} sums are not those of the deals, "
            "so somebody wrote deals with triggers disabled",
            "Run make setup: it counts again.",
        )
    else:
        yield Finding("totals", "ok", "those of the dashboard are those of the deals")


def approvals(examination: Examination) -> Iterator[Finding]:
    """Name the functions that have to approve and that nobody has, and votes nobody can give."""
    with asking(examination) as connection:
        row = connection.execute(CURRENT, ["decisions"]).fetchone()
        held = connection.execute(
            "select distinct function from user_functions"
            " join users on users.id = user_id and users.active"
        ).fetchall()
        stuck = connection.execute(STUCK_VOTES).fetchall()
    decisions = Decisions.model_validate({} if row is None else row["content"])
    missing = set(decisions.approvals) - {one["function"] for one in held}
    names = [decisions.functions[name].label for name in decisions.approvals if name in missing]
    names += [f"{one['label']} for {one['value'] or 'all deals'}" for one in stuck]
    if names:
        deals = sum(one["deals"] for one in stuck)
        yield Finding(
            "approvals",
            "warning",
            f"nobody can give the vote of: {', '.join(names)} (deals that wait: {deals:,})",
            "An admin gives the function to somebody in the console: Users, Access, Functions.",
        )
    else:
        votes = len(decisions.approvals)
        detail = f"{votes} functions vote" if votes else "a manager decides"
        yield Finding("approvals", "ok", detail)


def count(examination: Examination) -> Iterator[Finding]:
    """Learn how many deals there are; of many, about, by the server's statistics."""
    with asking(examination) as connection:
        about = _scalar(
            connection,
            """
            select case when reltuples > %s then reltuples * coalesce(
                (
                    select null_frac from pg_stats
                    where schemaname = 'public' and tablename = 'opportunities'
                        and attname = 'deleted_at'
                ),
                1
            ) end
            from pg_class where oid = 'public.opportunities'::regclass
            """,
            MANY,
        )
        row = connection.execute(
            """
            select
                coalesce(
                    %s::bigint, (select count(*) from opportunities where deleted_at is null)
                ) as rows,
                (
                    select count(*)
                    from rejected_records as rejected
                    where
                        rejected.stream = 'opportunities' and rejected.resolved_at is null
                        and not exists (
                            select from opportunities as known
                            where known.remote_id = rejected.remote_id
                                and known.deleted_at is null
                        )
                ) as rejects,
                exists (select from sync_logs where status = 'SUCCESS') as is_loaded
            """,
            [None if about is None else round(about)],
        ).fetchone()
    examination.held = Held(**row or {})
    yield from ()


def notifications(_: Examination) -> Iterator[Finding]:
    """Look whether anybody is told when syncs fail."""
    from notifications.services import Services  # only now: it takes half a second

    try:
        services = len(Services(setting("NOTIFY_URLS") or ""))
    except ValueError as error:
        yield Finding("notifications", "error", str(error), "Correct it: see docs/settings.md.")
        return
    if services == 0:
        yield Finding(
            "notifications",
            "warning",
            "nobody is told when syncs fail or are late",
            "Set NOTIFY_URLS.",
        )
    else:
        yield Finding("notifications", "ok", f"services: {services}; --notify sends them a test")


def sent_test(_: Examination) -> Iterator[Finding]:
    """Send a test message to each service of NOTIFY_URLS."""
    from notifications.services import send_test

    for service, problem in send_test().items():
        if problem is None:
            yield Finding(f"notification {service}", "ok", "a test message was accepted")
        else:
            yield Finding(f"notification {service}", "error", problem, "Correct NOTIFY_URLS.")


def crm(examination: Examination) -> Iterator[Finding]:
    """Ask the CRM for one row as the sync does, and for its attributes."""
    held = examination.held
    try:
        # Two attempts: a person waits for the answer.
        is_asked = examination.connection is not None
        reached = Crm(tap_settings(meltano=is_asked, max_retries=1, request_timeout=30))
    except ConfigError as error:
        yield Finding("crm", "error", str(error), "Set what it names in .env; see .env.example.")
        return
    with reached as crm:
        try:
            seen = crm.overview()
            yield Finding("crm", "ok", f"{crm.host} answers")
            yield Finding("credentials", "ok", "accepted, and may read opportunities")
            if seen.server_time:
                yield clock("CRM", seen.server_time - datetime.now(UTC))
            yield record_set(seen, crm.settings, held)
            yield described(crm)
        except RefusedError as error:
            if error.status in {401, 403}:
                yield Finding("crm", "ok", f"{crm.host} answers")
                yield Finding("credentials", "error", *_advice(error))
            else:
                yield Finding("crm", "error", *_advice(error))
        except OracleCrmError as error:
            check = "credentials" if "token endpoint" in str(error) else "crm"
            yield Finding(check, "error", *_advice(error))


def record_set(seen: Overview, settings: Mapping[str, Any], held: Held | None) -> Finding:
    """Judge how many rows the CRM claims to show.

    Args:
        seen: the CRM's answer.
        settings: the tap's settings with which it was asked.
        held: what the database holds of the deals, where known.
    """
    finder = settings["finder"]
    if seen.is_empty:
        return Finding(
            "record set",
            "error",
            f"the CRM shows this account no opportunity ({finder})",
            "Correct TAP_ORACLE_CRM_FINDER, or ask the CRM's administrator for visibility.",
        )
    if seen.total is None:
        return Finding("record set", "ok", f"{finder}; the CRM does not say how many rows")
    detail = f"{finder}, {seen.total:,} rows"
    if held is not None and seen.total < 0.8 * held.rows:
        return Finding(
            "record set",
            "warning",
            f"{detail}, and the table has {held.rows:,}",
            "Deals were deleted (meltano run reconcile marks them), or the account sees less now.",
        )
    # With a start date, syncs leave out old deals.
    if held is not None and held.is_loaded and not settings.get("start_date"):
        here = held.rows + held.rejects
        if seen.total - here > max(NEW_ROWS, NEW_SHARE * seen.total):
            return Finding(
                "record set",
                "warning",
                f"{detail}, and only {here:,} are here, rejected ones included",
                "Syncs bring what changed, and not old deals that the account sees only since "
                f"lately: run {FULL_SYNC}. If the gap stays, the CRM's count is wrong.",
            )
    return Finding("record set", "ok", detail)


def described(crm: Crm) -> Finding:
    """Look for the custom fields that are configured; a sync can do without their description."""
    wanted = [*crm.settings["mapped_fields"], *crm.settings["custom_fields"]]
    try:
        return custom_fields(wanted, crm.attributes())
    except (RefusedError, GaveUpError) as error:
        if not error.is_this_request:
            raise
        return Finding(
            "custom fields",
            "warning",
            f"the CRM does not tell its attributes ({error.cause})",
            "Syncs go on without: check that names and case of the custom fields are the CRM's.",
        )


def custom_fields(wanted: list[str], attributes: Iterable[str]) -> Finding:
    """Look for custom fields among the attributes that the CRM has, whatever their case."""
    known = {name.lower() for name in attributes}
    missing = [name for name in wanted if name.lower() not in known]
    if missing:
        return Finding(
            "custom fields",
            "warning",
            f"the CRM has no {', '.join(missing)}: null in the table",
            "Set ORACLE_PRACTICE_FIELD, ORACLE_GEO_FIELD, ... to the CRM's names.",
        )
    return Finding("custom fields", "ok", ", ".join(wanted) or "none")


def clock(whose: str, ahead: timedelta) -> Finding:
    """Judge how far another clock is ahead of this machine's."""
    # HTTP tells whole seconds.
    seconds = round(ahead.total_seconds())
    if abs(ahead) <= SKEW:
        return Finding(f"clock of the {whose}", "ok", f"{seconds:+d} s to this machine's")
    return Finding(
        f"clock of the {whose}",
        "warning",
        f"{seconds:+,d} s to this machine's",
        "Synchronise the clocks (NTP): times in the log and the schedule are off.",
    )


def local_disk(_: Examination) -> Iterator[Finding]:
    """Look at the disk where logs and the embedded database lie."""
    yield disk(shutil.disk_usage(DATA if DATA.exists() else ROOT).free)


def disk(free: int) -> Finding:
    """Judge the bytes that are free where logs and the embedded database lie."""
    detail = f"{free / GIGABYTE:,.1f} GB free"
    if free < FULL_DISK:
        return Finding("disk", "error", detail, "Free some: nothing can be written soon.")
    if free < LOW_DISK:
        return Finding("disk", "warning", detail, "Free some before it is full.")
    return Finding("disk", "ok", detail)


def _advice(error: OracleCrmError) -> tuple[str, str]:
    """Return the problem and the remedy."""
    return error.problem, error.advice or "See the tap's README."


def _scalar(connection: Connection, statement: LiteralString, *values: object) -> Any:
    row = connection.execute(statement, values or None).fetchone()
    return next(iter(row.values())) if row else None


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _last_line(text: str | bytes | None) -> str:
    text = text.decode(errors="replace") if isinstance(text, bytes) else text or ""
    lines = text.strip().splitlines()
    return lines[-1].strip() if lines else ""


def main() -> int:
    """Print the findings; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrate.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects")
    parser.add_argument("--notify", action="store_true", help="send a test message, too")
    parser.add_argument("--within", type=float, help="seconds for all checks together")
    arguments = parser.parse_args()
    as_json = arguments.json
    tests = [Check("notification", sent_test, seconds=60)] if arguments.notify else []
    hide = secret_hider()
    findings = []
    for finding in examine([*checks(), *tests], arguments.within):
        shown = Finding(**{name: hide(text) for name, text in asdict(finding).items()})
        findings.append(shown)
        if not as_json:
            print(f"{MARKS[shown.status]} {shown.check:22}{shown.detail}", flush=True)
            if shown.advice:
                print(f"  {'':22}→ {shown.advice}", flush=True)
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2, ensure_ascii=False))
    return int(any(finding.status == "error" for finding in findings))


if __name__ == "__main__":
    sys.exit(main())
