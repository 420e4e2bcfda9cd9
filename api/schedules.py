"""What runs by itself, and when next."""

from datetime import datetime
from typing import LiteralString

from fastapi import APIRouter
from psycopg.rows import DictRow
from pydantic import BaseModel, Field

from api.auth import CurrentUser, Role
from api.database import Connection
from api.problems import answers

router = APIRouter(prefix="/api/schedules", tags=["sync"])

LIST: LiteralString = "select * from schedules order by name"


class Schedule(BaseModel):
    """A schedule of Meltano's, as the scheduler knows it."""

    name: str = Field(examples=["nightly"])
    job: str = Field(examples=["sync"])
    interval: str = Field(description="As cron writes it", examples=["0 0 * * *"])
    timezone: str = Field(examples=["Europe/Zurich"])
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_succeeded: bool | None
    attempt: int = Field(description="How often it was tried since it last succeeded")
    heartbeat_at: datetime = Field(description="When the scheduler last was seen alive")


@router.get("", response_model=list[Schedule], responses=answers(401))
async def list_schedules(user: CurrentUser, connection: Connection) -> list[DictRow]:
    """List the schedules. There are none while no scheduler has run: `make schedule`."""
    user.must_be(Role.VIEWER)
    return await (await connection.execute(LIST)).fetchall()
