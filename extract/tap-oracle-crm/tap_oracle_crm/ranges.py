"""Divides a table by key among the workers that read it, and remembers the ranges left to read.

Keys are immutable and unique. So a range of keys, read in ascending order, neither repeats nor
skips a row, even if rows change meanwhile. A worker that has finished takes over the second half
of the largest range that another one reads. The distribution of keys is estimated from a sample
and from the rows read so far: keys cluster, and half of a range may hold no rows at all.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

WORTH_SPLITTING = 3
"""A range is split only if it still holds so many pages."""


@dataclass(eq=False)
class KeyRange:
    """The rows with `written` < key <= `high` (None: no bound) that are still to be emitted.

    Attributes:
        written: all rows up to this key have been emitted.
        high: the last key that may belong to the range.
        fetched: all rows up to this key have been received.
        begin: the first key that was received.
        rows: how many rows were received.
        exhausted: all rows of the range have been received.
        taken: a worker reads it.
    """

    written: int | None
    high: int | None
    fetched: int | None = None
    begin: int | None = None
    rows: int = 0
    exhausted: bool = False
    taken: bool = False

    def __post_init__(self) -> None:
        self.fetched = self.written


Bounds = tuple[int | None, int | None]


@dataclass
class RangePlan:
    """The ranges of one scan, shared by the workers that fetch and the thread that emits.

    Args:
        bounds: (exclusive low, inclusive high) of each range at the start.
        sample: keys of some rows of the table; without a sample, ranges are halved by number.
        page_size: the expected number of rows of a page.
    """

    bounds: Sequence[Bounds]
    sample: Sequence[int] = ()
    page_size: int = 499
    _ranges: list[KeyRange] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._ranges = [KeyRange(low, high) for low, high in self.bounds]
        self._sample = sorted(set(self.sample))
        self._largest = max([*self._sample, *(high or 0 for _, high in self.bounds)], default=0)
        self._pages = 0
        self._splits = 0
        self._stopped = False
        self._changed = threading.Condition()

    @staticmethod
    def partition(sample: Sequence[int], parts: int) -> list[Bounds]:
        """Cut all keys into ranges with about the same number of keys from the sample."""
        keys = sorted(set(sample))
        parts = max(1, min(parts, len(keys)))
        cuts = sorted({keys[len(keys) * part // parts] for part in range(1, parts)})
        return list(zip([None, *cuts], [*cuts, None], strict=True))

    def largest_known(self, key: int) -> None:
        """Set a key that the table holds; it limits the estimates for open ranges."""
        with self._changed:
            self._largest = max(self._largest, key)

    # Workers

    def take(self, *, wait: bool = True) -> KeyRange | None:
        """Return a range to read, or None if all have been read.

        Waits, unless `wait` is false, while all ranges are being read and none is worth a split.
        """
        with self._changed:
            while not self._stopped:
                unread = [item for item in self._ranges if not item.exhausted]
                if not unread:
                    return None
                free = next((item for item in unread if not item.taken), None) or self._split()
                if free:
                    free.taken = True
                    return free
                if not wait:
                    return None
                self._changed.wait()
            return None

    def bounds_of(self, item: KeyRange) -> Bounds:
        """Return the bounds of the part of a range that has not been fetched yet."""
        with self._changed:
            return item.fetched, item.high

    def receive(self, item: KeyRange, keys: Sequence[int | None], *, complete: bool) -> Bounds:
        """Record a received page; return the bounds within which its rows count.

        Args:
            item: the range of the page.
            keys: the key of each row, in ascending order; None for a row without one.
            complete: the server has no more rows.
        """
        known = [key for key in keys if key is not None]
        with self._changed:
            low, high = item.fetched, item.high
            if known:
                item.fetched = known[-1] if high is None else min(known[-1], high)
                if item.begin is None:
                    item.begin = known[0]
                self._largest = max(self._largest, known[-1])
            item.rows += len(keys)
            self._pages += 1
            item.exhausted = complete or (
                high is not None and item.fetched is not None and item.fetched >= high
            )
            self._changed.notify_all()
            return low, high

    def stop(self) -> None:
        """End all waiting for ranges."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    # The thread that emits

    def wrote(self, item: KeyRange, upto: int | None, *, last_page: bool) -> None:
        """Record that a page's rows, up to a key, have been emitted."""
        with self._changed:
            if upto is not None:
                item.written = upto
            if last_page:
                self._ranges.remove(item)

    def remaining(self) -> list[Bounds]:
        """Return the bounds of all ranges that have not been emitted yet."""
        with self._changed:
            return [(item.written, item.high) for item in self._ranges]

    # Splitting

    def _split(self) -> KeyRange | None:
        # Each split costs one page that is not full, so at most one page in twenty may be one.
        if self._splits >= 4 + self._pages // 20:
            return None
        best, best_rows, best_cut = None, 0.0, 0
        for item in self._ranges:
            if not item.exhausted:
                rows, cut = self._second_half(item)
                if rows > best_rows:
                    best, best_rows, best_cut = item, rows, cut
        if best is None or best_rows < WORTH_SPLITTING * self.page_size:
            return None
        self._splits += 1
        other = KeyRange(best_cut, best.high)
        best.high = best_cut
        self._ranges.append(other)
        return other

    def _second_half(self, item: KeyRange) -> tuple[float, int]:
        """Estimate how many rows a range still holds, and the key in their middle."""
        low, begin, high = item.fetched, item.begin, item.high
        if low is None or begin is None:
            return 0.0, 0  # nothing is known before its first page
        if high is None:
            high = self._largest
        if high - low < 2 or low <= begin:
            return 0.0, 0
        first, last = bisect_right(self._sample, low), bisect_right(self._sample, high)
        middle = self._sample[(first + last) // 2 - 1] if last - first >= 2 else (low + high) // 2
        rows = item.rows / (low - begin) * (high - low)
        return (rows, middle) if low < middle < high else (0.0, 0)
