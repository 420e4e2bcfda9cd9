"""The page of syncs: the running one, the history, and rejected records."""

import json
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Any
from urllib.parse import urlencode
from uuid import UUID

from fastapi import Form, Query, Request, Response
from psycopg.rows import DictRow
from pydantic import BaseModel

from api.auth import CurrentUser, Role, unattended
from api.console.charts import Bar, Columns, columns
from api.console.pages import back_to, console_router, page, wants_part
from api.database import Connection
from api.docs import LINEAGE
from api.fields import CurrentFields
from api.opportunities.deal import crm_link
from api.sync import service
from api.sync.schemas import HistoryQuery, RejectedRecords, RejectsQuery, SyncOrder
from api.types import Id, PathId
from orchestrate.cron import in_words
from runs import processes

router = console_router()

SHOWN = 50
CHARTED = 30
CHANGES = 50
TRIGGERS = {
    "api": "the console or the API",
    "schedule": "the schedule",
    "webhook": "a call of the CRM",
    "airflow": "Airflow",
    "cli": "a command on the server",
    "shell": "a command on the server",
}
"""Who or what starts runs, as people read it."""
JOBS = {
    "sync": "Reads what has changed in the CRM",
    "reconcile": "Compares all deals with the CRM, and finds those that are gone",
    "build": "Makes dbt's views again, and tests the data",
    "housekeeping": "Deletes what has been kept for as long as the settings say",
}
"""What the jobs of meltano.yml do, as people read it."""
DOINGS = {
    "STARTING": "Meltano, the reader and the loader are starting, which takes some seconds.",
    "LOADING": "The reader asks the CRM, and the loader stores what it sends.",
    "MERGING": "dbt merges what was loaded into the deals.",
}
"""What happens in each phase of a run, as people read it."""


@router.get("/sync")
async def show_sync(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    before: Annotated[Id | None, Query()] = None,
) -> Response:
    """Show the syncs, the part of the page that a sync changes, or older syncs alone."""
    if wants_part(request, "more-syncs"):
        older = HistoryQuery.model_validate({"limit": SHOWN, "before": before})
        runs = await service.get_history(connection, user, older)
        context: dict[str, Any] = {"runs": runs, "outcome_of": service.outcome}
        return page(request, "_sync_rows.html", page_size=SHOWN, **context)
    overview = await service.get_overview(connection, user, SHOWN)
    context = overview | {
        "page_size": SHOWN,
        "charts": _charts(overview["runs"]),
        "has_lineage": LINEAGE.is_file(),
        "outcome_of": service.outcome,
        "schedule_in_words": schedule_in_words,
        "doings": DOINGS,
    }
    if wants_part(request, "syncs"):
        return page(request, "_syncs.html", **context)
    wanted = RejectsQuery.model_validate({"limit": 20})
    rejects = await service.list_rejects(connection, user, wanted)
    return page(request, "sync.html", **context, **_shown(rejects, wanted))


@router.get("/sync/indicator")
@unattended
async def show_indicator(request: Request, user: CurrentUser, connection: Connection) -> Response:
    """Show in a few words how fresh the data is."""
    freshness = await service.get_freshness(connection, user)
    latest = freshness["latest"]
    outcome = None if latest is None else service.outcome(latest)
    return page(request, "_indicator.html", outcome=outcome, **freshness)


@router.get("/sync/runs/{run_id}")
async def show_run(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    fields: CurrentFields,
    run_id: UUID,
    offset: Annotated[int, Query(ge=0, le=10_000_000)] = 0,
) -> Response:
    """Show a run: how it went and what it brought, or the next of the changes alone."""
    run = await service.get_detail(connection, user, run_id)
    changes = await service.list_changes(connection, user, run, offset, CHANGES + 1)
    context: dict[str, Any] = {
        "run": run,
        "changes": changes[:CHANGES],
        "next_offset": offset + CHANGES if len(changes) > CHANGES else None,
        "titles": fields.labels,
    }
    if wants_part(request, "more-changes"):
        return page(request, "_run_changes.html", **context)
    if user.role.includes(Role.MANAGER):
        context["log"] = await service.read_log(user, run_id)
    by = TRIGGERS.get(run.trigger or "", run.trigger)
    log_name = processes.log_file(run_id).name
    return page(request, "run.html", by=by, log_name=log_name, doings=DOINGS, **context)


class StartForm(BaseModel):
    """How to sync."""

    full: bool = False


@router.post("/sync/start")
async def start(
    request: Request, user: CurrentUser, connection: Connection, given: Annotated[StartForm, Form()]
) -> Response:
    """Start a sync."""
    url = request.app.state.database_url
    await service.start(connection, user, url, SyncOrder(full=given.full))
    return back_to(request, "/sync")


@router.post("/opportunities/{id}/refresh")
async def refresh(
    request: Request, user: CurrentUser, connection: Connection, opportunity_id: PathId
) -> Response:
    """Read a deal from the CRM now; the page waits for the end of the run."""
    url = request.app.state.database_url
    run = await service.refresh(connection, user, url, opportunity_id)
    if "hx-request" not in request.headers:
        return back_to(request, f"/opportunities/{opportunity_id}")
    started = {"refresh-started": {"run_id": str(run["run_id"])}}
    return Response(status_code=204, headers={"HX-Trigger": json.dumps(started)})


@router.post("/sync/{run_id}/cancel")
async def cancel(
    request: Request, user: CurrentUser, connection: Connection, run_id: UUID
) -> Response:
    """Stop a sync."""
    await service.cancel(connection, user, request.app.state.database_url, run_id)
    return back_to(request, "/sync")


@router.get("/sync/rejects")
async def show_rejects(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    wanted: Annotated[RejectsQuery, Query()],
) -> Response:
    """Show what could not be loaded."""
    rejects = await service.list_rejects(connection, user, wanted)
    template = "_reject_rows.html" if wants_part(request, "more-rejects") else "_rejects.html"
    if "hx-request" not in request.headers:
        template = "rejects.html"
    return page(request, template, **_shown(rejects, wanted))


def _shown(rejects: RejectedRecords, wanted: RejectsQuery) -> dict[str, Any]:
    """Return what the templates of rejects need."""
    return {
        "rejects": rejects,
        "wanted": wanted,
        "address": partial(_address, wanted),
        "crm_link": crm_link,
    }


def _address(wanted: RejectsQuery, **changes: Any) -> str:
    """Return the address of the rejects with some of its parameters changed."""
    given = wanted.model_dump(mode="json", exclude_defaults=True, exclude={"cursor", "limit"})
    asked = {name: value for name, value in (given | changes).items() if value}
    return "/sync/rejects" + (f"?{urlencode(asked)}" if asked else "")


def schedule_in_words(schedule: DictRow) -> str:
    """Return what a schedule does, and when.

    >>> schedule_in_words({"job": "build", "interval": "30 3 * * 1-5", "timezone": "UTC"})
    "Makes dbt's views again, and tests the data: at 03:30 on Monday through Friday (UTC)"
    """
    does = JOBS.get(schedule["job"], f"meltano run {schedule['job']}")
    return f"{does}: {in_words(schedule['interval'])} ({schedule['timezone']})"


def _charts(runs: list[DictRow]) -> dict[str, Columns]:
    return {"duration": _chart(runs, _seconds), "rows": _chart(runs, _read)}


def _chart(runs: list[DictRow], value: Callable[[DictRow], float]) -> Columns:
    bars = [
        Bar(
            label=f"{run['started_at']:%d %b %H:%M} UTC, {run['status'].lower()}",
            value=value(run),
            tone="bad" if service.outcome(run) == "FAILED" else "",
        )
        for run in reversed(runs[:CHARTED])
    ]
    return columns(bars, least=CHARTED // 2)


def _seconds(run: DictRow) -> float:
    if run["duration_seconds"] is None:
        return float((datetime.now(UTC) - run["started_at"]).total_seconds())
    return float(run["duration_seconds"])


def _read(run: DictRow) -> float:
    return float(run["total_fetched"])
