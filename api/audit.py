"""The audit trail: who changed what."""

from datetime import datetime
from typing import Annotated, Any, LiteralString

from fastapi import APIRouter, Query
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import BaseModel, Field

from api.auth import CurrentUser, Role, User
from api.database import Connection
from api.problems import answers
from api.requests import request_id
from api.types import Id, Text

router = APIRouter(prefix="/api/audit", tags=["users"])

RECORD: LiteralString = """
insert into audit_log (user_id, user_name, action, subject, subject_id, before, after, request_id)
values (%s, %s, %s, %s, %s, %s, %s, %s)
"""
LIST: LiteralString = """
select id, at, user_name, action, subject, subject_id, before, after, request_id
from audit_log
where (%(subject)s::text is null or subject = %(subject)s)
    and (%(subject_id)s::text is null or subject_id = %(subject_id)s)
    and (%(before)s::bigint is null or id < %(before)s)
order by id desc
limit %(limit)s
"""


class AuditEntry(BaseModel):
    """A change that was made through the API."""

    id: int
    at: datetime
    user_name: str = Field(description="As it was at the time")
    action: str = Field(examples=["update"])
    subject: str = Field(description="The kind of thing", examples=["user"])
    subject_id: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    request_id: str | None = Field(description="As in the log and in X-Request-ID")


async def record(
    connection: AsyncConnection[DictRow],
    user: User | None,
    action: str,
    subject: str,
    subject_id: object,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> None:
    """Write down a change, in the transaction that makes it; no user: nobody was signed in."""
    states = [None if state is None else Jsonb(state) for state in (before, after)]
    who: list[object] = [None, "(not signed in)"] if user is None else [user.id, user.name]
    await connection.execute(
        RECORD, [*who, action, subject, str(subject_id), *states, request_id.get()]
    )


class AuditQuery(BaseModel):
    """Which entries are wanted."""

    subject: Text | None = Field(None, examples=["user"])
    subject_id: Text | None = None
    before: Id | None = Field(None, description="Entries older than this one")
    limit: int = Field(100, ge=1, le=1000)


async def list_entries(
    connection: AsyncConnection[DictRow], user: User, wanted: AuditQuery
) -> list[DictRow]:
    """List who changed what, the newest first."""
    user.must_be(Role.ADMIN)
    return await (await connection.execute(LIST, wanted.model_dump())).fetchall()


@router.get("", response_model=list[AuditEntry], responses=answers(401, 403, 422))
async def list_audit_entries(
    user: CurrentUser, connection: Connection, wanted: Annotated[AuditQuery, Query()]
) -> list[DictRow]:
    """List who changed what, the newest first."""
    return await list_entries(connection, user, wanted)
