"""Spreads requests over the time, so that an hour has no more of them than the account may send."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence

HOUR, MINUTE = 3_600, 60
MINUTES = HOUR // MINUTE
FREE = 0.5
"""The share of an hour's calls that may be sent without a pause."""


class Budget:
    """The number of calls in any hour, at most.

    Half of them may be sent at any speed, so that a small load takes no longer. The others keep a
    distance with which they last until the first ones are an hour old. Reading never stops.

    All times are seconds of one clock that never goes back.

    Args:
        calls: the number of calls in an hour.
    """

    def __init__(self, calls: int) -> None:
        self._calls = calls
        self._minutes: deque[tuple[int, int]] = deque()
        self._next = 0.0
        self._others: list[tuple[int, int]] = []
        self._processes = 1

    def wait(self, now: float) -> float:
        """Return the seconds until the next call may be sent; at most 0 if that is now."""
        return self._next - now

    def spend(self, now: float) -> None:
        """Count a call."""
        minute = int(now // MINUTE)
        spent = self._minutes.pop()[1] if self._minutes and self._minutes[-1][0] == minute else 0
        self._minutes.append((minute, spent + 1))
        while self._minutes[0][0] < minute - MINUTES:
            self._minutes.popleft()
        self._next = now + self._distance(minute)

    def share(self, now: float, processes: int, others: Sequence[int]) -> None:
        """Share the calls with other processes.

        Args:
            now: the time.
            processes: their number, with this one.
            others: the others' calls in this minute, the one before it and so on.
        """
        minute = int(now // MINUTE)
        self._processes = processes
        self._others = [(minute - ago, calls) for ago, calls in enumerate(others) if calls]

    def _distance(self, minute: int) -> float:
        """Return the seconds between two calls from now on."""
        others = [item for item in self._others if item[0] >= minute - MINUTES]
        minutes = sorted([*self._minutes, *others])
        counting = sum(calls for _, calls in minutes)
        if counting < FREE * self._calls:
            return 0.0
        # With how many calls a minute from now on would an hour never have too many?
        # The oldest minute and this one are both counted whole, hence two more than an hour has.
        pace = self._calls / (MINUTES + 2)
        for begun, calls in minutes:
            # The calls of this minute, and all later ones, count until it is an hour old.
            pace = min(pace, (self._calls - counting) / (begun + MINUTES + 1 - minute))
            counting -= calls
        if pace > 0:
            return MINUTE / pace * self._processes
        return MINUTE * (minutes[0][0] + MINUTES + 1 - minute)
