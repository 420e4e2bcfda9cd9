"""The ASGI application and the HTTP server around it."""

from __future__ import annotations

import gzip
import time
from email.utils import format_datetime
from typing import Any, cast

import uvicorn
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from .control import PREFIX, Control
from .crm import Crm
from .rest import Answer, Credentials, Request, Rest
from .traffic import Exchange, Traffic, kind_of

Scope = dict[str, Any]
_WORTH_COMPRESSING = 500


class Sandbox:
    """The ASGI application: Oracle's protocol, and the control interface beside it."""

    def __init__(self, crm: Crm, credentials: Credentials) -> None:
        self.crm = crm
        self.rest = Rest(crm, credentials)
        self.traffic = Traffic()
        self.control = Control(crm, self.rest, self.traffic)

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
        self.traffic.begin()
        try:
            await self._serve(request, send)
        finally:
            self.traffic.end()

    async def _serve(self, request: Request, send: Any) -> None:
        begun = time.perf_counter()
        answer = self.rest.answer(request)
        zipped = _compress(request, answer)
        self.traffic.record(
            Exchange(
                kind_of(request.path),
                request.method,
                request.path,
                request.query_string,
                answer.status,
                answer.rows,
                len(answer.body),
                zipped,
                (time.perf_counter() - begun) * 1000,
            )
        )
        await self._send(send, answer)

    async def _send(self, send: Any, answer: Answer) -> None:
        headers = {
            "Date": format_datetime(self.crm.now(), usegmt=True),
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            **answer.headers,
        }
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
        await send({"type": "http.response.body", "body": answer.body})


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


def _compress(request: Request, answer: Answer) -> bool:
    wanted = "gzip" in request.headers.get("accept-encoding", "")
    if not wanted or len(answer.body) < _WORTH_COMPRESSING:
        return False
    answer.body = gzip.compress(answer.body, compresslevel=1, mtime=0)
    answer.headers |= {"Content-Encoding": "gzip", "Vary": "Accept-Encoding"}
    return True


class _Server(uvicorn.Server):
    """Says where it listens once it does."""

    def __init__(self, config: uvicorn.Config, credentials: Credentials) -> None:
        super().__init__(config)
        self._credentials = credentials

    async def startup(self, sockets: Any = None) -> None:
        """Bind, then announce the address."""
        await super().startup(sockets=sockets)
        port = self.servers[0].sockets[0].getsockname()[1]
        url = f"http://127.0.0.1:{port}"
        print(
            f"CRM sandbox ready at {url}\n"
            f"  user {self._credentials.user}, token endpoint {url}/oauth2/v1/token\n"
            f"  control interface {url}{PREFIX}/",
            flush=True,
        )


def make_server(port: int, records: int, seed: int, credentials: Credentials) -> uvicorn.Server:
    """Make a server on 127.0.0.1; port 0 is any free one."""
    application = Sandbox(Crm(records, seed), credentials)

    class Protocol(HttpToolsProtocol):
        """Counts connections and hands the transport to the application."""

        def connection_made(self, transport: Any) -> None:
            application.traffic.connections += 1
            super().connection_made(transport)

        def on_message_begin(self) -> None:
            super().on_message_begin()
            cast("Scope", self.scope)["sandbox.transport"] = self.transport

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
    )
    return _Server(config, credentials)
