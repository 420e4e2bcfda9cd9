"""Whoever connects and sends nothing, too much or too slowly is in nobody's way."""

import asyncio
import logging
import socket
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, closing, suppress

import httpx
import pytest
from fastapi import FastAPI
from fastapi.responses import StreamingResponse
from pydantic import SecretStr

from api import requests, server
from api.requests import RequestMiddleware
from database.settings import Settings
from tests.api.conftest import Caller, DefaultSettings, running
from tests.conftest import wait_until

SLOW = "POST {} HTTP/1.1\r\nHost: a\r\nContent-Length: 100\r\nX-Webhook-Signature: x\r\n\r\n"


@pytest.fixture
def settings() -> Settings:
    """Two connections to the database: what holds one is soon noticed."""
    return DefaultSettings(
        oracle_webhook_secret=SecretStr("a secret"), api_pool_size=2, api_pool_timeout=1
    )


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Limits that a test reaches soon."""
    monkeypatch.setattr(server, "HEADER_SECONDS", 1)
    monkeypatch.setattr(server, "WAITING", 50)
    monkeypatch.setattr(requests, "BODY_SECONDS", 1)


@pytest.fixture
def stranger(limits: None, caller: Caller) -> Iterator[Callable[[bytes], socket.socket]]:
    """Opens connections to the API, each with the first bytes that it sends."""
    address = caller.base_url.host, caller.base_url.port or 0
    with ExitStack() as opened:

        def connect(first: bytes) -> socket.socket:
            connection = opened.enter_context(closing(socket.create_connection(address, 10)))
            connection.sendall(first)
            return connection

        yield connect


def answer(connection: socket.socket) -> bytes:
    """Return all that comes until the server closes."""
    parts = []
    with suppress(ConnectionResetError):
        while part := connection.recv(65_536):
            parts.append(part)
    return b"".join(parts)


@pytest.mark.parametrize("path", ["/api/webhooks/oracle", "/score", "/api/session", "/sign-in"])
def test_a_body_that_does_not_come_holds_no_connection(
    caller: Caller,
    stranger: Callable[[bytes], socket.socket],
    path: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Longer than the API waits for a connection of its pool, which would be the answer then.
    monkeypatch.setattr(requests, "BODY_SECONDS", 3)
    waiting = [stranger(SLOW.format(path).encode()) for _ in range(10)]
    assert caller.get("/health/ready").status_code == 200
    assert caller.get("/api/opportunities").status_code == 200
    for connection in waiting:
        assert answer(connection).startswith(b"HTTP/1.1 408 ")


@pytest.mark.parametrize(
    ("path", "most"), [("/api/session", 4096), ("/sign-in", 4096), ("/api/users", 131_072)]
)
@pytest.mark.parametrize("chunked", [True, False])
def test_how_large_a_body_may_be(caller: Caller, path: str, most: int, chunked: bool) -> None:
    for size, fits in ((most, True), (most + 1, False)):
        body = b" " * size
        given = caller.post(path, content=iter([body]) if chunked else body)
        assert (given.status_code != 413) == fits, given.text


@pytest.mark.parametrize(
    "first",
    [
        b"",
        b"GET /x",
        b"GET /health/live HTTP/1.1\r\nHost: a\r\nX-Slow: ",
        b"GET /health/live HTTP/1.1\r\nHost: a\r\n\r\nGET /",
    ],
)
def test_a_header_that_does_not_come_ends_the_connection(
    stranger: Callable[[bytes], socket.socket], first: bytes
) -> None:
    connection = stranger(first)
    for _ in range(2):
        time.sleep(0.6)
        try:
            connection.sendall(b"a" if first else b"")
        except OSError:
            break
    assert b" 200 OK" in (given := answer(connection)) or not given


def test_who_waits_longest_makes_room(
    caller: Caller, stranger: Callable[[bytes], socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server, "HEADER_SECONDS", 600)
    half_open = [stranger(b"GET / ") for _ in range(120)]
    assert httpx.get(f"{caller.base_url}/health/live").status_code == 200
    for connection in half_open[:60]:
        assert answer(connection) == b""


LINE = b"GET /health/live HTTP/1.1\r\nHost: a\r\n"


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (LINE + b"X-Long: ", b"a" * 8192),
        (LINE, b"X-Many: a\r\n" * 1000),
        (b"GET /", b"a" * 8192),
        (LINE + b"Transfer-Encoding: chunked\r\n\r\n5;", b"a" * 8192),
        (LINE + b"Transfer-Encoding: chunked\r\n\r\n0\r\n", b"X-Trailer: a\r\n" * 1000),
    ],
    ids=["value", "lines", "address", "extension", "trailer"],
)
def test_what_is_sent_beside_the_body_has_an_end(
    stranger: Callable[[bytes], socket.socket], first: bytes, more: bytes
) -> None:
    connection = stranger(first)
    sent = 0
    with suppress(ConnectionError):
        while sent < 50_000_000:
            connection.sendall(more)
            sent += len(more)
    assert sent < 10_000_000


def test_a_header_that_is_too_large_is_named(caller: Caller) -> None:
    for headers in ({"X-Large": "a" * 40_000}, {f"X-{n}": "a" for n in range(200)}):
        assert caller.get("/health/live", headers=headers).status_code == 431
    large = {f"X-{number}": "a" * 350 for number in range(80)}
    assert caller.get("/health/live", headers=large).status_code == 200


def test_requests_sent_ahead_are_few(
    caller: Caller, stranger: Callable[[bytes], socket.socket]
) -> None:
    connection = stranger(b"GET /health/ready HTTP/1.1\r\nHost: a\r\n\r\n" * 1000)
    assert answer(connection).count(b"HTTP/1.1 200") <= server.AHEAD + 1
    assert caller.get("/health/ready").status_code == 200


def test_who_takes_nothing_of_an_answer_is_left(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(server, "STALLED_SECONDS", 1)
    caplog.set_level(logging.INFO, "api.requests")
    app = FastAPI()
    app.add_middleware(RequestMiddleware)

    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield bytes(65_536)
            await asyncio.sleep(0)

    @app.get("/endless")
    async def answer_for_ever() -> StreamingResponse:
        return StreamingResponse(endless())

    with running(app) as address, closing(socket.socket()) as connection:
        connection.connect(("127.0.0.1", int(address.rsplit(":", 1)[1])))
        connection.sendall(b"GET /endless HTTP/1.1\r\nHost: a\r\n\r\n" * 3)
        wait_until(lambda: "request" in caplog.messages, 30)
        assert caplog.messages.count("request") == 1
    assert not [record for record in caplog.records if record.exc_info]
