"""The endpoints of syncs."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Query, Request
from fastapi.concurrency import run_in_threadpool
from psycopg.rows import DictRow

from api.audit import record
from api.auth import Manager, Viewer
from api.database import Connection
from api.problems import ProblemError, answers
from api.sync import queries
from api.sync.schemas import SyncOrder, SyncProgress, SyncRun, SyncRunning
from runs import control

router = APIRouter(prefix="/api", tags=["sync"])


@router.post(
    "/sync-database",
    status_code=202,
    response_model=SyncRun,
    responses=answers(401, 403, 422) | {409: {"model": SyncRunning}},
)
async def start_sync(
    request: Request, user: Manager, connection: Connection, order: SyncOrder | None = None
) -> DictRow:
    """Start a sync, unless one is under way, whoever started that."""
    full = order is not None and order.full
    url = request.app.state.database_url
    try:
        run = await run_in_threadpool(control.start, url, full, "api", user.name)
    except control.RunningError as error:
        (other,) = await queries.fetch(connection, queries.ANY_RUN, error.run_id)
        under_way = SyncRun.model_validate(other).model_dump(mode="json")
        raise ProblemError(409, f"{error.what} is under way.", run=under_way) from error
    await record(connection, user, "start", "sync", run["run_id"], after={"full": full})
    return run


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


@router.get("/sync-runs/{run_id}", response_model=SyncProgress, responses=answers(401, 404, 422))
async def get_sync(_: Viewer, connection: Connection, run_id: UUID) -> DictRow:
    """Get a run, a reconcile as well as a sync, and how far it has come."""
    rows = await queries.fetch(connection, queries.PROGRESS, run_id)
    if not rows:
        raise ProblemError(404, f"There is no run {run_id}.")
    return rows[0]


@router.post(
    "/sync-runs/{run_id}/cancel",
    status_code=202,
    response_model=SyncProgress,
    responses=answers(401, 403, 404, 409, 422),
)
async def cancel_sync(
    request: Request, user: Manager, connection: Connection, run_id: UUID
) -> DictRow:
    """Stop a run. What it has loaded stays, and the next one goes on from there."""
    run = await get_sync(user, connection, run_id)
    if run["status"] != "RUNNING":
        raise ProblemError(409, f"It has ended: {run['status']}.")
    try:
        url = request.app.state.database_url
        await run_in_threadpool(control.cancel, url, str(run_id), user.name)
    except control.CannotCancelError as error:
        raise ProblemError(409, str(error)) from error
    await record(connection, user, "cancel", "sync", run_id)
    return await get_sync(user, connection, run_id)
