"""The endpoints of syncs."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from psycopg.rows import DictRow

from api.auth import Manager, Viewer
from api.database import Connection
from api.problems import ProblemError, answers
from api.sync import queries
from api.sync.schemas import SyncOrder, SyncRun, SyncRunning
from orchestrate import sync

router = APIRouter(prefix="/api", tags=["sync"])


@router.post(
    "/sync-database",
    status_code=202,
    response_model=SyncRun,
    responses=answers(401, 403, 422) | {409: {"model": SyncRunning}},
)
async def start_sync(request: Request, user: Manager, order: SyncOrder | None = None) -> DictRow:
    """Start a sync, unless one is under way, whoever started that."""
    try:
        full = order is not None and order.full
        url = request.app.state.database_url
        return await run_in_threadpool(sync.start, url, full, "api", user.name)
    except sync.SyncRunningError as error:
        run = SyncRun.model_validate(error.run).model_dump(mode="json")
        raise ProblemError(409, "A sync is under way.", run=run) from error


@router.get("/sync-status", response_model=SyncRun, responses=answers(401, 404))
async def sync_status(_: Viewer, connection: Connection) -> DictRow:
    """Get the sync that is under way, or else the last one."""
    rows = await queries.fetch(connection, queries.LATEST)
    if not rows:
        raise ProblemError(404, "There has been no sync yet. POST /api/sync-database starts one.")
    return rows[0]


@router.get("/sync-history", response_model=list[SyncRun], responses=answers(401, 422))
async def sync_history(
    _: Viewer, connection: Connection, limit: Annotated[int, Query(ge=1, le=1000)] = 10
) -> list[DictRow]:
    """List the latest syncs, the newest first."""
    return await queries.fetch(connection, queries.HISTORY, limit)
