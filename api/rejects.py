"""What could not be loaded, and why."""

from datetime import datetime
from typing import Annotated, Any, LiteralString

from fastapi import APIRouter, Query
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field

from api.auth import CurrentUser, Role, User
from api.database import Connection
from api.problems import answers
from api.types import Id, Text

router = APIRouter(prefix="/api", tags=["sync"])

LIST: LiteralString = """
select id, stream, remote_id, reason, payload, first_seen_at, last_seen_at, resolved_at
from rejected_records
where (%(stream)s::text is null or stream = %(stream)s)
    and (%(remote_id)s::text is null or remote_id = %(remote_id)s)
    and (%(resolved)s or resolved_at is null)
    and (%(before)s::bigint is null or id < %(before)s)
order by id desc
limit %(limit)s
"""
COUNT: LiteralString = """
select count(*)
from rejected_records
where (%(stream)s::text is null or stream = %(stream)s)
    and (%(remote_id)s::text is null or remote_id = %(remote_id)s)
    and (%(resolved)s or resolved_at is null)
"""


class RejectedRecord(BaseModel):
    """A record that could not be loaded."""

    id: int
    stream: str = Field(examples=["opportunities"])
    remote_id: str | None = Field(description="Where it is known")
    reason: str = Field(examples=["WinProb: 'high' is not a number"])
    payload: Any = Field(description="The record as it was received")
    first_seen_at: datetime
    last_seen_at: datetime
    resolved_at: datetime | None = Field(description="When it arrived good, or was found gone")


class RejectedRecords(BaseModel):
    """A page of rejected records."""

    items: list[RejectedRecord]
    total: int
    next_cursor: str | None = Field(description="Pass it as `cursor` for the next page")


class RejectsQuery(BaseModel):
    """Which rejected records are wanted."""

    stream: Text | None = None
    remote_id: Text | None = None
    resolved: bool = Field(False, description="Also those that are resolved")
    cursor: Id | None = Field(None, description="`next_cursor` of the page before")
    limit: int = Field(50, ge=1, le=1000)


async def list_rejects(
    connection: AsyncConnection[DictRow], user: User, wanted: RejectsQuery
) -> RejectedRecords:
    """List what could not be loaded, the newest first."""
    user.must_be(Role.VIEWER)
    parameters = wanted.model_dump() | {"before": wanted.cursor, "limit": wanted.limit + 1}
    rows = await (await connection.execute(LIST, parameters)).fetchall()
    counted = await (await connection.execute(COUNT, parameters)).fetchone()
    items = [RejectedRecord.model_validate(row) for row in rows[: wanted.limit]]
    return RejectedRecords(
        items=items,
        total=counted["count"] if counted else 0,
        next_cursor=str(items[-1].id) if len(rows) > wanted.limit else None,
    )


@router.get("/rejected-records", responses=answers(401, 422))
async def list_rejected_records(
    user: CurrentUser, connection: Connection, wanted: Annotated[RejectsQuery, Query()]
) -> RejectedRecords:
    """List what could not be loaded, the newest first.

    A sync tries again what has changed in the CRM, and a full one all of it.
    """
    return await list_rejects(connection, user, wanted)
