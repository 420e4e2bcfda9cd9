"""Every request gets an id, limits, security headers and a line in the log."""

import asyncio
import logging
import re
import time
import uuid
from contextvars import ContextVar
from http import HTTPStatus

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from api import metrics
from api.addresses import split
from api.limits import Limits
from api.problems import ProblemError, problem
from api.public import PublicAddress

log = logging.getLogger("api.requests")

request_id: ContextVar[str | None] = ContextVar("request_id", default=None)
client_address: ContextVar[str | None] = ContextVar("client_address", default=None)

TIME_LIMIT_SECONDS = 60
BODY_SECONDS = 10
# A comment of 10,000 characters fits, whichever they are and however they are encoded.
BODY_BYTES = 131_072
BODY_BYTES_OF = (
    # Open to strangers, for a name and a password.
    (re.compile("/sign-in|/set-password|/api/session|/account/password|/api/password"), 4_096),
    # A comment on each criterion.
    (
        re.compile(
            "/assessments/[0-9]+/score|/api/assessments/[0-9]+"
            "|/opportunities/[0-9]+/assessments/[0-9]+"
        ),
        10**6,
    ),
)
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
# Each gets metrics of its own.
METHODS = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
HTTPS_HEADERS = {b"strict-transport-security": b"max-age=31536000"}
_GIVEN_ID = re.compile(r"[\w.-]{1,64}", re.ASCII)


def body_bytes(path: str) -> int:
    """Return how large the body of a request for a path may be."""
    for pattern, most in BODY_BYTES_OF:
        if pattern.fullmatch(path):
            return most
    return BODY_BYTES


async def _read_body(scope: Scope, headers: dict[bytes, bytes], receive: Receive) -> Receive:
    """Wait for the whole body, and return what gives it to the application.

    Whoever sends it slowly holds up nobody else: nothing is taken for the request before.

    Raises:
        ProblemError: 408, it does not come; 413, it is too large.
        ClientDisconnect: the client has gone.
    """
    length = headers.get(b"content-length")
    if b"transfer-encoding" not in headers and (length is None or length == b"0"):
        return receive
    most = body_bytes(scope["path"])
    too_large = ProblemError(413, f"This may have {most} bytes at most.")
    if length is not None and length.isdigit() and int(length) > most:
        raise too_large
    body = bytearray()
    more = True
    try:
        async with asyncio.timeout(BODY_SECONDS):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientDisconnect
                body += message.get("body", b"")
                if len(body) > most:
                    raise too_large
                more = message.get("more_body", False)
    except TimeoutError as error:
        detail = f"The body did not come within {BODY_SECONDS} seconds."
        raise ProblemError(408, detail, headers={"Connection": "close"}) from error
    whole: Message | None = {"type": "http.request", "body": bytes(body), "more_body": False}

    async def give_once() -> Message:
        nonlocal whole
        given, whole = whole, None
        return given or await receive()

    return give_once


def _without_host(header: tuple[bytes, bytes]) -> tuple[bytes, bytes]:
    """Return a header; Starlette's redirect to a path without a slash believes the Host header."""
    name, value = header
    if name.lower() != b"location":
        return header
    target = split(value.decode("latin-1"))
    path = "/" + target.path.lstrip("/")
    return name, (f"{path}?{target.query}" if target.query else path).encode("latin-1")


class RequestMiddleware:
    """Wrap the application, outermost."""

    def __init__(
        self,
        app: ASGIApp,
        limits: Limits | None = None,
        public: PublicAddress | None = None,
        *,
        keeps_addresses: bool = True,
    ) -> None:
        self.app = app
        self.keeps_addresses = keeps_addresses
        self.limits = limits or Limits()
        self.public = public or PublicAddress(None)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve a request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        refusal = self.public.refusal(scope)
        scope = self.public.apply(scope)
        method = scope["method"]
        if method == "HEAD":
            scope = {**scope, "method": "GET"}  # the server leaves the answer's body out
        request_headers = dict(scope["headers"])
        # A client's own id may be another's, so it only stands beside ours.
        given = request_headers.get(b"x-request-id", b"").decode("latin-1")
        own_id = uuid.uuid4().hex
        request_id.set(own_id)
        own_headers = HEADERS | (HTTPS_HEADERS if scope["scheme"] == "https" else {})
        client = (scope.get("client") or [None])[0]
        client_address.set(client if self.keeps_addresses else None)
        credentials = request_headers.get(b"authorization") or request_headers.get(b"cookie", b"")
        caller = self.limits.callers.find(credentials, client)
        scope.setdefault("state", {}).update(caller=caller, credentials=credentials)
        started = time.perf_counter()
        status = 0
        is_over = False

        async def send_with_headers(message: Message) -> None:
            nonlocal status, is_over
            if message["type"] == "http.response.start":
                status = message["status"]
                if not limit.expired():
                    limit.reschedule(None)  # a long answer may take its time
                headers = list(message.get("headers", []))
                if status == HTTPStatus.TEMPORARY_REDIRECT:
                    headers = [_without_host(header) for header in headers]
                set_by_app = {name.lower() for name, _ in headers}
                headers += [item for item in own_headers.items() if item[0] not in set_by_app]
                headers.append((b"x-request-id", own_id.encode()))
                message["headers"] = headers
                if method == "HEAD" and b"content-length" not in set_by_app:
                    # A stream may never end. This stops it, since all is said.
                    await send(message)
                    message = {"type": "http.response.body"}
                    is_over = True
                    limit.reschedule(0)
            elif is_over:
                return
            await send(message)

        try:
            async with asyncio.timeout(TIME_LIMIT_SECONDS) as limit:
                try:
                    if refusal is not None:
                        raise refusal
                    if scope["path"].startswith("/health/"):
                        await self.app(scope, receive, send_with_headers)
                        return
                    with self.limits.requests.count(caller):
                        whole = await _read_body(scope, request_headers, receive)
                        await self.app(scope, whole, send_with_headers)
                except ClientDisconnect:
                    pass  # nobody is there to be answered
                except ProblemError as error:
                    answer = problem(error.status_code, error.detail, dict(error.headers or {}))
                    await answer(scope, receive, send_with_headers)
                except Exception as error:
                    log.exception("failed", exc_info=error)
                    if status:
                        raise  # too late for another answer: the server closes the connection
                    detail = "Something went wrong. The log has it under the request's id."
                    await problem(500, detail)(scope, receive, send_with_headers)
        except TimeoutError:
            if is_over:
                return
            if status:
                raise
            given_up = problem(503, "This took too long and was given up.")
            await given_up(scope, receive, send_with_headers)
        finally:
            seconds = time.perf_counter() - started
            route = getattr(scope.get("route"), "path_format", "")
            metrics.REQUESTS.labels(
                method if method in METHODS else "other", route, status
            ).observe(seconds)
            user = scope.get("state", {}).get("user")
            log.info(
                "request",
                extra={
                    "method": method,
                    "path": scope["path"],
                    "status": status,
                    "milliseconds": round(seconds * 1000, 1),
                    "client": client_address.get(),
                    "user": getattr(user, "name", None),
                }
                | ({"given_request_id": given} if _GIVEN_ID.fullmatch(given) else {}),
            )
