"""Administration: the users, their tokens, and who changed what."""

import json
from typing import Annotated

from fastapi import Form, Query, Request, Response
from pydantic import BaseModel, Field, SecretStr

from api.audit import AuditQuery, list_audit_entries
from api.auth import Admin, Role
from api.console.pages import console_router, page, wants_part
from api.database import Connection
from api.types import PathId
from api.users.router import change_user, create_user, get_user, list_users
from api.users.schemas import Email, Name, NewPassword, NewUser, UserChange
from api.users.session import list_tokens

router = console_router()


@router.get("/admin/users")
async def show_users(request: Request, admin: Admin, connection: Connection) -> Response:
    """Show the users."""
    users = await list_users(admin, connection)
    return page(request, "users.html", users=users)


class NewUserForm(BaseModel):
    """A user to be made; what is left empty is not given."""

    name: Name
    full_name: str = Field("", max_length=200, pattern="^[^\x00]*$")
    email: Email | None = None
    role: Role
    password: NewPassword | None = None


@router.post("/admin/users")
async def create(
    request: Request, admin: Admin, connection: Connection, given: Annotated[NewUserForm, Form()]
) -> Response:
    """Make a user."""
    new = NewUser(
        name=given.name, full_name=given.full_name or None, email=given.email, role=given.role,
        password=given.password,
    )  # fmt: skip
    made = await create_user(admin, connection, new)
    return _users(request, await list_users(admin, connection), f"{made['name']} is there.")


class UserForm(BaseModel):
    """What is to change of a user; an empty password stays as it is."""

    role: Role
    active: bool = False
    password: NewPassword | None = None


@router.post("/admin/users/{id}")
async def change(
    request: Request,
    admin: Admin,
    connection: Connection,
    user_id: PathId,
    given: Annotated[UserForm, Form()],
) -> Response:
    """Change a user."""
    before = await get_user(admin, connection, user_id)
    # Only what differs: naming the role or the state alone ends the user's sessions.
    wanted: dict[str, Role | bool | SecretStr] = {}
    if given.role != before["role"]:
        wanted["role"] = given.role
    if given.active != before["active"]:
        wanted["active"] = given.active
    if given.password is not None:
        wanted["password"] = given.password
    if wanted:
        await change_user(admin, connection, user_id, UserChange.model_validate(wanted))
    words = f"{before['name']} is changed." if wanted else "Nothing to change."
    return _users(request, await list_users(admin, connection), words)


def _users(request: Request, users: list[dict[str, object]], words: str) -> Response:
    response = page(request, "_users.html", users=users)
    response.headers["HX-Trigger"] = json.dumps({"message": {"text": words}})
    return response


@router.get("/admin/users/{id}/tokens")
async def show_tokens(
    request: Request, admin: Admin, connection: Connection, user_id: PathId
) -> Response:
    """Show the tokens of a user."""
    return page(
        request, "user_tokens.html",
        owner=user_id, of=await get_user(admin, connection, user_id), issued=None,
        tokens=await list_tokens(admin, connection, user_id),
    )  # fmt: skip


@router.get("/admin/audit")
async def show_audit(
    request: Request, admin: Admin, connection: Connection, wanted: Annotated[AuditQuery, Query()]
) -> Response:
    """Show who changed what, the newest first."""
    entries = await list_audit_entries(admin, connection, wanted)
    template = "_audit.html" if wants_part(request, "more") else "audit.html"
    return page(request, template, entries=entries, wanted=wanted)
