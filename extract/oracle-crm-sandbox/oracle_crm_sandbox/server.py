"""The ASGI application and the HTTP server around it."""

from __future__ import annotations

import asyncio
import gzip
import itertools
import re
import socket
import struct
import time
from collections.abc import Sequence
from datetime import timedelta
from email.utils import format_datetime
from typing import Any, cast

import msgspec
import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from . import faults
from .control import PREFIX, Control
from .crm import Crm
from .journal import Journal
from .protocol import Answer, Request
from .rest import Credentials, Rest
from .traffic import Exchange, Traffic, kind_of

Scope = dict[str, Any]
CONNECTION = "sandbox.connection"
_WORTH_COMPRESSING = 500


class Connection:
    """A client's connection, which is counted once and can be broken."""

    _numbers = itertools.count(1)

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self.number = next(self._numbers)

    async def wait(self, seconds: float) -> bool:
        """Wait unless the client disconnects; return whether it is still connected."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0 and not self._transport.is_closing():
            await asyncio.sleep(min(left, 0.05))
        return not self._transport.is_closing()

    def close(self) -> None:
        """Close the connection after all written data is sent."""
        self._transport.close()

    async def reset(self) -> None:
        """Reset the connection, so that the client sees a reset and not an end."""
        linger_not = struct.pack("ii", 1, 0)
        sock = self._transport.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger_not)
        self._transport.abort()
        await asyncio.sleep(0)  # lets the server notice it before the request ends


class Sandbox:
    """The ASGI application: Oracle's protocol, and the control interface beside it."""

    def __init__(self, crm: Crm, credentials: Credentials, journal: Journal | None = None) -> None:
        self.crm = crm
        self.rest = Rest(crm, credentials)
        self.traffic = Traffic()
        self.control = Control(crm, self.rest, self.traffic, journal)

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        """Serve one HTTP request."""
        if scope["type"] != "http":
            return
        request = await _request(scope, receive)
        if request.path.startswith(PREFIX):
            status, body = self.control.handle(
                request.method,
                request.path.removeprefix(PREFIX),
                request.query_string,
                request.body,
            )
            await self._send(send, Answer(status, body, "application/json"))
            return
        connection = scope[CONNECTION]
        self.traffic.begin(connection.number)
        try:
            await self._serve(request, connection, send)
        finally:
            self.traffic.end()

    async def _serve(self, request: Request, connection: Connection, send: Any) -> None:
        begun = time.perf_counter()
        rules = faults.under_load(self.control.faults.fire(request), self.traffic.open)
        await asyncio.sleep(faults.delay(rules, _offset(request)))
        reset = next((rule for rule in rules if isinstance(rule, faults.Reset)), None)
        stall = next((rule for rule in rules if isinstance(rule, faults.Stall)), None)
        drip = next((rule for rule in rules if isinstance(rule, faults.Drip)), None)
        cut = next((rule for rule in rules if isinstance(rule, faults.Truncate)), None)
        silent = stall is not None and stall.at == "start"
        if stall and silent:
            await connection.wait(stall.seconds)
        if silent or (reset and reset.at == "start"):
            self.traffic.record(_exchange(request, None, begun))
            await connection.reset()
            return

        answer = faults.answer_instead(rules, self.crm.now()) or self._answer(request, rules)
        answer = self._run_hooks(request) or answer
        for rule in rules:
            if isinstance(rule, faults.InvalidJson):
                answer.body = answer.body[: int(len(answer.body) * rule.share)]
        _compress(request, answer)
        self.traffic.record(_exchange(request, answer, begun))
        if reset or stall:
            await self._send(send, answer, share=0.5)
            await connection.wait(stall.seconds if stall else 0)
            await connection.reset()
        elif drip:
            await self._send(send, answer, share=0)
            for byte in answer.body:
                if not await connection.wait(drip.ms / 1000):
                    break
                await send({"type": "http.response.body", "body": bytes([byte]), "more_body": True})
            await send({"type": "http.response.body"})
        elif cut:
            await self._send(send, answer, cut.share, chunked=cut.framing == "chunked")
            connection.close()
        else:
            await self._send(send, answer)

    def _answer(self, request: Request, rules: Sequence[faults.Rule]) -> Answer:
        if request.path == faults.LOGIN_PATH:
            return Answer(200, faults.LOGIN_PAGE, "text/html")
        return self.rest.answer(request, faults.shape_of(rules))

    def _run_hooks(self, request: Request) -> Answer | None:
        """Execute the commands that wait for this request; return the first error, if any."""
        for hook in self.control.hooks.fire(request):
            for command in hook.commands:
                body = msgspec.json.encode(command.body)
                status, error = self.control.handle(command.method, command.path, "", body)
                if status != 200:
                    return Answer(500, b"hook failed: " + error, "text/plain")
        return None

    async def _send(
        self, send: Any, answer: Answer, share: float = 1.0, *, chunked: bool = False
    ) -> None:
        """Send the answer, or only a part of its body."""
        headers = {"Content-Type": answer.content_type, **answer.headers}
        offset = self.rest.settings.date_offset_seconds
        if offset is not None:
            moment = self.crm.now() + timedelta(seconds=offset)
            headers["Date"] = format_datetime(moment, usegmt=True)
        if not chunked:
            headers["Content-Length"] = str(len(answer.body))
        await send(
            {
                "type": "http.response.start",
                "status": answer.status,
                "headers": [
                    (name.lower().encode(), value.encode("latin-1"))
                    for name, value in headers.items()
                ],
            }
        )
        part = answer.body[: int(len(answer.body) * share)]
        await send({"type": "http.response.body", "body": part, "more_body": share < 1})


async def _request(scope: Scope, receive: Any) -> Request:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return Request(
        scope["method"],
        scope["raw_path"].decode("latin-1"),
        scope["query_string"].decode("latin-1"),
        {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]},
        body,
    )


def _offset(request: Request) -> int:
    found = re.search(r"(?:^|&)offset=(\d{1,9})(?:&|$)", request.query_string)
    return int(found[1]) if found else 0


def _exchange(request: Request, answer: Answer | None, begun: float) -> Exchange:
    """Describe a request and its answer; None if the connection was cut."""
    return Exchange(
        kind_of(request.path),
        request.method,
        request.path,
        request.query_string,
        answer.status if answer else 0,
        answer.rows if answer else 0,
        len(answer.body) if answer else 0,
        answer is not None and "Content-Encoding" in answer.headers,
        (time.perf_counter() - begun) * 1000,
    )


def _compress(request: Request, answer: Answer) -> None:
    wanted = "gzip" in request.headers.get("accept-encoding", "")
    if not wanted or len(answer.body) < _WORTH_COMPRESSING:
        return
    answer.body = gzip.compress(answer.body, compresslevel=1, mtime=0)
    answer.headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}


class _Server(uvicorn.Server):
    """Prints its address when it listens."""

    def __init__(self, config: uvicorn.Config, credentials: Credentials) -> None:
        super().__init__(config)
        self._credentials = credentials

    async def startup(self, sockets: Any = None) -> None:
        """Bind, then print the address."""
        await super().startup(sockets=sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        print(
            f"CRM sandbox ready at {url}\n"
            f"  user {self._credentials.user}, token endpoint {url}/oauth2/v1/token\n"
            f"  control interface {url}{PREFIX}/",
            flush=True,
        )


def make_server(
    port: int,
    records: int,
    seed: int,
    credentials: Credentials,
    journal: Journal | None = None,
    commands: Sequence[tuple[str, str, Any]] = (),
) -> uvicorn.Server:
    """Return a server on 127.0.0.1, after the commands; port 0 is any free port."""
    crm, changes = journal.load(records, seed) if journal else (Crm(records, seed), [])
    application = Sandbox(crm, credentials, journal)
    application.control.replay(changes)
    for method, path, body in commands:
        application.control.command(method, path, "", body)

    class Protocol(HttpToolsProtocol):
        """Gives the connection to the application, which counts and breaks it."""

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            self.connection = Connection(transport)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            cast("Scope", self.scope)[CONNECTION] = self.connection

    config = uvicorn.Config(
        cast("Any", application),
        host="127.0.0.1",
        port=port,
        http=Protocol,
        lifespan="off",
        ws="none",
        access_log=False,
        log_level="critical",
        date_header=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=1,
    )
    return _Server(config, credentials)
