"""Limits the number of concurrent requests."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from tap_oracle_crm.errors import StoppedError


class Gate:
    """Allows as many concurrent requests as the server can serve.

    Throttling halves the limit; each round of answers raises it by one. If the server asks to
    wait, all requests wait.
    """

    def __init__(self, most: int, stopping: threading.Event) -> None:
        self.most = most
        self.allowed = float(most)
        self._stopping = stopping
        self._busy = 0
        self._not_before = 0.0
        self._changed = threading.Condition()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a turn.

        Raises:
            StoppedError: reading was told to stop meanwhile.
        """
        with self._changed:
            while True:
                if self._stopping.is_set():
                    raise StoppedError
                pause = self._not_before - time.monotonic()
                if pause <= 0 and self._busy < int(self.allowed):
                    break
                self._changed.wait(min(0.2, pause) if pause > 0 else 0.2)
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify()

    def answered(self) -> None:
        """Count a good answer."""
        with self._changed:
            self.allowed = min(float(self.most), self.allowed + 1 / self.allowed)
            self._changed.notify()

    def throttled(self, pause: float) -> None:
        """Halve the limit: the server is overloaded and asks to wait `pause` seconds."""
        with self._changed:
            self.allowed = max(1.0, self.allowed / 2)
            self._not_before = max(self._not_before, time.monotonic() + pause)
