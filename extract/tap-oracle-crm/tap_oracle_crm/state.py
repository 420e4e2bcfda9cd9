"""What a run leaves behind for the next one, beside the SDK's bookmark.

Meltano merges the states of broken-off runs into older ones: objects key by key, lists by
union. So each thing kept here is one text, and an ended scan is an empty text, not an absent
key.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from tap_oracle_crm.errors import OracleCrmError
from tap_oracle_crm.ranges import Bounds


@dataclass
class Scan:
    """A scan that has begun and not ended.

    Attributes:
        mark: where the next read starts once the scan has ended; None where nothing says.
        since: only rows changed since then are read; None: all.
        full: the read began without a bookmark.
        bounds: ranges of keys, exclusive low and inclusive high, that are still to be read.
        rows: how many rows have been emitted.
        claimed: how many the server claimed, where it did.
        children: the child streams that were read for all rows emitted.
        newest: the newest change emitted, where the mark is the server's clock and not that of a
            record; it is kept at no later time, whatever that clock shows.
    """

    mark: str | None
    since: str | None
    full: bool
    bounds: list[Bounds]
    rows: int = 0
    claimed: int | None = None
    children: list[str] = field(default_factory=list)
    newest: str | None = None

    def dump(self) -> str:
        """Return the scan as the text that goes into the state."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def load(cls, text: Any) -> Scan | None:
        """Read what `dump` wrote; None where no scan is under way.

        Raises:
            OracleCrmError: the state was changed by other hands.
        """
        if not text:
            return None
        try:
            kept = json.loads(text)
            kept["bounds"] = [(low, high) for low, high in kept["bounds"]]
            return cls(**kept)
        except (ValueError, TypeError, KeyError) as error:
            msg = (
                f"The state's scan cannot be read ({error}): empty `scan` in the state to start "
                "from the bookmark, or run a full refresh."
            )
            raise OracleCrmError(msg) from None
