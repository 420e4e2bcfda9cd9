"""The API's connections to PostgreSQL."""

from collections.abc import AsyncIterator
from typing import Annotated

from fastapi import Depends, Request
from psycopg import AsyncConnection
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import DictRow, dict_row
from psycopg_pool import AsyncConnectionPool

from api.settings import Settings

Pool = AsyncConnectionPool[AsyncConnection[DictRow]]


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
        check=AsyncConnectionPool.check_connection,
        open=False,
    )


async def _connection(request: Request) -> AsyncIterator[AsyncConnection[DictRow]]:
    pool: Pool = request.app.state.pool
    async with pool.connection() as connection:
        yield connection


Connection = Annotated[AsyncConnection[DictRow], Depends(_connection, scope="function")]
