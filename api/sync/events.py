"""Following a sync: server-sent events, one whenever something has changed."""

import asyncio
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated
from uuid import UUID

from fastapi import APIRouter, Depends, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from psycopg import OperationalError
from psycopg_pool import PoolTimeout

from api.auth import CurrentUser, User, is_still_let_in, unattended
from api.database import Connection, connection_of
from api.problems import ProblemError, answers
from api.sync import service
from api.sync.schemas import SyncProgress

router = APIRouter(prefix="/api/sync-runs", tags=["sync"])

POLL_SECONDS = 1


async def _progress(user: CurrentUser, connection: Connection, run_id: UUID) -> SyncProgress:
    return SyncProgress.model_validate(await service.get_progress(connection, user, run_id))


async def _count(request: Request, user: CurrentUser) -> AsyncIterator[None]:
    with request.app.state.limits.streams.count(f"user {user.name}"):
        yield


async def _look_again(request: Request, user: User, run_id: UUID) -> SyncProgress | None:
    """Return the progress; None to a user who is let in no more."""
    async with connection_of(request) as connection:
        if not await is_still_let_in(connection, user):
            return None
        return await _progress(user, connection, run_id)


@router.get(
    "/{run_id}/events",
    response_class=EventSourceResponse,
    responses=answers(401, 404, 422),
    dependencies=[Depends(_count)],
)
@unattended
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
        try:
            seen = await _look_again(request, user, run_id)
        except (ProblemError, PoolTimeout, OperationalError) as error:
            if (
                isinstance(error, ProblemError)
                and error.status_code != HTTPStatus.SERVICE_UNAVAILABLE
            ):
                return  # the run is no longer known
            continue  # busy, or without its database for the moment
        if seen is None:
            return
        progress = seen
    yield ServerSentEvent(data=progress, event="end")
