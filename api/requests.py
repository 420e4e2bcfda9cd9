"""Every request gets an id, limits, security headers and a line in the log."""

import asyncio
import logging
import re
import time
import uuid
from contextvars import ContextVar

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics
from api.problems import ProblemError, problem

log = logging.getLogger("api.requests")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)

TIME_LIMIT_SECONDS = 60
SIZE_LIMIT_BYTES = 1_000_000
HEADERS = {
    b"x-content-type-options": b"nosniff",
    b"x-frame-options": b"DENY",
    b"referrer-policy": b"same-origin",
    b"cross-origin-opener-policy": b"same-origin",
    b"cross-origin-resource-policy": b"same-origin",
    b"permissions-policy": b"camera=(), geolocation=(), microphone=()",
    # A page brings its own; anything else is no page.
    b"content-security-policy": b"default-src 'none'; frame-ancestors 'none'; sandbox",
    b"cache-control": b"no-store",
}
HTTPS_HEADERS = {b"strict-transport-security": b"max-age=31536000"}
_GIVEN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


class RequestMiddleware:
    """Wrap the application, outermost."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        given = Headers(scope=scope).get("x-request-id", "")
        own_id = given if _GIVEN_ID.fullmatch(given) else uuid.uuid4().hex
        request_id.set(own_id)
        own_headers = HEADERS | (HTTPS_HEADERS if scope["scheme"] == "https" else {})
        started = time.perf_counter()
        status = 0
        received = 0

        async def receive_at_most() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > SIZE_LIMIT_BYTES:
                raise ProblemError(413, f"A request may have {SIZE_LIMIT_BYTES} bytes at most.")
            return message

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                if not limit.expired():
                    limit.reschedule(None)  # a long answer may take its time
                headers = list(message.get("headers", []))
                set_by_app = {name.lower() for name, _ in headers}
                headers += [item for item in own_headers.items() if item[0] not in set_by_app]
                headers.append((b"x-request-id", own_id.encode()))
                message["headers"] = headers
            await send(message)

        try:
            async with asyncio.timeout(TIME_LIMIT_SECONDS) as limit:
                try:
                    await self.app(scope, receive_at_most, send_with_headers)
                except Exception as error:
                    log.exception("failed", exc_info=error)
                    if status:
                        raise  # too late for another answer: the server closes the connection
                    detail = "Something went wrong. The log has it under the request's id."
                    await problem(500, detail)(scope, receive, send_with_headers)
        except TimeoutError:
            if status:
                raise
            given_up = problem(503, "This took too long and was given up.")
            await given_up(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path_format", "")
            metrics.REQUESTS.labels(scope["method"], route, status).observe(seconds)
            user = scope.get("state", {}).get("user")
            log.info(
                "request",
                extra={
                    "method": scope["method"],
                    "path": scope["path"],
                    "status": status,
                    "milliseconds": round(seconds * 1000, 1),
                    "client": (scope.get("client") or [None])[0],
                    "user": getattr(user, "name", None),
                },
            )
