"""Who works on a deal in which part, beside the one it is assigned to."""

from typing import LiteralString

from fastapi import APIRouter
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field

from api.audit import record
from api.auth import CurrentUser, Role, User
from api.database import Connection, fetch_or_404
from api.opportunities.changes import check_assignment, lock_opportunity
from api.problems import ProblemError, answers
from api.types import Id, Input, PathId
from api.workflow import check_open, read_rules
from declared.model import Key

router = APIRouter(prefix="/api/opportunities", tags=["opportunities"])

EXISTS: LiteralString = "select id from opportunities where id = %s"
LIST: LiteralString = "select part, user_id from opportunity_parts where opportunity_id = %s"
GIVE: LiteralString = """
insert into opportunity_parts (opportunity_id, part, user_id)
values (%(opportunity_id)s, %(part)s, %(after)s)
on conflict (opportunity_id, part) do update set user_id = excluded.user_id
"""
TAKE: LiteralString = """
delete from opportunity_parts where opportunity_id = %(opportunity_id)s and part = %(part)s
"""
NOTE: LiteralString = """
insert into opportunity_changes (opportunity_id, field, old_value, new_value, changed_by)
values (
    %(opportunity_id)s, 'part ' || %(part)s,
    (select name from users where id = %(before)s), (select name from users where id = %(after)s),
    %(by)s
)
"""


class Part(BaseModel):
    """A part in which somebody can work on a deal."""

    part: str = Field(examples=["architect"])
    label: str = Field(examples=["Architect"])
    user_id: int | None = Field(description="Who does; null: nobody yet")


class PartChange(Input):
    """Who is to work on a deal in a part."""

    part: Key
    user_id: Id | None = Field(description="A user; null: nobody")


async def list_parts(
    connection: AsyncConnection[DictRow], user: User, opportunity_id: int
) -> list[DictRow]:
    """List the declared parts, and who works on a deal in each.

    A part that is no longer declared is listed as long as somebody has it; raises 404 if there is
    no such deal.
    """
    user.must_be(Role.VIEWER)
    missing = f"There is no opportunity {opportunity_id}."
    await fetch_or_404(connection, EXISTS, [opportunity_id], missing)
    labels = (await read_rules(connection)).decisions.parts
    found = await (await connection.execute(LIST, [opportunity_id])).fetchall()
    taken = {row["part"]: row["user_id"] for row in found}
    return [
        {"part": part, "label": labels.get(part, part), "user_id": taken.get(part)}
        for part in [*labels, *(part for part in taken if part not in labels)]
    ]


async def set_part(
    connection: AsyncConnection[DictRow], user: User, opportunity_id: int, change: PartChange
) -> list[DictRow]:
    """Give a part of a deal to somebody or to nobody, and return all parts.

    Raises:
        ProblemError: 403, a manager assigns others; 404; 409, the CRM has closed the deal; 422, no
            such part or user.
    """
    user.must_be(Role.ASSESSOR)
    async with connection.transaction():
        deal = await lock_opportunity(connection, opportunity_id)
        check_open(deal["crm_outcome"])
        parts = await list_parts(connection, user, opportunity_id)
        before = {one["part"]: one["user_id"] for one in parts}
        if change.part not in before:
            known = ", ".join(before) or "none"
            raise ProblemError(422, f"body.part: crm.yml declares no {change.part}, only: {known}")
        values = {
            "opportunity_id": opportunity_id,
            "part": change.part,
            "before": before[change.part],
            "after": change.user_id,
            "by": user.name,
        }
        if values["before"] == values["after"]:
            return parts
        await check_assignment(connection, user, before[change.part], change.user_id, "user_id")
        await connection.execute(TAKE if change.user_id is None else GIVE, values)
        await connection.execute(NOTE, values)
        states = [{f"part {change.part}": values[name]} for name in ("before", "after")]
        await record(connection, user, "update", "opportunity", opportunity_id, *states)
        return await list_parts(connection, user, opportunity_id)


@router.get("/{id:int}/parts", response_model=list[Part], responses=answers(401, 404, 422))
async def list_parts_of_deal(
    user: CurrentUser, connection: Connection, opportunity_id: PathId
) -> list[DictRow]:
    """List the parts that crm.yml declares, and who works on a deal in each."""
    return await list_parts(connection, user, opportunity_id)


@router.patch(
    "/{id:int}/parts",
    response_model=list[Part],
    responses=answers(401, 403, 404, 409, 422, 503),
)
async def give_part(
    user: CurrentUser, connection: Connection, opportunity_id: PathId, change: PartChange
) -> list[DictRow]:
    """Give a part of a deal to somebody, or to nobody."""
    return await set_part(connection, user, opportunity_id, change)
