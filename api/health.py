"""Whether the API is alive, and whether it is ready to serve."""

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel

from api.database import Connection
from api.problems import ProblemError, answers
from database.migrate import newest_migration

router = APIRouter(prefix="/health", tags=["health"])

NEWEST = newest_migration()


class Health(BaseModel):
    """It is well; what is not answers with a problem."""

    status: Literal["ok"] = "ok"


@router.get("/live")
async def live() -> Health:
    """Tell that the process runs: restart it if this fails."""
    return Health()


@router.get("/ready", responses=answers(503))
async def ready(connection: Connection) -> Health:
    """Tell whether the database answers and is up to date: send no requests if this fails."""
    row = await (await connection.execute("select version_num from alembic_version")).fetchone()
    if row is None or row["version_num"] != NEWEST:
        raise ProblemError(503, "The database is not up to date: run `make setup`.")
    return Health()
