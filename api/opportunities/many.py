"""One change of many opportunities: each by the rules of a single one, and with its own result."""

from collections.abc import Mapping
from typing import Any

import psycopg
from fastapi import APIRouter
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field

from api.auth import CurrentUser, Role, User
from api.database import Connection
from api.fields import CurrentFields, Fields
from api.opportunities import service
from api.opportunities.schemas import MOST_CHOSEN, OpportunityChange
from api.problems import ProblemError, answers
from api.types import Id

router = APIRouter(prefix="/api", tags=["opportunities"])

OK, UNAVAILABLE = 200, 503
MERGING = "A sync is merging the deals at the moment. Try again."


class ChangeOfMany(OpportunityChange):
    """The change of many opportunities; a field that is missing stays as it is."""

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


class Results(BaseModel):
    """What became of each, in the order of the request."""

    changed: int = Field(description="How many were not refused")
    results: list[Result]


async def change_many(
    connection: AsyncConnection[DictRow],
    user: User,
    fields: Fields,
    change: ChangeOfMany,
    seen: Mapping[int, str] | None = None,
) -> Results:
    """Change each deal in a transaction of its own, so that a refused one keeps no other back.

    Args:
        connection: to the database, outside a transaction.
        user: who changes them.
        fields: the declared fields.
        change: which deals, and how.
        seen: the status of each deal as the user saw it; one that has moved since is refused.
    """
    user.must_be(Role.ASSESSOR)
    wanted = change.model_dump(exclude_unset=True, exclude={"ids"})
    results: list[Result] = []
    is_merging = False
    for id_ in dict.fromkeys(change.ids):
        if is_merging:  # each would wait as long
            results.append(Result(id=id_, status=UNAVAILABLE, detail=MERGING))
            continue
        try:
            if seen is not None and "workflow_status" in wanted:
                await service.move(
                    connection, user, id_, seen.get(id_, ""), wanted["workflow_status"]
                )
            else:
                await service.change(connection, user, fields, id_, wanted)
        except ProblemError as error:
            allowed = error.members.get("allowed")
            results.append(
                Result(id=id_, status=error.status_code, detail=error.detail, allowed=allowed)
            )
        except psycopg.errors.LockNotAvailable:
            is_merging = True
            results.append(Result(id=id_, status=UNAVAILABLE, detail=MERGING))
        else:
            results.append(Result(id=id_, status=OK))
    return Results(changed=sum(one.status == OK for one in results), results=results)


@router.patch("/opportunities", responses=answers(401, 403, 422))
async def patch_opportunities(
    user: CurrentUser, connection: Connection, fields: CurrentFields, change: ChangeOfMany
) -> Results:
    """Move many deals in the workflow, or assign them, and say of each what became of it.

    One that is refused keeps no other back: the answer is 200, and has the status of each.
    """
    return await change_many(connection, user, fields, change)


def words_of(results: Results) -> str:
    """Return the results in a sentence."""
    refused = len(results.results) - results.changed
    deals = f"{results.changed} {'deal' if results.changed == 1 else 'deals'} changed"
    return f"{deals}, {refused} refused." if refused else f"{deals}."


def seen_of(chosen: list[str]) -> dict[int, str]:
    """Return the status of each deal as a page had it, from texts such as `12 NEW`."""
    pairs: list[Any] = [one.partition(" ") for one in chosen]
    return {int(id_): status for id_, _, status in pairs}
