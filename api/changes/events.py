"""The event stream: which deals have changed, and what the syncs are doing."""

import time
from collections.abc import AsyncIterator
from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Header, Query, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent
from psycopg import OperationalError
from psycopg_pool import PoolTimeout

from api.auth import CurrentUser, User, is_still_let_in, unattended
from api.changes import queries, service
from api.changes.cursor import Position, decode
from api.changes.live import Live, Moment
from api.changes.schemas import ChangedDeals
from api.database import connection_of, fetch_one
from api.problems import ProblemError, answers

router = APIRouter(prefix="/api", tags=["opportunities"])

LET_IN_SECONDS = 5


async def _count(request: Request, user: CurrentUser) -> AsyncIterator[None]:
    with request.app.state.limits.streams.count(f"user {user.name}"):
        yield


def _begin(
    user: CurrentUser,
    cursor: Annotated[
        str | None,
        Query(max_length=500, description="Begin with what comes after; else with what is new"),
    ] = None,
    last_event_id: Annotated[
        str | None,
        Header(max_length=500, description="Where a stream broke off: goes before `cursor`"),
    ] = None,
) -> tuple[int, Position]:
    return decode(last_event_id or cursor or user.as_of)


@router.get(
    "/events",
    response_class=EventSourceResponse,
    responses=answers(401, 422),
    dependencies=[Depends(_count)],
)
@unattended
async def follow(
    request: Request,
    user: CurrentUser,
    begin: Annotated[tuple[int, Position], Depends(_begin)],
    of_others: Annotated[
        bool, Query(description="Leave out what the user changes, who sees that anyway")
    ] = False,
) -> AsyncIterator[ServerSentEvent]:
    """Follow what happens.

    Events: `sync`, with Syncs, at once and whenever it differs; `changes`, with ChangedDeals, after
    commits; its id is a cursor, also of `GET /api/changes`. `reset`: the cursor was too old, so all
    may have changed. `signed-out`: the token that the stream was asked for with is good no more.
    """
    live: Live = request.app.state.live
    generation, position = begin
    told, good_until = None, 0.0
    async with live.join():
        while True:
            moment = await live.next()
            if told != moment.syncs:
                yield ServerSentEvent(data=moment.syncs, event="sync")
                told = moment.syncs
            try:
                if time.monotonic() > good_until:
                    async with connection_of(request) as connection:
                        if not await is_still_let_in(connection, user):
                            yield ServerSentEvent(data={}, event="signed-out")
                            return
                    good_until = time.monotonic() + LET_IN_SECONDS
                event = await _changes(
                    request, user, generation, position, moment, of_others=of_others
                )
            except (PoolTimeout, OperationalError):
                continue  # busy, or without its database for the moment
            except ProblemError as error:
                if error.status_code != HTTPStatus.SERVICE_UNAVAILABLE:
                    raise
                continue
            generation, position = moment.generation, Position(moment.horizon)
            if event is not None:
                yield event


async def _changes(
    request: Request,
    user: User,
    generation: int,
    position: Position,
    moment: Moment,
    *,
    of_others: bool,
) -> ServerSentEvent | None:
    """Return the event for what has changed from a position to a moment, if anything has."""
    cursor = Position(moment.horizon).encode(moment.generation)
    if generation == moment.generation and int(moment.newest) < int(position.xid):
        return None
    async with connection_of(request) as connection:
        state = await fetch_one(connection, queries.STATE, position._asdict())
        if generation != state["generation"] or state["is_pruned"]:
            return ServerSentEvent(data={}, event="reset", id=cursor)
        changed = ChangedDeals.model_validate(
            await service.count_changed_deals(
                connection, user, position, moment.horizon, of_others=of_others
            )
        )
    return ServerSentEvent(data=changed, event="changes", id=cursor) if changed.deals else None
