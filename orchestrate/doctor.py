"""`make doctor`: look at all that a sync needs, and say what to do where something is amiss.

`python -m orchestrate.doctor` prints a line for each check: ✓ it is well, ! look at it, ✗ syncs
fail or have stopped; `--json` prints the same for machines. The exit code is 1 if there is any ✗.
Nothing is changed; the CRM gets two requests.

Settings: what the sync itself reads, and NOTIFY_LATE_HOURS (26), after which a sync is late.
"""

import argparse
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg.rows import DictRow, dict_row
from tap_oracle_crm.crm import Crm, Overview
from tap_oracle_crm.errors import ConfigError, GaveUpError, OracleCrmError, RefusedError

from database.address import database_url, url_setting
from database.environment import DATA, ROOT, setting
from database.migrate import newest_migration
from database.preflight import Purpose, obstacles
from database.settings import read_settings, secret_names
from orchestrate.crm import tap_settings
from orchestrate.cron import ScheduleError, next_run, time_zone
from orchestrate.declared import SECTIONS, DeclarationError, differs, read_declared
from orchestrate.scheduler import HEARTBEAT_SECONDS, declared_schedules
from runs.control import PIPELINE

MARKS = {"ok": "✓", "warning": "!", "error": "✗"}
SKEW = timedelta(seconds=30)
NEW_ROWS, NEW_SHARE = 20, 0.05
"""More deals than these, of those that the CRM shows, are not new since the last sync."""
FULL_SYNC = f".venv/bin/meltano run --full-refresh {' '.join(PIPELINE)}"
GIGABYTE = 1 << 30
LOW_DISK, FULL_DISK = 5 * GIGABYTE, GIGABYTE // 2

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


def examine() -> Iterator[Finding]:
    """Check everything, what depends on nothing else first."""
    yield disk(shutil.disk_usage(DATA if DATA.exists() else ROOT).free)
    try:
        settings = read_settings()
    except SystemExit as error:
        yield Finding("settings", "error", str(error), "Correct it: see .env.example.")
        return
    connection: Connection | Finding
    try:
        connection = _connect()
    except _UnusableError as unusable:
        yield unusable.finding
        yield declaration()
        yield from crm(meltano=False)
        return
    with connection:
        yield from database(connection)
        try:
            in_the_way = obstacles(database_url(), Purpose.MIGRATE)
        except psycopg.OperationalError as error:
            yield Finding("database", "error", str(error), "It takes no more connections.")
            return
        for one in in_the_way:
            yield Finding(one.check, "error" if one.stops else "warning", one.detail, one.remedy)
        if any(one.stops for one in in_the_way):
            yield declaration()
            yield from crm(meltano=False)
            return
        migrated = migrations(connection)
        yield migrated
        held = None
        yield declaration(connection if migrated.status == "ok" else None)
        if migrated.status == "ok":
            yield from schedule(connection)
            yield last_sync(connection, timedelta(hours=settings.notify_late_hours))
            yield from runs(connection)
            yield from statuses(connection)
            held = _held(connection)
        yield from crm(meltano=True, held=held)


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


class _UnusableError(Exception):
    def __init__(self, finding: Finding) -> None:
        super().__init__(finding.detail)
        self.finding = finding


def _connect() -> Connection:
    try:
        url = database_url()
    except SystemExit as error:
        raise _UnusableError(
            Finding("database", "error", str(error), f"Correct {url_setting()}.")
        ) from None
    try:
        return psycopg.connect(url, autocommit=True, connect_timeout=10, row_factory=dict_row)
    except psycopg.OperationalError as error:
        said = " ".join(str(error).split())
        advice = (
            "Check user and password in DATABASE_URL."
            if "authentication failed" in said
            else "Check host, port and name in DATABASE_URL, and that the server runs."
        )
        raise _UnusableError(Finding("database", "error", said, advice)) from None


def database(connection: Connection) -> Iterator[Finding]:
    """Tell which server it is, and look at its clock."""
    info = connection.info
    where = f"PostgreSQL {info.parameter_status('server_version')}, {info.dbname} at {info.host}"
    if setting(url_setting()) is None:
        yield Finding(
            "database",
            "warning",
            f"{where}: the embedded one",
            "Good to try it; for production set DATABASE_URL to a server that is backed up.",
        )
    else:
        yield Finding("database", "ok", where)
    before = datetime.now(UTC)
    there = _scalar(connection, "select clock_timestamp()")
    yield clock("database", there - before - (datetime.now(UTC) - before) / 2)


def migrations(connection: Connection) -> Finding:
    """Compare the database's migration with the newest."""
    newest = newest_migration()
    advice = "Run make setup."
    if _scalar(connection, "select to_regclass('public.alembic_version')") is None:
        return Finding("migrations", "error", "the database has no tables yet", advice)
    current = _scalar(connection, "select max(version_num) from public.alembic_version")
    if current == newest:
        return Finding("migrations", "ok", f"{current}, the newest")
    if current is not None and current > newest:
        advice = "The database is of a newer release: install that one."
    return Finding("migrations", "error", f"{current}; the newest is {newest}", advice)


def schedule(connection: Connection) -> Iterator[Finding]:
    """Compare Meltano's schedules with those of the scheduler, and see whether it lives."""
    try:
        declared = {
            (one["name"], one["job"]["name"], one["cron_interval"]) for one in declared_schedules()
        }
    except subprocess.CalledProcessError as error:
        said = _last_line(error.stderr)
        yield Finding("schedule", "error", f"Meltano lists none: {said}", "Correct meltano.yml.")
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
    known = connection.execute(
        """
        select name, job, interval, next_run_at, heartbeat_at,
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


def last_sync(connection: Connection, late: timedelta) -> Finding:
    """Tell how the last sync ended, and whether it is longer ago than `late`."""
    # By the database's clock, as all of the log is: this machine's may be another.
    run = connection.execute(
        "select *, clock_timestamp() - completed_at as age from sync_logs order by id desc limit 1"
    ).fetchone()
    if run is None:
        return Finding("last sync", "warning", "there was none yet", "Run make sync.")
    if run["status"] == "RUNNING":
        return Finding("last sync", "ok", f"under way since {_minute(run['started_at'])}")
    if run["status"] == "FAILED":
        return Finding(
            "last sync",
            "error",
            f"failed at {_minute(run['completed_at'])}: {run['error_message']}",
            "Mend the cause and run make sync: it goes on from what was kept.",
        )
    detail = f"succeeded at {_minute(run['completed_at'])}, {run['total_fetched']:,} read"
    if run["age"] > late:
        return Finding(
            "last sync",
            "error",
            detail,
            f"That is more than {late.total_seconds() / 3600:g} hours ago: see scheduler.",
        )
    return Finding("last sync", "ok", detail)


def runs(connection: Connection) -> Iterator[Finding]:
    """List other running jobs, and runs that began later than the database's clock says."""
    for run in connection.execute(
        "select * from run_logs where status = 'RUNNING' and kind != 'sync' order by id"
    ):
        kind = "another run" if run["kind"] == "other" else f"a {run['kind']}"
        yield Finding("run", "ok", f"{kind} is under way since {_minute(run['started_at'])}")
    ahead = connection.execute(
        """
        select count(*) as runs, max(greatest(started_at, completed_at)) as latest
        from run_logs
        where greatest(started_at, completed_at) > clock_timestamp() + interval '1 minute'
        """
    ).fetchone()
    if ahead and ahead["runs"]:
        yield Finding(
            "clock of the runs",
            "warning",
            f"{ahead['runs']} runs are in the database's future, the last at "
            f"{_minute(ahead['latest'])}",
            "Its clock was ahead then, or is behind now: correct it (NTP). No data depends on it, "
            "but times and ages in the log are wrong.",
        )


def declaration(connection: Connection | None = None) -> Finding:
    """Read what is declared of the CRM's statuses, and compare it with a database."""
    try:
        declared = read_declared()
    except DeclarationError as error:
        return Finding("crm.yml", "error", str(error), "Correct it: no sync starts before.")
    detail = f"{len(declared.statuses)} statuses, {len(declared.stages)} stages"
    if connection is not None and differs(connection, declared):
        detail += "; changed: the next sync applies it to all deals"
    return Finding("crm.yml", "ok", detail)


def statuses(connection: Connection) -> Iterator[Finding]:
    """Name the status codes and stages that nothing explains."""
    unknown = connection.execute(
        "select *, to_json(name)::text as quoted from unknown_statuses order by deals desc, name"
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


def _held(connection: Connection) -> Held:
    row = connection.execute(
        """
        select
            (select count(*) from opportunities where deleted_at is null) as rows,
            (
                select count(*)
                from rejected_records as rejected
                where
                    rejected.stream = 'opportunities' and rejected.resolved_at is null
                    and not exists (
                        select from opportunities as known
                        where known.remote_id = rejected.remote_id and known.deleted_at is null
                    )
            ) as rejects,
            exists (select from sync_logs where status = 'SUCCESS') as is_loaded
        """
    ).fetchone()
    return Held(**row or {})


def crm(*, meltano: bool, held: Held | None = None) -> Iterator[Finding]:
    """Ask the CRM for one row as the sync does, and for its attributes.

    Args:
        meltano: whether Meltano can be asked for the tap's settings.
        held: what the database holds of the deals, where known.
    """
    try:
        # Two attempts: a person waits for the answer.
        reached = Crm(tap_settings(meltano=meltano, max_retries=1, request_timeout=30))
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


def _scalar(connection: Connection, statement: str) -> Any:
    row = connection.execute(statement).fetchone()
    return next(iter(row.values())) if row else None


def _minute(moment: datetime) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _last_line(text: str | None) -> str:
    lines = (text or "").strip().splitlines()
    return lines[-1].strip() if lines else "without a word"


def _hider() -> Callable[[str], str]:
    """Return a function that hides every secret in a text."""
    passwords = [
        urlsplit(setting(name) or "").password or ""
        for name in ("DATABASE_URL", "DATABASE_DIRECT_URL")
    ]
    secrets = {*passwords, *map(unquote, passwords)}
    secrets |= {setting(name) or "" for name in secret_names()}
    secrets -= {""}

    def hide(text: str) -> str:
        for secret in sorted(secrets, key=len, reverse=True):
            text = text.replace(secret, "***")
        return text

    return hide


def main() -> int:
    """Print the findings; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m orchestrate.doctor", description=__doc__)
    parser.add_argument("--json", action="store_true", help="print a list of JSON objects")
    as_json = parser.parse_args().json
    hide = _hider()
    findings = []
    for finding in examine():
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
