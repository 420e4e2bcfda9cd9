"""The CRM's calls when a deal changes: they say "look again", and are not the data.

A call only asks for an incremental sync. Calls that come close together ask for one: it starts
when there has been quiet for a moment, or after a minute at the latest. Calls that come while
a sync runs ask for another after it, for it may have read the deal before it changed.
"""

import hashlib
import hmac
import logging
import time
from base64 import b64decode
from typing import LiteralString

from fastapi import APIRouter, Depends, Request
from fastapi.concurrency import run_in_threadpool
from psycopg import Rollback
from pydantic import BaseModel

from api.database import Connection, Pool
from api.problems import ProblemError, answers
from runs import control

router = APIRouter(prefix="/api/webhooks", tags=["sync"])
log = logging.getLogger(__name__)

REPLAY_WINDOW_SECONDS = 300
SHORTEST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 10, 15 * 60
"""Before another attempt, if no process can be started: each attempt is a failed run in the log."""

NOTE: LiteralString = """
insert into sync_wanted default values
on conflict (only_row) do update
set latest = clock_timestamp(), events = sync_wanted.events + 1
"""
TAKE: LiteralString = """
delete from sync_wanted
where (
        latest < clock_timestamp() - make_interval(secs => %(quiet)s)
        or since < clock_timestamp() - interval '1 minute'
    )
returning events
"""


class Accepted(BaseModel):
    """The call was taken."""

    status: str = "accepted"


async def _check_caller(request: Request) -> None:
    configured = request.app.state.settings.oracle_webhook_secret
    if configured is None:
        raise _unauthorised("No webhook is set up here: ORACLE_WEBHOOK_SECRET is not set.")
    secret = configured.get_secret_value().encode()
    signature = request.headers.get("x-webhook-signature")
    if signature is not None:
        _check_signature(request, await request.body(), signature, secret)
    elif not hmac.compare_digest(_shared_secret(request), secret):
        raise _unauthorised("The secret is missing or wrong.")


@router.post(
    "/oracle",
    status_code=202,
    responses=answers(401),
    dependencies=[Depends(_check_caller)],  # before a connection is taken
    openapi_extra={
        "security": [{"WebhookSignature": [], "WebhookTimestamp": []}, {"WebhookSecret": []}],
        "requestBody": {
            "description": "Whatever the CRM sends: it is not looked at",
            "content": {"application/json": {"schema": {}}},
        },
    },
)
async def call_of_oracle(connection: Connection) -> Accepted:
    """Take a call of the CRM's, which asks for an incremental sync.

    It proves itself by the secret in `X-Webhook-Secret`, as the password of Basic
    authentication, or, best, by `X-Webhook-Timestamp` (Unix time) and `X-Webhook-Signature`:
    the HMAC-SHA256, in hexadecimal, of the timestamp, a full stop and the body.
    """
    await connection.execute(NOTE)
    return Accepted()


def _check_signature(request: Request, body: bytes, signature: str, secret: bytes) -> None:
    timestamp = request.headers.get("x-webhook-timestamp", "")
    signed = timestamp.encode() + b"." + body
    right = hmac.new(secret, signed, hashlib.sha256).hexdigest()
    if not hmac.compare_digest(signature.removeprefix("sha256=").lower().encode(), right.encode()):
        raise _unauthorised("The signature is wrong.")
    # It was signed, so it is a number unless the signer is at fault.
    if not timestamp.isdecimal() or abs(time.time() - int(timestamp)) > REPLAY_WINDOW_SECONDS:
        raise _unauthorised("The timestamp is not of the last five minutes.")


def _shared_secret(request: Request) -> bytes:
    scheme, _, credentials = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return request.headers.get("x-webhook-secret", "").encode()
    try:
        return b64decode(credentials, validate=True).partition(b":")[2]
    except ValueError:
        return b""


def _unauthorised(detail: str) -> ProblemError:
    return ProblemError(401, detail, headers={"WWW-Authenticate": "Basic"})


class WantedSyncs:
    """Starts the syncs that calls have asked for."""

    def __init__(self, pool: Pool, database_url: str, quiet_seconds: float) -> None:
        self._pool, self._url, self._quiet_seconds = pool, database_url, quiet_seconds
        self._failures, self._next_attempt = 0, 0.0

    async def start(self) -> None:
        """Start a sync if calls have asked for one and it is time."""
        if time.monotonic() < self._next_attempt:
            return
        async with self._pool.connection() as connection, connection.transaction():
            row = await (await connection.execute(TAKE, {"quiet": self._quiet_seconds})).fetchone()
            if row is None:
                return
            try:
                run = await run_in_threadpool(control.start, self._url, False, "webhook")
            except control.RunningError:
                # The request for a sync stays, and is tried again.
                raise Rollback from None
            except OSError as error:
                self._wait(error)
                raise Rollback from None
            self._failures = 0
            log.info("sync started", extra={"run_id": str(run["run_id"]), "events": row["events"]})

    def _wait(self, error: OSError) -> None:
        """Make no attempt for some time, which grows with each attempt that failed."""
        seconds = min(SHORTEST_WAIT_SECONDS * 2**self._failures, LONGEST_WAIT_SECONDS)
        self._failures += 1
        self._next_attempt = time.monotonic() + seconds
        log.error("no sync can be started", extra={"error": str(error), "wait_seconds": seconds})
