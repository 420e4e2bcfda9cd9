"""Limits the number of concurrent requests, and finds how many the server serves well.

The number grows by one with each round of answers, while they come as fast as with fewer requests.
It falls at once if the server throttles, or if the answers take longer: as in TCP Vegas and in the
limiters of Netflix's concurrency-limits, by as much as they take longer. The number that the
server refused is tried again later, each time after a longer while.
"""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from tap_oracle_crm.budget import Budget
from tap_oracle_crm.errors import StoppedError
from tap_oracle_crm.sharing import WORTH_SHARING, Shared, Sharing

log = logging.getLogger("tap-oracle-crm")

START = 4
"""The number of requests at once of a run that knows nothing yet."""
SLOWER = 1.5
"""Answers that take so many times as long as with fewer requests mean that the server is busy."""
SMALLEST_ROUND = 3
"""The number of answers, at least, that are taken together."""
FIRST_HOLD, LONGEST_HOLD = 30.0, 1_800.0
"""Seconds until a number that the server refused is tried again."""


@dataclass
class Turn:
    """A request on its way.

    Attributes:
        at_once: the number of requests under way when it began or ended, with this one.
        begun: when it began, on the monotonic clock.
        lowered: how often the number had been lowered by then.
    """

    at_once: int
    begun: float
    lowered: int


@dataclass
class _Pace:
    """How long the requests of one kind take, in seconds."""

    best: float = math.inf
    last: list[float] = field(default_factory=list)


class Gate:
    """Allows as many concurrent requests as the server serves well.

    If the server asks to wait, all requests wait.

    Args:
        most: the largest number of requests at once.
        stopping: is set when reading must end.
        budget: spreads the requests over the time.
        sharing: exchanges with the other processes that read with the same account.
        clock: the time in seconds, by default the monotonic clock's.

    Attributes:
        allowed: the present number of requests at once.
    """

    def __init__(
        self,
        most: int,
        stopping: threading.Event,
        budget: Budget | None = None,
        sharing: Sharing | None = None,
        clock: Callable[[], float] | None = None,
    ) -> None:
        self.most = most
        self.allowed = min(START, most)
        self._budget = budget
        self._sharing, self._shares = sharing, False
        self._calls = 0
        self._processes = 1
        self._is_spread = False
        self._stopping = stopping
        self._clock = clock or time.monotonic
        self._busy = self._most_busy = 0
        self._not_before = 0.0
        self._paces: defaultdict[Hashable, _Pace] = defaultdict(_Pace)
        self._proven = 0  # with so many at once, a whole round was answered
        self._refused: int | None = None  # so many were too many
        self._hold, self._held_until = FIRST_HOLD, 0.0
        self._lowered = 0
        self._cut: tuple[Hashable, float, float] | None = None
        self._slow_at: int | None = None
        self._seconds: float | None = None
        self._changed = threading.Condition()

    @contextmanager
    def slot(self) -> Iterator[Turn]:
        """Wait for a turn.

        Raises:
            StoppedError: reading was told to stop meanwhile.
        """
        with self._changed:
            while True:
                if self._stopping.is_set():
                    raise StoppedError
                pause = self._not_before - self._clock()
                if pause <= 0 and self._busy < self.allowed:
                    pause = self._budget.wait(self._clock()) if self._budget else 0.0
                    if pause <= 0:
                        break
                    self._tell_of_budget()
                self._changed.wait(min(0.2, pause) if pause > 0 else 0.2)
            self._busy += 1
            self._most_busy = max(self._most_busy, self._busy)
            if self._budget:
                self._budget.spend(self._clock())
            self._calls += 1
            if self._sharing and not self._shares and self._calls >= WORTH_SHARING:
                self._shares = True
                self._sharing.start(self._tell, self._learn)
            turn = Turn(self._busy, self._clock(), self._lowered)
        try:
            yield turn
        finally:
            with self._changed:
                # They may reach the server in another order than they began.
                turn.at_once = max(turn.at_once, self._busy)
                self._busy -= 1
                self._changed.notify_all()

    def _tell_of_budget(self) -> None:
        if not self._is_spread:
            self._is_spread = True
            log.info(
                "Half of the calls that an hour may have are sent: the others are spread over the "
                "time (setting calls_per_hour)"
            )

    def close(self) -> None:
        """Tell other processes no more."""
        if self._sharing:
            self._sharing.close()

    # Other processes

    def _tell(self) -> tuple[int, int | None]:
        """Return the calls since the last time, and how many at once the server serves to all."""
        with self._changed:
            calls, self._calls = self._calls, 0
            is_known = self._refused is not None and self._clock() < self._held_until
            return calls, self.allowed * self._processes if is_known else None

    def _learn(self, shared: Shared) -> None:
        """Take only a part of what the server serves if there are other processes."""
        with self._changed:
            now = self._clock()
            if self._budget:
                self._budget.share(now, shared.processes, shared.others)
            self._processes = max(1, shared.processes)
            if shared.found and not self._refused:
                # Another process was refused more.
                self._refused = max(2, shared.found // self._processes + 1)
                self._held_until = now + self._hold
            if self.allowed > self._bound():
                self._lower(self._bound())

    # What came of a request

    def answered(self, turn: Turn, kind: Hashable) -> None:
        """Count a good answer; a kind of requests always asks for about as many rows."""
        with self._changed:
            if turn.lowered < self._lowered:
                return  # it says nothing about the present number
            pace = self._paces[kind]
            pace.last.append(self._clock() - turn.begun)
            if len(pace.last) >= max(SMALLEST_ROUND, self.allowed):
                # The fast ones: a busy machine delays some answers, a busy server all of them.
                self._judge(kind, pace, sorted(pace.last)[len(pace.last) // 4])

    def throttled(self, turn: Turn, wait: float = 0.0) -> bool:
        """Lower the number: the server refused a request, and asks to wait so many seconds.

        Returns:
            whether the request was one more than the number that the server had served before.
        """
        with self._changed:
            now = self._clock()
            self._not_before = max(self._not_before, now + wait)
            if turn.lowered < self._lowered:
                return turn.at_once > self.allowed
            # If it was the only one, their number was not the reason.
            self._refused = turn.at_once if turn.at_once > 1 else None
            is_one_too_many = 0 < self._proven < turn.at_once
            self._lower(self._proven if is_one_too_many else self.allowed // 2)
            self._held_until = max(now, self._not_before) + self._hold
            self._hold = min(self._hold * 2, LONGEST_HOLD)
            return is_one_too_many

    def timed_out(self, turn: Turn) -> None:
        """Halve the number: the server took too long."""
        with self._changed:
            if turn.lowered == self._lowered:
                self._slow_at = self.allowed
                self._lower(self.allowed // 2)

    def __str__(self) -> str:
        """Say what was found."""
        with self._changed:
            text = f"{self.allowed} request{'s' if self.allowed > 1 else ''} at once"
            if self._seconds is not None:
                text += f", {self._seconds:.2f} s each"
            if self._refused:
                text += f"; the CRM throttled at {self._refused}"
            if self._slow_at:
                text += f"; the CRM slowed down at {self._slow_at}"
            return text

    # The number of requests

    def _judge(self, kind: Hashable, pace: _Pace, seconds: float) -> None:
        """Change the number after a round of answers."""
        was_full, self._most_busy = self._most_busy >= self.allowed, self._busy
        pace.last.clear()
        self._seconds = seconds
        if self._cut and self._cut[0] == kind:
            _, before, share = self._cut
            self._cut = None
            if seconds > before * (1 + share) / 2:
                # Fewer requests are no faster: the server is slower for another reason.
                pace.best = seconds
        pace.best = min(pace.best, seconds)
        slower = seconds / pace.best
        if slower > SLOWER and self.allowed > 1:
            number = max(1, int(self.allowed * SLOWER / slower))
            self._slow_at = self.allowed
            self._cut = (kind, seconds, number / self.allowed)
            self._lower(number)
        elif slower > SLOWER:
            pace.best = seconds  # one request at a time: nobody else makes it slow
        elif was_full:
            self._proven = max(self._proven, self.allowed)
            if self._refused and self.allowed >= self._refused:
                self._refused, self._hold = None, FIRST_HOLD
            self._raise()

    def _bound(self) -> int:
        """Return how many requests at once may be tried now."""
        most = max(1, self.most // self._processes)
        if self._refused and self._clock() < self._held_until:
            most = min(most, self._refused - 1)
        return most

    def _raise(self) -> None:
        if self.allowed < self._bound():
            self.allowed += 1
            self._changed.notify_all()

    def _lower(self, number: int) -> None:
        self.allowed = max(1, number)
        self._proven = min(self._proven, self.allowed)
        self._lowered += 1
        for pace in self._paces.values():
            pace.last.clear()
