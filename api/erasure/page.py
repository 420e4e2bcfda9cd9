"""The console's page that erases a person."""

from typing import Annotated

from fastapi import Form, Query, Request, Response

from api.auth import CurrentUser
from api.console.pages import back_to, console_router, page
from api.database import Connection
from api.erasure.service import Person, erase
from api.types import Id, Text
from api.users.service import list_accounts

router = console_router()


@router.get("/admin/erasure")
async def show_erasure(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    user_id: Annotated[Id | None, Query()] = None,
    owner: Annotated[Text | None, Query()] = None,
) -> Response:
    """Ask whom to erase; if it is said, show what would be erased."""
    users = await list_accounts(connection, user)
    erasure = None
    if (user_id is None) != (owner is None):
        person = Person(user_id=user_id, owner=owner)
        ways = request.app.state.settings
        erasure = await erase(connection, user, person, ways, is_rehearsal=True)
    return page(request, "erasure.html", users=users, erasure=erasure)


@router.post("/admin/erasure")
async def erase_person(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    person: Annotated[Person, Form()],
) -> Response:
    """Erase a person, and go to the entry of the audit trail about it."""
    await erase(connection, user, person, request.app.state.settings)
    return back_to(request, "/admin/audit?action=erase")
