"""HTTP connections with one time limit for the whole answer, headers included.

The time-outs of sockets, and so those of requests, start again with every byte that arrives.
"""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from http.client import HTTPResponse
from typing import Any, cast

from requests.adapters import HTTPAdapter

_answer = threading.local()


@contextmanager
def answer_within(seconds: float) -> Iterator[None]:
    """Let all reads of this thread through a `DeadlineAdapter` time out after so many seconds."""
    _answer.end = time.monotonic() + seconds
    try:
        yield
    finally:
        del _answer.end


class _Stream(io.RawIOBase):
    """Reads from a socket until the deadline."""

    def __init__(self, sock: Any, stream: io.RawIOBase) -> None:
        self._sock, self._stream = sock, stream

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left: float = _answer.end - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._sock.settimeout(left)
        return cast("int | None", self._stream.readinto(buffer))

    def close(self) -> None:
        self._stream.close()
        super().close()


class _Response(HTTPResponse):
    def __init__(self, sock: Any, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp = io.BufferedReader(_Stream(sock, self.fp.detach()))


@cache
def _bounded(pool: Any) -> Any:
    """Return this class of pools, with connections that read until the deadline."""
    if issubclass(pool.ConnectionCls.response_class, _Response):
        return pool
    name = pool.ConnectionCls.__name__
    connection = type(f"Deadline{name}", (pool.ConnectionCls,), {"response_class": _Response})
    return type(f"Deadline{pool.__name__}", (pool,), {"ConnectionCls": connection})


class DeadlineAdapter(HTTPAdapter):
    """An adapter of requests for use within `answer_within`."""

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        """Make the pools of direct connections."""
        super().init_poolmanager(*args, **kwargs)
        self._bound(self.poolmanager)

    def proxy_manager_for(self, *args: Any, **kwargs: Any) -> Any:
        """Make the pools of connections through a proxy."""
        manager = super().proxy_manager_for(*args, **kwargs)
        self._bound(manager)
        return manager

    @staticmethod
    def _bound(manager: Any) -> None:
        manager.pool_classes_by_scheme = {
            scheme: _bounded(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
        }
