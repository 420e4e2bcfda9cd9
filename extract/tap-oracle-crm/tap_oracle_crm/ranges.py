"""Divides a table by key among the workers that read it, and knows what is still to be read.

Keys are immutable and unique, so a range of keys read in ascending order neither repeats nor
skips a row, whatever else changes. Whoever has nothing left to read takes over the second half
of the largest range under way. How keys lie is learnt from a sample of real keys and from what
has been read: they cluster, and half the numbers between two keys may hold none of the rows.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field

WORTH_SPLITTING = 3
"""Pages that a range must still hold for half of it to be worth a request of its own."""


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
        taken: somebody reads it.
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
        sample: keys of some rows of the table; without them ranges are halved by number.
        page_size: rows that a page is expected to hold.
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
        """Cut all keys into ranges that hold about as many of the sample each."""
        keys = sorted(set(sample))
        parts = max(1, min(parts, len(keys)))
        cuts = sorted({keys[len(keys) * part // parts] for part in range(1, parts)})
        return list(zip([None, *cuts], [*cuts, None], strict=True))

    def largest_known(self, key: int) -> None:
        """Tell of a key that the table holds; it bounds the guesses on open ranges."""
        with self._changed:
            self._largest = max(self._largest, key)

    # Workers

    def take(self, *, wait: bool = True) -> KeyRange | None:
        """Return a range to read, or None when nothing is left to begin with.

        Waits, unless told not to, while all are being read and none is worth splitting yet.
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
        """Return the bounds of what is still to be fetched of a range."""
        with self._changed:
            return item.fetched, item.high

    def receive(self, item: KeyRange, keys: Sequence[int | None], *, complete: bool) -> Bounds:
        """Note a page and return the bounds that its rows must lie within to count.

        Args:
            item: the range that it belongs to.
            keys: the key of each of its rows, in ascending order; None where a row has none.
            complete: the server has nothing more.
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
        """Let nobody wait for a range any longer."""
        with self._changed:
            self._stopped = True
            self._changed.notify_all()

    # The thread that emits

    def wrote(self, item: KeyRange, upto: int | None, *, last_page: bool) -> None:
        """Note that a page's rows, up to a key, have been emitted."""
        with self._changed:
            if upto is not None:
                item.written = upto
            if last_page:
                self._ranges.remove(item)

    def remaining(self) -> list[Bounds]:
        """Return the bounds of all that has not been emitted yet."""
        with self._changed:
            return [(item.written, item.high) for item in self._ranges]

    # Splitting

    def _split(self) -> KeyRange | None:
        # Each range costs one page that is not full, so their number is kept to a twentieth.
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
        """Guess how many rows a range still holds, and the key in their middle."""
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
