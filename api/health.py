"""Whether the API is alive, and whether it is ready to serve."""

import asyncio
import time
from collections.abc import Callable, Coroutine
from typing import Any, Generic, Literal, TypeVar

from fastapi import APIRouter, Request
from pydantic import BaseModel

from api.database import Pool
from api.problems import ProblemError, answers
from database.migrate import newest_migration
from database.objects import EXPECTED, MISSING, in_words

router = APIRouter(prefix="/health", tags=["health"])

NEWEST = newest_migration()
Found = TypeVar("Found")


class Once(Generic[Found]):
    """Ask at most once a second, however many want to know, and tell all of them."""

    def __init__(self, ask: Callable[[], Coroutine[Any, Any, Found]]) -> None:
        self._ask = ask
        self._asked: asyncio.Task[Found] | None = None
        self._at = 0.0

    async def get(self) -> Found:
        """Return what the last question brought, or ask."""
        now = time.monotonic()
        if self._asked is None or (self._asked.done() and now - self._at >= 1):
            self._asked, self._at = asyncio.create_task(self._ask()), now
        return await asyncio.shield(self._asked)


async def find_problem(pool: Pool) -> str | None:
    """Return why the database can't serve, or None if it can."""
    async with pool.connection() as connection:
        found = await connection.execute("select version_num from alembic_version")
        row = await found.fetchone()
        if row is None or row["version_num"] != NEWEST:
            return "The database is not up to date: run `make setup`."
        missing = await (await connection.execute(MISSING, EXPECTED)).fetchall()
    if missing:
        names = in_words([one["missing"] for one in missing])
        return f"The database lacks {names}: `make doctor` says what to do."
    return None


class Health(BaseModel):
    """It is well; what is not answers with a problem."""

    status: Literal["ok"] = "ok"


@router.get("/live")
async def live() -> Health:
    """Tell that the process runs: restart it if this fails."""
    return Health()


@router.get("/ready", responses=answers(503))
async def ready(request: Request) -> Health:
    """Tell whether the database answers and is whole: send no requests if this fails."""
    check: Once[str | None] = request.app.state.check
    if problem := await check.get():
        raise ProblemError(503, problem)
    return Health()
