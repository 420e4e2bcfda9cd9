"""The HTTP server: what it takes from whoever connects, before anything is known of them.

uvicorn's parser has no limits of its own: it waits for ever for a header's end, and joins what
comes of it until memory is full.
"""

import asyncio
import resource
from math import inf
from typing import Any
from weakref import WeakKeyDictionary

from uvicorn._types import ASGI3Application
from uvicorn.protocols.http.httptools_impl import (
    STATUS_LINE,
    HttpToolsProtocol,
    RequestResponseCycle,
)
from uvicorn.server import ServerState

HEADER_BYTES = 32_768
HEADER_LINES = 100
HEADER_SECONDS = 10
# A client that takes nothing of its answer for so long has gone.
STALLED_SECONDS = 60
# So many connections may wait for a request to come; each more closes the one that waits longest.
WAITING = 500
# Requests that a client sends before it has the answer to its last one.
AHEAD = 8
DESCRIPTORS = 65_536


class Waiting:
    """Connections whose clients are to do something, those that wait longest first.

    `most` wait at once, in `seconds` something has to come of it.
    """

    def __init__(self, seconds: float, most: float) -> None:
        self._seconds, self._most = seconds, most
        self._since: dict[Protocol, tuple[float, int]] = {}
        self._timer: asyncio.TimerHandle | None = None

    def add(self, connection: "Protocol") -> None:
        """Give a connection its time, from now on."""
        self._since.pop(connection, None)
        self._since[connection] = connection.loop.time(), connection.unsent
        if len(self._since) > self._most:
            self._give_up(next(iter(self._since)))
        if self._timer is None:
            self._timer = connection.loop.call_later(1, self._sweep, connection.loop)

    def remove(self, connection: "Protocol") -> None:
        """Let a connection be: its client has done it, or it is closed."""
        self._since.pop(connection, None)

    def _give_up(self, connection: "Protocol") -> None:
        self.remove(connection)
        connection.drop()

    def _sweep(self, loop: asyncio.AbstractEventLoop) -> None:
        begun_by = loop.time() - self._seconds
        for connection, (since, unsent) in list(self._since.items()):
            if since > begun_by:
                break
            if connection.unsent < unsent:
                self.add(connection)  # its client still takes what it was sent
            else:
                self._give_up(connection)
        self._timer = loop.call_later(1, self._sweep, loop) if self._since else None


_waiting: WeakKeyDictionary[ServerState, tuple[Waiting, Waiting]] = WeakKeyDictionary()


class TooMuchError(Exception):
    """A header is too large, or too many requests come at once."""


class Protocol(HttpToolsProtocol):
    """uvicorn's protocol, with limits for all that is no body: in bytes, lines and seconds.

    For bodies `api.requests` has limits, since they depend on the route.
    """

    def __init__(self, config: Any, server_state: ServerState, *rest: Any, **named: Any) -> None:
        super().__init__(config, server_state, *rest, **named)
        if server_state not in _waiting:
            _waiting[server_state] = Waiting(HEADER_SECONDS, WAITING), Waiting(STALLED_SECONDS, inf)
        self._idle, self._stalled = _waiting[server_state]
        # Bytes of the present message that were no body: header, trailer, the frames of chunks.
        self._beside = 0
        self._at_work: RequestResponseCycle | None = None

    @property
    def unsent(self) -> int:
        """How many bytes of answers the client has yet to take."""
        return self.transport.get_write_buffer_size()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for the first request."""
        super().connection_made(transport)
        self._idle.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._idle.remove(self)
        self._stalled.remove(self)
        self._tell_of_the_end()
        super().connection_lost(exc)

    def drop(self) -> None:
        """Close at once, whatever is still to be sent."""
        self._tell_of_the_end()
        self.transport.abort()

    def _tell_of_the_end(self) -> None:
        # uvicorn tells the request that came last, which may wait for the one at work.
        self.pipeline.clear()
        if self._at_work is not None:
            self._at_work.disconnected = True
            self._at_work.message_event.set()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._at_work = cycle
        super()._start_asgi_task(cycle, app)

    def data_received(self, data: bytes) -> None:
        """Take what has come, unless it is too much."""
        self._beside += len(data)
        super().data_received(data)
        if self._beside > HEADER_BYTES and not self.transport.is_closing():
            self.send_400_response("The header is too large.")

    def on_headers_complete(self) -> None:
        """Begin to serve a request."""
        size = len(self.url) + sum(len(name) + len(value) for name, value in self.headers)
        if size > HEADER_BYTES or len(self.headers) > HEADER_LINES or len(self.pipeline) >= AHEAD:
            raise TooMuchError
        self._idle.remove(self)
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Take a part of a body."""
        self._beside -= len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        """Begin to count anew."""
        self._beside = 0
        super().on_message_complete()

    def on_response_complete(self) -> None:
        """Wait for the next request, or for the client to take the rest of the last answer."""
        super().on_response_complete()
        if self.timeout_keep_alive_task is not None or self.transport.is_closing():
            self._idle.add(self)

    def pause_writing(self) -> None:
        """Wait for the client to take what it was sent."""
        super().pause_writing()
        self._stalled.add(self)

    def resume_writing(self) -> None:
        """Go on with the answer."""
        self._stalled.remove(self)
        super().resume_writing()

    def send_400_response(self, msg: str) -> None:
        """Refuse what can't be served, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.drop()  # an answer is on its way, into which no other one may come
        elif self._beside > HEADER_BYTES or len(self.headers or ()) > HEADER_LINES:
            self.transport.write(
                STATUS_LINE[431] + b"content-length: 0\r\nconnection: close\r\n\r\n"
            )
            self.transport.close()
        else:
            super().send_400_response(msg)


OPTIONS: dict[str, Any] = {
    "http": Protocol,
    "ws": "none",
    "access_log": False,  # api.requests writes one
    "server_header": False,
    "timeout_graceful_shutdown": 5,  # who follows a sync may not hold up a restart
}
"""How uvicorn is to serve the application, wherever."""


def raise_descriptor_limit() -> None:
    """Let the process have as many connections open as it is allowed to: shells give it 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = DESCRIPTORS if hard == resource.RLIM_INFINITY else min(DESCRIPTORS, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
