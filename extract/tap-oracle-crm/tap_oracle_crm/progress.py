"""Log the progress of a read, and its coverage."""

from __future__ import annotations

import enum
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tap_oracle_crm.stream import CrmStream

PROGRESS_SECONDS = 5


class ReadMetric(enum.StrEnum):
    """Metrics beside those of the SDK, all gauges.

    The server's count of rows at the start of a read, the run-time limit in seconds if it ended
    the read, and the number of rows read at the end.
    """

    RECORDS_CLAIMED = "records_claimed"
    RUNTIME_LIMIT = "runtime_limit"
    COVERAGE = "coverage"


class Coverage(enum.StrEnum):
    """The coverage of a read: only a complete one proves that a record is gone."""

    COMPLETE = "complete"
    """All rows of the scope, read in this run."""
    CHANGES = "changes"
    """All rows that changed since the bookmark."""
    PARTIAL = "partial"
    """Some rows: the read was stopped, or it continued the read of an earlier run."""


class Progress:
    """Logs the progress of a read every few seconds."""

    def __init__(self, stream: CrmStream, rows: int, claimed: int | None) -> None:
        self._stream = stream
        self._begin = self._told = time.monotonic()
        self._before = rows
        self.claimed = claimed

    def tell(self, rows: int, *, end: bool = False) -> None:
        """Log a line if the last one is old enough; `rows` is the number read so far."""
        now = time.monotonic()
        if not end and now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        rate = (rows - self._before) / max(now - self._begin, 0.001)
        text = f"{rows:,} rows, {rate:,.0f} rows/s"
        if not end and self.claimed and self.claimed > rows:
            left = (self.claimed - rows) / rate if rate else 0
            text += f", {rows / self.claimed:.0%} of {self.claimed:,}"
            text += f", about {left:,.0f} s left" if rate else ""
        self._stream.log("%s%s", "read " if end else "", text)
