"""The API's connections to PostgreSQL."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Annotated, LiteralString
from weakref import WeakKeyDictionary

from fastapi import Depends, Request
from psycopg import AsyncConnection
from psycopg.abc import Params
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from api.limits import Limits, Place, busy
from api.problems import ProblemError
from database.address import url_for
from database.settings import Settings

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]

SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})
# Of the pool's connections one is kept for health, and so many more for changes.
KEPT_FOR_CHANGES = 2
_AT_ONCE: AbstractAsyncContextManager[None] = nullcontext()

# A server may have gone since; asking before each use would cost as much as most queries do.
IDLE_SECONDS = 2


def make_pool(url: str, settings: Settings) -> Pool:
    """Return a closed pool of connections in autocommit mode, whose rows are dictionaries."""
    options = {
        "timezone": "UTC",
        "statement_timeout": f"{settings.api_statement_timeout}s",
        "lock_timeout": f"{settings.api_lock_timeout}s",
        "idle_in_transaction_session_timeout": "60s",
        # A list is planned for the filters it has: a generic plan would be none's.
        "plan_cache_mode": "force_custom_plan",
        "jit": "off",
        # Finds "amzon" and "zurcih"; the search's ranking puts the better matches first.
        "pg_trgm.word_similarity_threshold": "0.42",
    }
    used_at: WeakKeyDictionary[AsyncConnection[DictRow], float] = WeakKeyDictionary()

    async def note_use(connection: AsyncConnection[DictRow]) -> None:
        used_at[connection] = time.monotonic()

    async def check_idle(connection: AsyncConnection[DictRow]) -> None:
        if time.monotonic() - used_at.get(connection, 0) > IDLE_SECONDS:
            await AsyncConnectionPool.check_connection(connection)

    url = url_for("api", url)
    given = str(conninfo_to_dict(url).get("options") or "")
    return AsyncConnectionPool(
        make_conninfo(
            url,
            options=" ".join([given, *(f"-c{name}={value}" for name, value in options.items())]),
            application_name="api",
            connect_timeout=5,
        ),
        kwargs={"autocommit": True, "row_factory": dict_row},
        min_size=1,
        max_size=settings.api_pool_size,
        timeout=settings.api_pool_timeout,
        check=check_idle,
        reset=note_use,
        open=False,
    )


class Connections:
    """The pool's connections for requests: reading takes no more than leaves others some."""

    def __init__(self, settings: Settings) -> None:
        size, patience = settings.api_pool_size, settings.api_pool_timeout
        self.for_reading = max(1, size - 1 - KEPT_FOR_CHANGES)
        self._reading = Place(asyncio.Semaphore(self.for_reading), patience, _busy)
        self._any = Place(asyncio.Semaphore(max(1, size - 1)), patience, _busy)

    @asynccontextmanager
    async def take(self, pool: Pool, method: str) -> AsyncIterator[AsyncConnection[DictRow]]:
        """Wait for a connection that a request with a method may have, and keep it.

        Raises:
            ProblemError: 503, none became free for `API_POOL_TIMEOUT`.
        """
        first = self._reading if method in SAFE_METHODS else _AT_ONCE
        async with first, self._any, pool.connection() as connection:
            yield connection


def _busy() -> ProblemError:
    return busy("other requests have all connections to the database.")


def let_wait(request: Request, turn: AbstractAsyncContextManager[None]) -> None:
    """Let a request wait for a turn before it takes its connection, and keep it as long."""
    request.state.turn = turn


async def _connection(request: Request) -> AsyncIterator[AsyncConnection[DictRow]]:
    state, own = request.app.state, request.state
    limits: Limits = state.limits
    connections: Connections = state.connections
    turn: AbstractAsyncContextManager[None] = getattr(own, "turn", _AT_ONCE)
    async with (
        limits.shares.take(own.caller),
        turn,
        connections.take(state.pool, request.method) as connection,
    ):
        yield connection


connection_in_turn = asynccontextmanager(_connection)
"""Take a connection of the caller's share, after the turn that `let_wait` named."""


def connection_of(request: Request) -> AbstractAsyncContextManager[AsyncConnection[DictRow]]:
    """Take a connection for a request, beside its caller's share: other limits see to that."""
    state = request.app.state
    connections: Connections = state.connections
    return connections.take(state.pool, request.method)


Connection = Annotated[AsyncConnection[DictRow], Depends(_connection, scope="function")]


async def fetch_one(
    connection: AsyncConnection[DictRow],
    query: LiteralString | bytes,
    parameters: Params | None = None,
) -> DictRow:
    """Return the first row of a query that always gives one, such as `insert ... returning`."""
    row = await (await connection.execute(query, parameters)).fetchone()
    assert row is not None  # noqa: S101 - the caller's promise
    return row


async def fetch_or_404(
    connection: AsyncConnection[DictRow],
    query: LiteralString,
    parameters: Params | None,
    missing: str,
) -> DictRow:
    """Return the first row of a query.

    Raises:
        ProblemError: 404, there is none, in the words of `missing`.
    """
    row = await (await connection.execute(query, parameters)).fetchone()
    if row is None:
        raise ProblemError(404, missing)
    return row
