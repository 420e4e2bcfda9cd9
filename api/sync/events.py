"""Following a sync: server-sent events, one whenever something has changed."""

import asyncio
from collections.abc import AsyncIterator
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from api.auth import CurrentUser, User, is_still_let_in
from api.database import Pool
from api.problems import answers
from api.sync import service
from api.sync.schemas import SyncProgress

router = APIRouter(prefix="/api/sync-runs", tags=["sync"])

POLL_SECONDS = 1


async def _progress(request: Request, user: CurrentUser, run_id: UUID) -> SyncProgress:
    pool: Pool = request.app.state.pool
    async with pool.connection() as connection:
        run = await service.get_progress(connection, user, run_id)
    return SyncProgress.model_validate(run)


async def _may_go_on(request: Request, user: User) -> bool:
    pool: Pool = request.app.state.pool
    async with pool.connection() as connection:
        return await is_still_let_in(connection, user)


@router.get(
    "/{run_id}/events", response_class=EventSourceResponse, responses=answers(401, 404, 422)
)
async def follow_sync(
    request: Request,
    user: CurrentUser,
    run_id: UUID,
    progress: Annotated[SyncProgress, Depends(_progress)],
) -> AsyncIterator[ServerSentEvent]:
    """Follow a sync: events `progress`, and at its end one `end`, each with a SyncProgress.

    The stream breaks off when the token that it was asked for with is good no more.
    """
    sent = None
    while progress.status == "RUNNING":
        if progress != sent:
            yield ServerSentEvent(data=progress, event="progress")
            sent = progress
        await asyncio.sleep(POLL_SECONDS)  # and hold no connection meanwhile: many may follow
        if not await _may_go_on(request, user):
            return
        progress = await _progress(request, user, run_id)
    yield ServerSentEvent(data=progress, event="end")
