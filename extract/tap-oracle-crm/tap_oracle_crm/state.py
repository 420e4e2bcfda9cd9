"""The state that a run leaves for the next one, beside the SDK's bookmark.

Meltano merges the states of broken-off runs into older ones: objects key by key, lists by
union. So each thing kept here is one text, and an ended scan is an empty text, not an absent
key.
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


class ReadState:
    """The state of a stream: until when it was read, and with which settings."""

    def __init__(self, stream: CollectionStream) -> None:
        self._stream = stream

    @property
    def scope(self) -> str:
        """A name of what decides which rows are seen: a bookmark holds for that alone."""
        config = self._stream.config
        names = ["base_url", "start_date"]
        if self._stream.uses_finder:
            names += ["finder", "filter"]
        if config.get("accept_language"):
            names.append("accept_language")  # another language, other names in every record
        text = "\n".join(str(config.get(name, "")) for name in names)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _read_for(self) -> dict[str, str]:
        """Say what is read and how: of other rows or attributes the state has no knowledge."""
        return {
            "attributes": ",".join(self._stream.fields),
            "shape": self._stream.extra_property or "",
            "scope": self.scope,
        }

    def _is_usable(self) -> bool:
        """Tell whether what earlier runs read has all rows and attributes that this one would."""
        state = self._stream.stream_state
        if not self._stream.is_incremental or "attributes" not in state:
            return self._stream.is_incremental
        # An attribute that is gone becomes null in all rows.
        same = set(self._stream.fields) == set(str(state["attributes"]).split(","))
        read_for = self._read_for()
        return same and all(state.get(name, "") == read_for[name] for name in ("shape", "scope"))

    @property
    def read_until(self) -> datetime | None:
        """Until which change earlier runs read, whatever they read; None where they did not."""
        value = self._stream.stream_state.get("replication_key_value")
        return timestamp(value) if self._stream.is_incremental else None

    @property
    def usable_mark(self) -> datetime | None:
        """Until which change earlier runs read what this one would; None: nothing of it."""
        return self.read_until if self._is_usable() else None

    def bookmark(self, children: Sequence[ChildStream]) -> datetime | None:
        """Return since when changes are to be read, also for child streams; None: everything."""
        marks = [self.usable_mark, *(child.mark(self.scope) for child in children)]
        known = [mark for mark in marks if mark]
        return min(known) if len(known) == len(marks) else None

    def since(self, bookmark: datetime | None) -> datetime | None:
        """Return the earliest change to ask for: a little before the bookmark; None: all."""
        config = self._stream.config
        begin = timestamp(config.get("start_date"))
        if bookmark is None:
            return begin
        since = bookmark - timedelta(seconds=config["lookback_seconds"])
        return max(since, begin) if begin else since

    def unfinished_scan(self) -> Scan | None:
        """Return the scan that an earlier run did not end."""
        return Scan.load(self._stream.stream_state.get("scan")) if self._is_usable() else None

    def keep(self, scan: Scan, plan: RangePlan, children: Sequence[ChildStream]) -> None:
        """Note how far a scan is, so that the next run goes on from there."""
        if self._stream.is_incremental:
            scan.bounds = plan.remaining()
            scan.children = [child.name for child in children if not child.is_down]
            self._stream.stream_state.update(scan=scan.dump(), **self._read_for())

    def mark_after(self, start: Start) -> datetime | None:
        """Say where the next run may start once all of this read has been emitted.

        That is the newest change from before the read. Once the server's clock is so far past it
        that no late commit can share its time any more, it is left behind, lookback and all: a
        pile of records with one time is not to be read again by each run. It is left behind by no
        more than that, since the clock may be a proxy's and wrong by a day.
        """
        if start.clock is None:
            return start.mark
        config = self._stream.config
        trusted = start.clock - timedelta(seconds=config["clock_margin_seconds"])
        if start.keys is not None:  # of the newest change nothing is known yet, see `Scan.newest`
            return max(trusted, start.mark or trusted)
        if start.mark is None:
            return None
        behind = start.mark + timedelta(seconds=config["lookback_seconds"] + 1)
        return behind if behind <= trusted else start.mark

    def advance(self, mark: datetime | None, children: Sequence[ChildStream]) -> None:
        """Let the next run start from a mark, never from before the last one."""
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
