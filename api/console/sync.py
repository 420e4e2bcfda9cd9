"""The syncs: the one under way, those that were, and what they could not load."""

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any, LiteralString
from uuid import UUID

from fastapi import Form, Query, Request, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel

from api.auth import Manager, Viewer
from api.console.charts import Bar, Columns, columns
from api.console.deal import crm_link
from api.console.pages import back_to, console_router, page, wants_part
from api.database import Connection
from api.docs import LINEAGE
from api.rejects import RejectsQuery, list_rejected_records
from api.sync import queries
from api.sync.router import cancel_sync, start_sync
from api.sync.schemas import SyncOrder

router = console_router()

SHOWN = 50
CHARTED = 30

_LAST_SUCCESS: LiteralString = """
select completed_at from sync_logs where status = 'SUCCESS' order by id desc limit 1
"""
_LAST_RECONCILIATION: LiteralString = """
select reconciliation_in_words(found) as words, found.missed, run_logs.completed_at
from reconciliations as found
join run_logs using (run_id)
where run_logs.status = 'SUCCESS'
order by run_logs.id desc
limit 1
"""
_SCHEDULES: LiteralString = """
select *, heartbeat_at > now() - interval '3 minutes' as is_alive
from schedules
order by next_run_at nulls last, name
"""
_UNKNOWN_STATUSES: LiteralString = """
select section, name, deals, to_json(name)::text as quoted
from unknown_statuses
order by section desc, deals desc, name
limit 50
"""


@router.get("/sync")
async def show_sync(request: Request, _: Viewer, connection: Connection) -> Response:
    """Show the syncs, or the part of the page that a sync changes."""
    runs = await queries.fetch(connection, queries.HISTORY, SHOWN)
    current = await _progress(connection)
    last_success = await (await connection.execute(_LAST_SUCCESS)).fetchone()
    context: dict[str, Any] = {
        "runs": runs,
        "current": current,
        "last_success": last_success["completed_at"] if last_success else None,
        "reconciliation": await (await connection.execute(_LAST_RECONCILIATION)).fetchone(),
        "charts": _charts(runs),
        "unknown_statuses": await (await connection.execute(_UNKNOWN_STATUSES)).fetchall(),
        "schedules": await (await connection.execute(_SCHEDULES)).fetchall(),
        "has_lineage": LINEAGE.is_file(),
    }
    if wants_part(request, "syncs"):
        return page(request, "_syncs.html", **context)
    rejects = await list_rejected_records(_, connection, RejectsQuery.model_validate({"limit": 20}))
    return page(request, "sync.html", rejects=rejects, resolved=False, crm_link=crm_link, **context)


@router.get("/sync/indicator")
async def show_indicator(request: Request, _: Viewer, connection: Connection) -> Response:
    """Show in a few words how fresh the data is."""
    latest = await queries.fetch(connection, queries.LATEST)
    success = await (await connection.execute(_LAST_SUCCESS)).fetchone()
    return page(
        request, "_indicator.html",
        latest=latest[0] if latest else None,
        last_success=success["completed_at"] if success else None,
    )  # fmt: skip


class StartForm(BaseModel):
    """How to sync."""

    full: bool = False


@router.post("/sync/start")
async def start(
    request: Request, user: Manager, connection: Connection, given: Annotated[StartForm, Form()]
) -> Response:
    """Start a sync."""
    await start_sync(request, user, connection, SyncOrder(full=given.full))
    return back_to(request, "/sync")


@router.post("/sync/{run_id}/cancel")
async def cancel(request: Request, user: Manager, connection: Connection, run_id: UUID) -> Response:
    """Stop a sync."""
    await cancel_sync(request, user, connection, run_id)
    return back_to(request, "/sync")


@router.get("/sync/rejects")
async def show_rejects(
    request: Request, user: Viewer, connection: Connection, wanted: Annotated[RejectsQuery, Query()]
) -> Response:
    """Show what could not be loaded."""
    rejects = await list_rejected_records(user, connection, wanted)
    template = "_reject_rows.html" if wants_part(request, "more-rejects") else "_rejects.html"
    if "hx-request" not in request.headers:
        template = "rejects.html"
    return page(request, template, rejects=rejects, resolved=wanted.resolved, crm_link=crm_link)


async def _progress(connection: AsyncConnection[DictRow]) -> dict[str, Any] | None:
    """Return what loads now, whatever its kind: it keeps all others from it."""
    running = await queries.fetch(connection, queries.LOADING)
    if not running:
        return None
    found = await queries.fetch(connection, queries.PROGRESS, running[0]["run_id"])
    return found[0] if found else None


def _charts(runs: list[DictRow]) -> dict[str, Columns]:
    return {"duration": _chart(runs, _seconds), "rows": _chart(runs, _read)}


def _chart(runs: list[DictRow], value: Callable[[DictRow], float]) -> Columns:
    bars = [
        Bar(
            label=f"{run['started_at']:%d %b %H:%M} UTC, {run['status'].lower()}",
            value=value(run),
            tone="bad" if run["status"] == "FAILED" and run["end_reason"] != "cancelled" else "",
        )
        for run in reversed(runs[:CHARTED])
    ]
    return columns(bars)


def _seconds(run: DictRow) -> float:
    if run["duration_seconds"] is None:
        return float((datetime.now(UTC) - run["started_at"]).total_seconds())
    return float(run["duration_seconds"])


def _read(run: DictRow) -> float:
    return float(run["total_fetched"])
