"""Tasks that the API repeats at intervals while it runs."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

log = logging.getLogger(__name__)


@asynccontextmanager
async def every(seconds: float, work: Callable[[], Awaitable[None]]) -> AsyncIterator[None]:
    """Do some work at intervals while the context lasts.

    An error is logged and the work tried again at the next interval, for what it needs, a
    database or a mail server, may be back by then.
    """

    async def repeat() -> None:
        while True:
            try:
                await work()
            except Exception:
                # By its name alone: what it is given may hold a password.
                name = getattr(work, "func", work).__name__
                log.exception("background work failed", extra={"work": name})
            await asyncio.sleep(seconds)

    task = asyncio.create_task(repeat())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
