"""The endpoint of the feed of changes."""

from typing import Annotated, Any

from fastapi import APIRouter, Query

from api.auth import CurrentUser
from api.changes import service
from api.changes.schemas import Feed, FeedRequest
from api.database import Connection
from api.problems import answers

router = APIRouter(prefix="/api", tags=["opportunities"])


@router.get("/changes", response_model=Feed, responses=answers(401, 410, 422))
async def list_all_changes(
    user: CurrentUser, connection: Connection, wanted: Annotated[FeedRequest, Query()]
) -> dict[str, Any]:
    """List every change of every deal, new and deleted deals included, in the order of commits.

    A reader that goes on from `next_cursor` gets each change once and misses none, also if
    transactions overlap: a change is given out when all that began before it have ended.
    """
    return await service.read_feed(connection, user, wanted)
