"""The feed of changes: every change of every deal, once, in the order of commits."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import Any, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import Role, User
from api.changes import queries
from api.changes.schemas import FeedRequest
from api.problems import ProblemError

_ALL_DEALS = 2**63 - 1


class Position(NamedTuple):
    """A place in the feed: what has been read.

    Attributes:
        xid: a transaction.
        at: a time in it.
        deal: of its new deals those up to this id.
        change: of its changes those up to this id.
    """

    xid: str = "0"
    at: str = "-infinity"
    deal: int = 0
    change: int = 0

    def encode(self, generation: int) -> str:
        """Return the position as a text that is of no use but to be sent back."""
        text = json.dumps([generation, *self], separators=(",", ":"))
        return urlsafe_b64encode(text.encode()).decode().rstrip("=")


def _decode(cursor: str) -> tuple[int, Position]:
    try:
        match json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))):
            case [int(generation), str(xid), str(at), int(deal), int(change)] if (
                xid.isascii()
                and xid.isdecimal()
                and int(xid) < 2**64
                and 0 <= deal <= _ALL_DEALS
                and 0 <= change <= _ALL_DEALS
                and "\0" not in at
            ):
                at.encode()
                return generation, Position(xid, at, deal, change)
            case _:
                raise ValueError("not a cursor's parts")
    except (ValueError, RecursionError) as error:
        raise ProblemError(422, "cursor: this is not a cursor that the feed has given") from error


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
        generation, position = _decode(wanted.cursor)
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
        "all_deals": _ALL_DEALS,
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
