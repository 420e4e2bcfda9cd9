"""What is new each second, for all who wait for it: asked for once, and only if somebody waits."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import LiteralString, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.changes import queries
from api.changes.schemas import Syncs
from api.database import Pool, fetch_one
from api.sync import queries as sync_queries
from api.sync.schemas import SyncProgress
from runs.registry import UNDER_WAY

# What no run tells by itself, such as one that housekeeping deletes.
KEPT_SECONDS = 30
LAST_RUN: LiteralString = """
select run_id from run_logs
where kind != 'other'
order by status = 'RUNNING' desc, id desc
limit 1
"""
NEWEST_RUN: LiteralString = "select coalesce(max(id), 0) as id from sync_runs"


class Moment(NamedTuple):
    """The state at a moment.

    Attributes:
        generation: of the order of changes.
        horizon: the transaction below which all have ended.
        newest: of those the last one that changed a deal.
        syncs: what they are doing.
    """

    generation: int
    horizon: str
    newest: str
    syncs: Syncs


class Live:
    """The moments, one after the other."""

    def __init__(self) -> None:
        self._waiting = 0
        self._moments = asyncio.Condition()
        self._last: Moment | None = None
        self._run: tuple[int, float, Syncs] | None = None

    @asynccontextmanager
    async def join(self) -> AsyncIterator[None]:
        """Be one of those who wait, while the context lasts."""
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    async def next(self) -> Moment:
        """Wait for the next moment."""
        async with self._moments:
            await self._moments.wait()
        assert self._last is not None  # noqa: S101 - told after it is set
        return self._last

    async def look(self, pool: Pool) -> None:
        """Find out what the moment is, and tell all who wait."""
        if not self._waiting:
            return
        async with pool.connection() as connection:
            state = await fetch_one(connection, queries.NEWEST)
            self._last = Moment(**state, syncs=await self._find_syncs(connection))
        async with self._moments:
            self._moments.notify_all()

    async def _find_syncs(self, connection: AsyncConnection[DictRow]) -> Syncs:
        """Return what the syncs are doing; the views over all runs are read if it may differ."""
        newest = (await fetch_one(connection, NEWEST_RUN))["id"]
        is_busy = (await (await connection.execute(UNDER_WAY)).fetchone()) is not None
        now = time.monotonic()
        if self._run and self._run[0] == newest and now < self._run[1] and not is_busy:
            return self._run[2]
        run = None
        for found in await sync_queries.fetch(connection, LAST_RUN):
            (row,) = await sync_queries.fetch(connection, sync_queries.PROGRESS, [found["run_id"]])
            run = SyncProgress.model_validate(row)
        success = await (await connection.execute(sync_queries.LAST_SUCCESS)).fetchone()
        syncs = Syncs(run=run, last_success=success["completed_at"] if success else None)
        # What was busy a moment ago is looked at once more.
        self._run = (newest, 0 if is_busy else now + KEPT_SECONDS, syncs)
        return syncs
