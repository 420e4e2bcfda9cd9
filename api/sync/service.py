"""What can be done with syncs and their rejects, and by whom."""

import json
import logging
from collections.abc import Mapping
from decimal import Decimal
from typing import Any, LiteralString
from uuid import UUID

from fastapi.concurrency import run_in_threadpool
from psycopg import AsyncConnection
from psycopg.abc import Params
from psycopg.rows import DictRow

from api.audit import record
from api.auth import Role, Scope, User
from api.database import fetch_one, fetch_or_404
from api.problems import ProblemError
from api.sync import queries
from api.sync.schemas import (
    HistoryQuery,
    Outcome,
    Phase,
    RejectedRecord,
    RejectedRecords,
    RejectReason,
    RejectsQuery,
    ScheduleChange,
    SyncDetail,
    SyncOrder,
    SyncRun,
)
from database.settings import secret_hider
from runs import control, processes

log = logging.getLogger(__name__)

NO_SCHEDULE = "There is no such schedule."


async def start(
    connection: AsyncConnection[DictRow], user: User, database_url: str, order: SyncOrder
) -> DictRow:
    """Start a sync.

    Raises:
        ProblemError: 409, a run that loads is under way, whoever started it; 503, this machine can
            start no process.
    """
    user.must_be(Role.MANAGER, Scope.SYNC)
    try:
        run = await run_in_threadpool(control.start, database_url, order.full, "api", user.name)
    except control.RunningError as error:
        raise await _is_running(connection, error) from error
    except OSError as error:
        raise _cannot_start(error) from error
    await record(connection, user, "start", "sync", run["run_id"], after={"full": order.full})
    return run


async def refresh(
    connection: AsyncConnection[DictRow],
    user: User,
    database_url: str,
    opportunity_id: int | None = None,
    remote_id: str | None = None,
) -> DictRow:
    """Start to read one deal from the CRM, apart from the syncs: their bookmark stays.

    The deal is named by one of its two ids.

    Raises:
        ProblemError: 404, there is no such deal; 409, a run that loads is under way, or the deal
            did not come from the CRM; 503, this machine can start no process.
    """
    user.must_be(Role.ASSESSOR, Scope.SYNC)
    missing = f"The CRM has shown no opportunity {remote_id or opportunity_id}."
    keys = {"id": opportunity_id, "remote_id": remote_id}
    deal = await fetch_or_404(connection, queries.DEAL, keys, missing)
    try:
        run = await run_in_threadpool(
            control.refresh, database_url, deal["remote_id"], "api", user.name
        )
    except ValueError as error:
        raise ProblemError(409, f"The CRM can't be asked for it: {error}.") from error
    except control.RunningError as error:
        raise await _is_running(connection, error) from error
    except OSError as error:
        raise _cannot_start(error) from error
    await record(connection, user, "refresh", "opportunity", deal["id"])
    return run


async def _is_running(
    connection: AsyncConnection[DictRow], error: control.RunningError
) -> ProblemError:
    (other,) = await queries.fetch(connection, queries.ANY_RUN, [error.run_id])
    under_way = SyncRun.model_validate(other).model_dump(mode="json")
    return ProblemError(409, f"{error.what} is under way.", run=under_way)


def _cannot_start(error: OSError) -> ProblemError:
    log.error("a run could not be started", extra={"error": str(error)})
    return ProblemError(
        503,
        f"The server could not start it: {error.strerror or error}. Let somebody look at the "
        "server's disk and memory and at its folder .data/logs; then try again.",
    )


async def cancel(
    connection: AsyncConnection[DictRow], user: User, database_url: str, run_id: UUID
) -> DictRow:
    """Stop a run. What it has loaded stays, and the next one goes on from there.

    Raises:
        ProblemError: 404, there is no such run; 409, it has ended, or can't be stopped from here.
    """
    user.must_be(Role.MANAGER, Scope.SYNC)
    run = await get_progress(connection, user, run_id)
    if run["status"] != "RUNNING":
        raise ProblemError(409, f"It has ended: {run['status']}.")
    try:
        await run_in_threadpool(control.cancel, database_url, str(run_id), user.name)
    except control.CannotCancelError as error:
        raise ProblemError(409, str(error)) from error
    await record(connection, user, "cancel", "sync", run_id)
    return await get_progress(connection, user, run_id)


async def get_latest(connection: AsyncConnection[DictRow], user: User) -> DictRow | None:
    """Return the sync that is under way, or else the last one; None before the first."""
    user.must_be(Role.VIEWER)
    return await _first(connection, queries.LATEST)


async def get_history(
    connection: AsyncConnection[DictRow], user: User, wanted: HistoryQuery
) -> list[DictRow]:
    """Return the syncs that are wanted, the newest first."""
    user.must_be(Role.VIEWER)
    return await queries.fetch(connection, queries.HISTORY, wanted.model_dump())


async def list_others(
    connection: AsyncConnection[DictRow], user: User, limit: int
) -> list[DictRow]:
    """Return the latest runs that are no syncs, such as reconciles, the newest first."""
    user.must_be(Role.VIEWER)
    return await queries.fetch(connection, queries.OTHERS, [limit])


async def get_progress(connection: AsyncConnection[DictRow], user: User, run_id: UUID) -> DictRow:
    """Return a run of any kind, and its progress; raises 404 if there is none."""
    user.must_be(Role.VIEWER)
    run = await _first(connection, queries.PROGRESS, [run_id])
    if run is None:
        raise ProblemError(404, f"There is no run {run_id}.")
    return run


def outcome(run: Mapping[str, Any]) -> Outcome:
    """Tell in one word how a run ended.

    >>> outcome({"status": "FAILED", "end_reason": "cancelled", "failed_records": 2})
    'CANCELLED'
    >>> outcome({"status": "SUCCESS", "end_reason": "done", "failed_records": 2})
    'REJECTS'
    """
    if run["end_reason"] == "cancelled":
        return "CANCELLED"
    if run["status"] == "SUCCESS":
        return "REJECTS" if run["failed_records"] else "SUCCESS"
    return "FAILED" if run["status"] == "FAILED" else "RUNNING"


async def get_detail(connection: AsyncConnection[DictRow], user: User, run_id: UUID) -> SyncDetail:
    """Return all that is known of a run of any kind; raises 404 if there is none."""
    run = await get_progress(connection, user, run_id)
    found = await (await connection.execute(queries.RECONCILIATION, [run_id])).fetchone()
    rejects = await (await connection.execute(queries.RUN_REJECTS, run)).fetchall()
    since = await (
        await connection.execute(queries.SUCCESS_SINCE, [run["id"], run["kind"]])
    ).fetchone()
    return SyncDetail(
        **run,
        outcome=outcome(run),
        phases=_phases(run),
        new_deals=(await fetch_one(connection, queries.NEW_DEALS, run))["total"],
        reconciliation=found["words"] if found else None,
        rejects=[RejectReason.model_validate(row) for row in rejects],
        succeeded_since=since["run_id"] if since else None,
    )


def _phases(run: DictRow) -> list[Phase]:
    """Return the phases that a run came to: each ends where the next one begins."""
    starts = {
        "LOADING": run["started_at"],
        "MERGING": run["transform_started_at"],
        "ENDING": run["transform_completed_at"],
    }
    begun = [(name, at) for name, at in starts.items() if at is not None]
    ends = [at for _, at in begun[1:]] + [run["completed_at"]]
    return [
        Phase.model_validate(
            {
                "name": name,
                "started_at": start,
                "completed_at": end,
                "seconds": None if end is None else (end - start).total_seconds(),
            }
        )
        for (name, start), end in zip(begun, ends, strict=True)
    ]


async def read_log(user: User, run_id: UUID) -> str | None:
    """Return the end of what a run has printed, without secrets; None if its log is not here."""
    user.must_be(Role.MANAGER, Scope.READ)
    printed = await run_in_threadpool(processes.end_of_log, run_id)
    return None if printed is None else secret_hider()(printed)


async def list_changes(
    connection: AsyncConnection[DictRow], user: User, run: SyncDetail, offset: int, limit: int
) -> list[DictRow]:
    """Return changes of deals that a run has brought, the first ones first."""
    user.must_be(Role.VIEWER)
    wanted = run.model_dump() | {"offset": offset, "limit": limit}
    return await (await connection.execute(queries.RUN_CHANGES, wanted)).fetchall()


async def get_freshness(connection: AsyncConnection[DictRow], user: User) -> dict[str, Any]:
    """Return the latest sync, and when one last succeeded; None for what never was."""
    latest = await get_latest(connection, user)
    success = await (await connection.execute(queries.LAST_SUCCESS)).fetchone()
    return {"latest": latest, "last_success": success["completed_at"] if success else None}


async def get_overview(
    connection: AsyncConnection[DictRow], user: User, limit: int
) -> dict[str, Any]:
    """Return all that one has to know of the syncs at a glance.

    Returns:
        `runs`, the latest ones up to `limit`; `current`, the progress of what loads now, whatever
        its kind, since it keeps all others from it; `last_success`; `reconciliation`, the last
        result in words; `unknown_statuses`; `schedules`.
    """
    runs = await get_history(connection, user, HistoryQuery.model_validate({"limit": limit}))
    loading = await _first(connection, queries.LOADING)
    current = loading and await _first(connection, queries.PROGRESS, [loading["run_id"]])
    success = await (await connection.execute(queries.LAST_SUCCESS)).fetchone()
    reconciliation = await (await connection.execute(queries.LAST_RECONCILIATION)).fetchone()
    return {
        "runs": runs,
        "current": current,
        "last_success": success["completed_at"] if success else None,
        "reconciliation": reconciliation,
        "unknown_statuses": await (await connection.execute(queries.UNKNOWN_STATUSES)).fetchall(),
        "schedules": await list_schedules(connection, user),
    }


async def list_rejects(
    connection: AsyncConnection[DictRow], user: User, wanted: RejectsQuery
) -> RejectedRecords:
    """List what could not be loaded, the newest first."""
    user.must_be(Role.VIEWER)
    parameters = wanted.model_dump() | {"before": wanted.cursor, "limit": wanted.limit + 1}
    rows = await (await connection.execute(queries.REJECTS, parameters)).fetchall()
    counted = await fetch_one(connection, queries.COUNT_REJECTS, parameters)
    items = [
        RejectedRecord.model_validate(
            row | {"payload": json.loads(row["payload"], parse_float=Decimal)}
        )
        for row in rows[: wanted.limit]
    ]
    if items:
        ids = [item.id for item in items]
        of = wanted.stream or "all"
        await record(connection, user, "read", "rejected records", of, after={"ids": ids})
    return RejectedRecords(
        items=items,
        total=counted["count"],
        next_cursor=str(items[-1].id) if len(rows) > wanted.limit else None,
    )


async def list_schedules(connection: AsyncConnection[DictRow], user: User) -> list[DictRow]:
    """Return the schedules, the next one first, and whether their scheduler `is_alive`."""
    user.must_be(Role.VIEWER)
    return await (await connection.execute(queries.SCHEDULES)).fetchall()


async def change_schedule(
    connection: AsyncConnection[DictRow], user: User, name: str, change: ScheduleChange
) -> DictRow:
    """Pause or resume a schedule; its scheduler sees it within seconds.

    Raises:
        ProblemError: 404, there is no such schedule.
    """
    user.must_be(Role.ADMIN)
    async with connection.transaction():
        before = await fetch_or_404(connection, queries.LOCK_SCHEDULE, [name], NO_SCHEDULE)
        values = {"name": name, "by": user.name, "paused": change.paused}
        after = await fetch_one(connection, queries.CHANGE_SCHEDULE, values)
        if (before["paused_at"] is None) is change.paused:
            await record(connection, user, "pause" if change.paused else "resume", "schedule", name)
    return after


async def run_schedule(connection: AsyncConnection[DictRow], user: User, name: str) -> DictRow:
    """Let the scheduler run a schedule now, also a paused one, after what it runs at the moment.

    Raises:
        ProblemError: 404, there is no such schedule; 409, no scheduler runs.
    """
    user.must_be(Role.ADMIN)
    async with connection.transaction():
        values = {"name": name, "by": user.name}
        wanted = await fetch_or_404(connection, queries.WANT_SCHEDULE, values, NO_SCHEDULE)
        if not wanted["is_alive"]:
            raise ProblemError(409, "No scheduler runs: `make schedule` starts it.")
        await record(connection, user, "start", "schedule", name)
    return wanted


async def _first(
    connection: AsyncConnection[DictRow], query: LiteralString, parameters: Params | None = None
) -> DictRow | None:
    rows = await queries.fetch(connection, query, parameters)
    return rows[0] if rows else None
