"""The feed of changes: every change of every deal, once, in the order of commits."""

from typing import Any

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import Role, User
from api.changes import queries
from api.changes.cursor import ALL_DEALS, Position, decode
from api.changes.schemas import FeedRequest
from api.database import fetch_one
from api.problems import ProblemError

MOST_IDS = 1000


async def read_feed(
    connection: AsyncConnection[DictRow], user: User, wanted: FeedRequest
) -> dict[str, Any]:
    """Return a part of the feed: `items`, `next_cursor` and `has_more`.

    Raises:
        ProblemError: 410, changes after the cursor are deleted by now; 422, it is no cursor.
    """
    user.must_be(Role.VIEWER)
    generation, position = None, Position()
    if wanted.cursor is not None:
        generation, position = decode(wanted.cursor)
    found = await connection.execute(queries.STATE, position._asdict())
    (state,) = await found.fetchall()
    if generation is not None and (generation != state["generation"] or state["is_pruned"]):
        detail = "The cursor is too old: changes after it are deleted, or the database was restored"
        raise ProblemError(410, f"{detail}. Read all deals again, and then go on without a cursor.")
    after_all = Position(state["horizon"])
    if generation is None and wanted.since is not None:
        start = await (await connection.execute(queries.START, {"since": wanted.since})).fetchone()
        position = after_all if start is None else Position(**start)

    parameters = {
        **position._asdict(),
        "horizon": state["horizon"],
        "limit": wanted.limit + 1,
        "all_deals": ALL_DEALS,
    }
    items = await (await connection.execute(queries.FEED, parameters)).fetchall()
    has_more = len(items) > wanted.limit
    items = items[: wanted.limit]
    reached = Position(*(items[-1][name] for name in Position._fields)) if has_more else after_all
    return {
        "items": items,
        "next_cursor": reached.encode(state["generation"]),
        "has_more": has_more,
    }


async def count_changed_deals(
    connection: AsyncConnection[DictRow],
    user: User,
    position: Position,
    horizon: str,
    *,
    of_others: bool,
) -> DictRow:
    """Return how many deals changed from a position on, below a transaction, and which.

    Args:
        connection: To the database.
        user: Who asks.
        position: What the user has seen.
        horizon: A transaction below which all have ended.
        of_others: Whether the user's own changes don't count.

    Returns:
        `deals`, and their `opportunity_ids` if these are no more than a message may have.
    """
    user.must_be(Role.VIEWER)
    parameters = {
        "xid": position.xid,
        "horizon": horizon,
        "user": user.name if of_others else None,
        "most": MOST_IDS,
    }
    return await fetch_one(connection, queries.CHANGED_DEALS, parameters)
