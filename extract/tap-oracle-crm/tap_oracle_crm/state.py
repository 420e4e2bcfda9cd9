"""The state that a run saves for the next one, beside the SDK's bookmark.

Meltano merges the state of an interrupted run into the older one: objects key by key, lists by
union. So each value here is one text, and a finished scan is an empty text, not a missing key.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from tap_oracle_crm.errors import OracleCrmError
from tap_oracle_crm.ranges import Bounds, RangePlan
from tap_oracle_crm.reading import Start, timestamp

if TYPE_CHECKING:
    from tap_oracle_crm.children import ChildStream
    from tap_oracle_crm.collection import CollectionStream


@dataclass
class Scan:
    """A scan that has begun and not ended.

    Attributes:
        mark: where the next read starts once the scan has ended; None if it is not known.
        since: only rows changed since then are read; None: all.
        full: the read began without a bookmark.
        bounds: ranges of keys, exclusive low and inclusive high, that are still to be read.
        rows: how many rows have been emitted.
        claimed: the server's count of rows, or None.
        children: the child streams that were read for all rows emitted.
        newest: the newest change emitted, or empty; set if the mark is the server's clock and not
            a record's time. The next read starts no later than this.
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
        """Return the scan as text for the state."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def load(cls, text: Any) -> Scan | None:
        """Read the text that `dump` wrote; None if no scan is unfinished.

        Raises:
            OracleCrmError: the text is invalid.
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


class ReadState:
    """The state of a stream: up to which change it was read, and with which settings."""

    def __init__(self, stream: CollectionStream) -> None:
        self._stream = stream

    @property
    def scope(self) -> str:
        """A hash of the settings that decide which rows are seen: a bookmark holds for it alone."""
        config = self._stream.config
        names = ["base_url", "start_date"]
        if self._stream.uses_finder:
            names += ["finder", "filter"]
        if config.get("accept_language"):
            names.append("accept_language")  # it changes the names in every record
        text = "\n".join(str(config.get(name, "")) for name in names)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _read_for(self) -> dict[str, str]:
        """Return the attributes, shape and scope of this read: the state holds for these alone."""
        return {
            "attributes": ",".join(self._stream.fields),
            "shape": self._stream.extra_property or "",
            "scope": self.scope,
        }

    def _is_usable(self) -> bool:
        """Tell whether earlier runs read the same rows and attributes as this one."""
        state = self._stream.stream_state
        if not self._stream.is_incremental or "attributes" not in state:
            return self._stream.is_incremental
        # A removed attribute becomes null in all rows.
        same = set(self._stream.fields) == set(str(state["attributes"]).split(","))
        read_for = self._read_for()
        return same and all(state.get(name, "") == read_for[name] for name in ("shape", "scope"))

    @property
    def read_until(self) -> datetime | None:
        """The change up to which earlier runs read, with any settings; None if they did not."""
        value = self._stream.stream_state.get("replication_key_value")
        return timestamp(value) if self._stream.is_incremental else None

    @property
    def usable_mark(self) -> datetime | None:
        """The change up to which earlier runs read with the same settings; None if they did not."""
        return self.read_until if self._is_usable() else None

    def bookmark(self, children: Sequence[ChildStream]) -> datetime | None:
        """Return the time to read changes from, also for child streams; None: read all rows."""
        marks = [self.usable_mark, *(child.mark(self.scope) for child in children)]
        known = [mark for mark in marks if mark]
        return min(known) if len(known) == len(marks) else None

    def since(self, bookmark: datetime | None) -> datetime | None:
        """Return the earliest change to read: a little before the bookmark; None: all rows."""
        config = self._stream.config
        begin = timestamp(config.get("start_date"))
        if bookmark is None:
            return begin
        since = bookmark - timedelta(seconds=config["lookback_seconds"])
        return max(since, begin) if begin else since

    def unfinished_scan(self) -> Scan | None:
        """Return the scan that an earlier run did not finish."""
        return Scan.load(self._stream.stream_state.get("scan")) if self._is_usable() else None

    def save_scan(self, scan: Scan, plan: RangePlan, children: Sequence[ChildStream]) -> None:
        """Save the progress of a scan, so that the next run can continue it."""
        if self._stream.is_incremental:
            scan.bounds = plan.remaining()
            scan.children = [child.name for child in children if not child.is_left_out]
            self._stream.stream_state.update(scan=scan.dump(), **self._read_for())

    def mark_after(self, start: Start) -> datetime | None:
        """Return where the next run may start once all rows of this read have been emitted.

        This is the newest change before the read. Once the server's clock is so much later that no
        late commit can have the same time, the next run starts after that change, even with the
        lookback: otherwise each run would read again all records with that one time. It starts
        just after it and not later, since the clock may be a proxy's and wrong by a day.
        """
        if start.clock is None:
            return start.mark
        config = self._stream.config
        trusted = start.clock - timedelta(seconds=config["clock_margin_seconds"])
        if start.keys is not None:  # the newest change is not known yet, see `Scan.newest`
            return max(trusted, start.mark or trusted)
        if start.mark is None:
            return None
        behind = start.mark + timedelta(seconds=config["lookback_seconds"] + 1)
        return behind if behind <= trusted else start.mark

    def advance(self, mark: datetime | None, children: Sequence[ChildStream]) -> None:
        """Let the next run start from a mark, but never before the last one."""
        if not self._stream.is_incremental:
            return
        state = self._stream.stream_state
        state.update(scan="", **self._read_for())
        known = timestamp(state.get("replication_key_value"))
        newest = max((stamp for stamp in (mark, known) if stamp), default=None)
        if newest:
            state["replication_key"] = self._stream.replication_key
            state["replication_key_value"] = newest.astimezone(UTC).isoformat()
            for child in children:
                child.advance(newest, self.scope)
