"""The audit trail: who signed in, read raw data, exported or changed something, and where from.

Each entry is also a line of the log, of the logger `audit`, for a SIEM to collect.
"""

import csv
import json
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import datetime
from functools import partial
from io import StringIO
from typing import Annotated, Any, Literal, LiteralString

from fastapi import APIRouter, Query, Request
from fastapi.responses import StreamingResponse
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from psycopg.types.json import Jsonb
from pydantic import BaseModel, Field

from api.auth import CurrentUser, Role, User, UserWithoutConnection
from api.database import Connection, connection_of
from api.problems import answers
from api.requests import client_address, request_id
from api.spreadsheets import CONTENT_TYPES, Format, without_formulas
from api.types import Id, Text, Utc

router = APIRouter(prefix="/api/audit", tags=["users"])
log = logging.getLogger("audit")

COMMAND, NOT_SIGNED_IN = "(command line)", "(not signed in)"
STATES = ("before", "after")

RECORD: LiteralString = """
insert into audit_log (
    user_id, user_name, action, subject, subject_id, before, after, address, request_id
)
values (
    %(user_id)s, %(user)s, %(action)s, %(subject)s, %(subject_id)s, %(before)s, %(after)s,
    %(address)s, %(request_id)s
)
"""
LIST: LiteralString = """
with
entries as (
    select
        id, at, user_name, action, subject, subject_id, before, after, address, request_id,
        case when subject_id ~ '^[0-9]{1,18}$' then subject_id::bigint end as number
    from audit_log
    where (%(subject)s::text is null or subject = %(subject)s)
        and (%(subject_id)s::text is null or subject_id = %(subject_id)s)
        and (%(action)s::text is null or action = %(action)s)
        and (
            %(person)s::text is null
            or lower(user_name) = lower(%(person)s)
            or subject = 'name' and subject_id = lower(%(person)s)
        )
        and (%(since)s::timestamptz is null or at >= %(since)s)
        and (%(until)s::timestamptz is null or at < %(until)s)
        and (%(before)s::bigint is null or id < %(before)s)
    order by id desc
    limit %(limit)s
)
select
    id, at, user_name, action, subject, subject_id, before, after, address, request_id,
    case subject
        when 'opportunity' then (select name from opportunities where id = number)
        when 'user' then (select name from users where id = number)
        when 'token' then (select name from tokens where id = number)
        when 'session' then (
            select users.name from tokens join users on users.id = user_id where tokens.id = number
        )
        when 'assessment' then (
            select opportunities.name
            from assessments
            join opportunities on opportunities.id = opportunity_id
            where assessments.id = number
        )
    end as subject_name
from entries
order by id desc
"""
ACTIONS: LiteralString = "select distinct action from audit_log order by action"
EXPORT_ROWS = 1000


class AuditEntry(BaseModel):
    """What was done through the API, or by a command."""

    id: int
    at: datetime
    user_name: str = Field(description="As it was at the time")
    action: str = Field(examples=["update"])
    subject: str = Field(description="The kind of thing", examples=["user"])
    subject_id: str
    subject_name: str | None = Field(description="As it is now, if it has one")
    before: dict[str, Any] | None
    after: dict[str, Any] | None
    address: str | None = Field(
        description="The client's; null: a command on the server, or not kept"
    )
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
    """Write down what is done, in the transaction that does it; no user: nobody is signed in."""
    await connection.execute(RECORD, entry(user, action, subject, subject_id, before, after))


def entry(
    user: User | None,
    action: str,
    subject: str,
    subject_id: object,
    before: dict[str, Any] | None = None,
    after: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Log an entry, and return the parameters of RECORD; outside of a request, a command did it."""
    values = {
        "user_id": None if user is None else user.id,
        "user": user.name if user else COMMAND if request_id.get() is None else NOT_SIGNED_IN,
        "action": action,
        "subject": subject,
        "subject_id": str(subject_id),
        "before": before,
        "after": after,
        "address": client_address.get(),
    }
    log.info("audit", extra=values)
    states = {name: None if values[name] is None else Jsonb(values[name]) for name in STATES}
    return values | states | {"request_id": request_id.get()}


class Wanted(BaseModel):
    """Which entries are wanted."""

    subject: Text | None = Field(None, examples=["user"])
    subject_id: Text | None = None
    action: Text | None = Field(None, examples=["export"])
    person: Text | None = Field(None, description="Who did it, or tried to sign in as it")
    since: Utc | None = None
    until: Utc | None = Field(None, description="Before this moment")


class AuditQuery(Wanted):
    """Which entries are wanted, a page at a time."""

    before: Id | None = Field(None, description="Entries older than this one")
    limit: int = Field(100, ge=1, le=1000)


class AuditExport(Wanted):
    """Which entries to export, and how."""

    format: Literal[Format.CSV, Format.NDJSON] = Format.CSV


async def list_entries(
    connection: AsyncConnection[DictRow], user: User, wanted: AuditQuery
) -> list[DictRow]:
    """List who did what, the newest first."""
    user.must_be(Role.ADMIN)
    return await (await connection.execute(LIST, wanted.model_dump())).fetchall()


async def list_actions(connection: AsyncConnection[DictRow], user: User) -> list[str]:
    """List the actions that there are."""
    user.must_be(Role.ADMIN)
    return [row["action"] for row in await (await connection.execute(ACTIONS)).fetchall()]


async def export_entries(
    connections: Callable[[], AbstractAsyncContextManager[AsyncConnection[DictRow]]],
    user: User,
    wanted: AuditExport,
) -> AsyncGenerator[str]:
    """Yield all entries that are wanted, the newest first, in lines of JSON or CSV."""
    user.must_be(Role.ADMIN)
    async with connections() as connection:
        asked = wanted.model_dump(mode="json", exclude_defaults=True)
        await record(connection, user, "export", "audit", "all", after=asked)
    if wanted.format is Format.CSV:
        yield _csv_line(list(AuditEntry.model_fields))
    query = AuditQuery(**wanted.model_dump(exclude={"format"}), limit=EXPORT_ROWS)
    while True:
        # No connection is held while the reader takes what there is.
        async with connections() as connection:
            rows = await list_entries(connection, user, query)
        entries = [AuditEntry.model_validate(row) for row in rows]
        if wanted.format is Format.CSV:
            dumped = [one.model_dump(mode="json") for one in entries]
            yield "".join(_csv_line(list(values.values())) for values in dumped)
        else:
            yield "".join(f"{one.model_dump_json()}\n" for one in entries)
        if len(entries) < EXPORT_ROWS:
            return
        query.before = entries[-1].id


def differences(
    before: dict[str, Any] | None, after: dict[str, Any] | None
) -> list[tuple[str, Any, Any]]:
    """Return the fields that differ, each with its value before and after; None for none.

    >>> differences({"role": "viewer", "active": True}, {"role": "admin", "active": True})
    [('role', 'viewer', 'admin')]
    """
    old, new = before or {}, after or {}
    if before is None or after is None:
        return [(name, old.get(name), new.get(name)) for name in old | new]
    return [
        (name, old.get(name), new.get(name)) for name in old | new if old.get(name) != new.get(name)
    ]


def _csv_line(cells: list[Any]) -> str:
    line = StringIO()
    csv.writer(line).writerow([_cell(cell) for cell in cells])
    return line.getvalue()


def _cell(value: Any) -> Any:
    if isinstance(value, dict):
        value = json.dumps(value, ensure_ascii=False)
    return without_formulas(value) if isinstance(value, str) else value


@router.get("", response_model=list[AuditEntry], responses=answers(401, 403, 422))
async def list_audit_entries(
    user: CurrentUser, connection: Connection, wanted: Annotated[AuditQuery, Query()]
) -> list[DictRow]:
    """List who did what, and where from, the newest first."""
    return await list_entries(connection, user, wanted)


@router.get(
    "/export",
    response_class=StreamingResponse,
    responses=answers(401, 403, 422)
    | {
        200: {
            "content": {
                name.split(";")[0]: {"schema": {}}
                for name in (CONTENT_TYPES[Format.CSV], CONTENT_TYPES[Format.NDJSON])
            }
        }
    },
)
async def export_audit_entries(
    request: Request, user: UserWithoutConnection, wanted: Annotated[AuditExport, Query()]
) -> StreamingResponse:
    """Stream all entries that fulfil every condition, the newest first."""
    lines = export_entries(partial(connection_of, request), user, wanted)
    first = await anext(lines)  # a refusal still gets an answer of its own

    async def all_lines() -> AsyncGenerator[str]:
        yield first
        async for line in lines:
            yield line

    name = f'attachment; filename="audit.{wanted.format}"'
    headers = {"Content-Disposition": name}
    return StreamingResponse(all_lines(), media_type=CONTENT_TYPES[wanted.format], headers=headers)
