"""The endpoints that erase a person."""

from typing import Annotated

from fastapi import APIRouter, Query, Request

from api.auth import CurrentUser
from api.database import Connection
from api.erasure.service import Erasure, Person, erase
from api.problems import answers

router = APIRouter(prefix="/api/erasure", tags=["users"])


@router.get("", responses=answers(401, 403, 404, 409, 422))
async def rehearse_erasure(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    person: Annotated[Person, Query()],
) -> Erasure:
    """Get what would be erased of a user, or of an owner of deals in the CRM."""
    ways = request.app.state.settings
    return await erase(connection, user, person, ways, is_rehearsal=True)


@router.post("", responses=answers(401, 403, 404, 409, 422))
async def erase_person(
    request: Request, user: CurrentUser, connection: Connection, person: Person
) -> Erasure:
    """Erase the personal data of a user, or of an owner of deals in the CRM, for good.

    A sync leaves out the names and e-mail of an erased owner.
    """
    return await erase(connection, user, person, request.app.state.settings)
