"""One change of many opportunities: each by the rules of a single one, and with its own result."""

from collections.abc import Iterable
from typing import Any

import psycopg
from fastapi import APIRouter
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, ConfigDict, Field

from api.auth import CurrentUser, Role, User
from api.database import Connection
from api.fields import CurrentFields, Fields
from api.opportunities import service
from api.opportunities.schemas import MOST_CHOSEN, OpportunityChange
from api.problems import ProblemError, answers
from api.types import Id
from api.workflow import MOVES

router = APIRouter(prefix="/api", tags=["opportunities"])

OK, UNAVAILABLE = 200, 503
MERGING = "A sync is merging the deals at the moment. Try again."


class ChangeOfMany(OpportunityChange):
    """The change of many opportunities; a field that is missing stays as it is."""

    model_config = ConfigDict(json_schema_extra={"minProperties": 2})

    ids: list[Id] = Field(min_length=1, max_length=MOST_CHOSEN, examples=[[41, 42]])


class Result(BaseModel):
    """What became of one of them."""

    id: int
    status: int = Field(description="As of `PATCH /api/opportunities/{id}`; 200: it is changed")
    detail: str | None = Field(default=None, description="Why it was refused")
    allowed: list[str] | None = Field(
        default=None,
        description="If the workflow refused it: the states that you may move the deal to",
    )
    before: dict[str, Any] | None = Field(
        default=None,
        description="What it had before of what is changed, empty if all had been so. To take it "
        "back, send this to `PATCH /api/opportunities/{id}`, with `etag` as If-Match",
        examples=[{"workflow_status": "NEW"}],
    )
    etag: str | None = Field(default=None, description="The ETag of the deal after the change")


class Results(BaseModel):
    """What became of each, in the order of the request."""

    changed: int = Field(description="How many were not refused")
    results: list[Result]


class Step(BaseModel):
    """The change of one deal, if it is as the user saw it."""

    id: Id
    wanted: OpportunityChange
    if_match: str | None = Field(default=None, max_length=100)
    seen: str | None = None


async def change_each(
    connection: AsyncConnection[DictRow], user: User, fields: Fields, steps: Iterable[Step]
) -> Results:
    """Change each deal in a transaction of its own, so that a refused one keeps no other back.

    Args:
        connection: to the database, outside a transaction.
        user: who changes them.
        fields: the declared fields.
        steps: how each is changed, and how it was seen.
    """
    user.must_be(Role.ASSESSOR)
    results: list[Result] = []
    is_merging = False
    for step in steps:
        if is_merging:  # each would wait as long
            results.append(Result(id=step.id, status=UNAVAILABLE, detail=MERGING))
            continue
        wanted = step.wanted.model_dump(exclude_unset=True)
        given = step.model_dump(include={"if_match", "seen"})
        try:
            made = await service.change(connection, user, fields, step.id, wanted, **given)
        except ProblemError as error:
            allowed = error.members.get("allowed")
            results.append(
                Result(id=step.id, status=error.status_code, detail=error.detail, allowed=allowed)
            )
        except psycopg.errors.LockNotAvailable:
            is_merging = True
            results.append(Result(id=step.id, status=UNAVAILABLE, detail=MERGING))
        else:
            results.append(Result(id=step.id, status=OK, before=made.before, etag=made.etag))
    return Results(changed=sum(one.status == OK for one in results), results=results)


def ways_back(results: Results) -> list[Step]:
    """Return what takes the changes back, unless somebody changes a deal before.

    Nobody moves a deal to a status of another system, so there is no way back to one.
    """
    return [
        Step(id=one.id, wanted=OpportunityChange(**one.before), if_match=one.etag)
        for one in results.results
        if one.before and one.before.get("workflow_status", "NEW") in MOVES
    ]


@router.patch("/opportunities", responses=answers(401, 403, 422))
async def patch_opportunities(
    user: CurrentUser, connection: Connection, fields: CurrentFields, change: ChangeOfMany
) -> Results:
    """Move many deals in the workflow, or assign them, and say of each what became of it.

    One that is refused keeps no other back: the answer is 200, and has the status of each.
    """
    wanted = OpportunityChange(**change.model_dump(exclude_unset=True, exclude={"ids"}))
    steps = [Step(id=id_, wanted=wanted) for id_ in dict.fromkeys(change.ids)]
    return await change_each(connection, user, fields, steps)


def words_of(results: Results) -> str:
    """Return the results in a sentence."""
    refused = len(results.results) - results.changed
    deals = f"{results.changed} {'deal' if results.changed == 1 else 'deals'} changed"
    return f"{deals}, {refused} refused." if refused else f"{deals}."
