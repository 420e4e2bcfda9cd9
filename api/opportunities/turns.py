"""Turns at reading pages: who asks first is served first.

A page costs the database a millisecond or two of a core. More of them at once than the cores
bear only take each other's time, and which of them the system lets finish first is chance: of
eight clients on two cores, without turns, the p99 was 2.5 times the median; with four turns 1.5
to 1.8 times, at as many requests per second (`make bench-api`).
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import Request

from api.database import let_wait
from api.problems import ProblemError


class Turns:
    """So many at once, and for the others a wait that ends.

    Behind a query that takes seconds nobody waits for longer than `patience`, in seconds.
    """

    def __init__(self, at_once: int, patience: float = 0.25) -> None:
        self._free = asyncio.Semaphore(at_once)
        self._patience = patience

    @asynccontextmanager
    async def take(self) -> AsyncIterator[None]:
        """Wait for a turn, and keep it while the context lasts."""
        try:
            async with asyncio.timeout(self._patience):
                await self._free.acquire()
        except TimeoutError:
            yield
            return
        try:
            yield
        finally:
            self._free.release()


async def take_turn(request: Request) -> None:
    """Let a request wait for its turn, and keep it until it has its page."""
    turns: Turns = request.app.state.turns
    let_wait(request, turns.take())


@asynccontextmanager
async def given_up_in_time(
    request: Request,
    detail: str = "The list took too long. Narrow the filters, or search for a rarer word.",
) -> AsyncIterator[None]:
    """Cancel what a list asks of the database when it takes too long, and say so in `detail`.

    Raises:
        ProblemError: 503, it took `API_LIST_TIMEOUT`.
    """
    try:
        async with asyncio.timeout(request.app.state.settings.api_list_timeout):
            yield
    except TimeoutError as error:
        raise ProblemError(503, detail) from error
