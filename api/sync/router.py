"""The endpoints of syncs, their rejects and schedules."""

from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Path, Query, Request, Response
from psycopg.rows import DictRow

from api.auth import CurrentUser
from api.database import Connection
from api.exact import exact_response
from api.problems import ProblemError, answers
from api.sync import service
from api.sync.schemas import (
    HistoryQuery,
    RejectedRecords,
    RejectsQuery,
    Schedule,
    ScheduleChange,
    SyncDetail,
    SyncOrder,
    SyncProgress,
    SyncRun,
    SyncRunning,
)
from api.types import Text

router = APIRouter(prefix="/api", tags=["sync"])


@router.post(
    "/sync-database",
    status_code=202,
    response_model=SyncRun,
    responses=answers(401, 403, 422) | {409: {"model": SyncRunning}},
)
async def start_sync(
    request: Request, user: CurrentUser, connection: Connection, order: SyncOrder | None = None
) -> DictRow:
    """Start a sync, unless one is under way, whoever started that."""
    url = request.app.state.database_url
    return await service.start(connection, user, url, order or SyncOrder(full=False))


@router.post(
    "/opportunities/{remote_id}/refresh",
    status_code=202,
    response_model=SyncRun,
    responses=answers(401, 403, 404, 422) | {409: {"model": SyncRunning}},
)
async def refresh_opportunity(
    request: Request, user: CurrentUser, connection: Connection, remote_id: Annotated[Text, Path()]
) -> DictRow:
    """Read an opportunity from the CRM now, by its OptyId, unless a run that loads is under way.

    Follow the run by `GET /api/sync-runs/{run_id}`. It is none of the syncs: it does not appear in
    their history, and the next sync reads what it would have read anyway.
    """
    url = request.app.state.database_url
    return await service.refresh(connection, user, url, remote_id=remote_id)


@router.get("/sync-status", response_model=SyncRun, responses=answers(401, 404))
async def sync_status(user: CurrentUser, connection: Connection) -> DictRow:
    """Get the sync that is under way, or else the last one."""
    latest = await service.get_latest(connection, user)
    if latest is None:
        raise ProblemError(404, "There has been no sync yet. POST /api/sync-database starts one.")
    return latest


@router.get("/sync-history", response_model=list[SyncRun], responses=answers(401, 422))
async def sync_history(
    user: CurrentUser, connection: Connection, wanted: Annotated[HistoryQuery, Query()]
) -> list[DictRow]:
    """List the syncs that fulfil every condition, the newest first."""
    return await service.get_history(connection, user, wanted)


@router.get("/sync-runs/{run_id}", responses=answers(401, 404, 422))
async def get_sync(user: CurrentUser, connection: Connection, run_id: UUID) -> SyncDetail:
    """Get a run, a reconcile as well as a sync: how far it has come, and what it brought."""
    return await service.get_detail(connection, user, run_id)


@router.post(
    "/sync-runs/{run_id}/cancel",
    status_code=202,
    response_model=SyncProgress,
    responses=answers(401, 403, 404, 409, 422),
)
async def cancel_sync(
    request: Request, user: CurrentUser, connection: Connection, run_id: UUID
) -> DictRow:
    """Stop a run. What it has loaded stays, and the next one goes on from there."""
    return await service.cancel(connection, user, request.app.state.database_url, run_id)


@router.get("/rejected-records", response_model=RejectedRecords, responses=answers(401, 422))
async def list_rejected_records(
    user: CurrentUser, connection: Connection, wanted: Annotated[RejectsQuery, Query()]
) -> Response:
    """List what could not be loaded, the newest first.

    A sync tries again what has changed in the CRM, and a full one all of it.
    """
    rejects = await service.list_rejects(connection, user, wanted)
    return exact_response(rejects.model_dump())


@router.get("/schedules", response_model=list[Schedule], responses=answers(401))
async def list_schedules(user: CurrentUser, connection: Connection) -> list[DictRow]:
    """List the schedules. There are none while no scheduler has run: `make schedule`."""
    return await service.list_schedules(connection, user)


@router.patch("/schedules/{name}", response_model=Schedule, responses=answers(401, 403, 404, 422))
async def change_schedule(
    user: CurrentUser,
    connection: Connection,
    name: Annotated[Text, Path()],
    change: ScheduleChange,
) -> DictRow:
    """Pause or resume a schedule."""
    return await service.change_schedule(connection, user, name, change)


@router.post(
    "/schedules/{name}/run",
    status_code=202,
    response_model=Schedule,
    responses=answers(401, 403, 404, 409, 422),
)
async def run_schedule(
    user: CurrentUser, connection: Connection, name: Annotated[Text, Path()]
) -> DictRow:
    """Run a schedule now, also a paused one: its scheduler begins within seconds."""
    return await service.run_schedule(connection, user, name)
