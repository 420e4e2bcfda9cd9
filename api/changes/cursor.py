"""A place in the feed of changes, as readers keep it."""

import json
from base64 import urlsafe_b64decode, urlsafe_b64encode
from typing import NamedTuple

from api.problems import ProblemError

ALL_DEALS = 2**63 - 1


class Position(NamedTuple):
    """What has been read.

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


def decode(cursor: str) -> tuple[int, Position]:
    """Return the generation and the position of a cursor that a reader sent back.

    Raises:
        ProblemError: 422, it is none.
    """
    try:
        match json.loads(urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))):
            case [int(generation), str(xid), str(at), int(deal), int(change)] if (
                xid.isascii()
                and xid.isdecimal()
                and int(xid) < 2**64
                and 0 <= deal <= ALL_DEALS
                and 0 <= change <= ALL_DEALS
                and "\0" not in at
            ):
                at.encode()
                return generation, Position(xid, at, deal, change)
            case _:
                raise ValueError("not a cursor's parts")
    except (ValueError, RecursionError) as error:
        raise ProblemError(422, "cursor: this is not a cursor that the feed has given") from error
