"""The pages of users: sign-in and account for each, administration for admins."""

import json
from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import Depends, Form, Query, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import RedirectResponse
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field, Json, TypeAdapter, ValidationError

from api.addresses import own_path
from api.audit import AuditQuery, list_actions, list_entries
from api.auth import (
    CurrentUser,
    Role,
    Scope,
    User,
    client_of,
    find_user,
    refuse_cross_site,
    session_cookie,
)
from api.changes.digest import set_digest, wants_digest, way_to
from api.console.pages import back_to, changed, console_router, page, wants_part
from api.database import Connection, connection_in_turn
from api.oidc.page import sign_out_elsewhere
from api.oidc.service import take_id_token
from api.problems import ProblemError
from api.types import PathId
from api.users import links, service
from api.users.router import address_of
from api.users.schemas import (
    MOST_FUNCTIONS,
    Email,
    HeldFunctions,
    Name,
    NewToken,
    NewUser,
    PasswordByLink,
    PasswordChange,
)
from api.users.session import delete_session_cookie, set_session_cookie, take_turn
from api.users.sign_in import FREE_ATTEMPTS, NewSession, sign_in, sign_in_by_token
from api.users.sign_in_page import sign_in_page

router = console_router()


class SignInForm(BaseModel):
    """The form's fields: a name and its password, or a token."""

    name: str = Field("", max_length=100, pattern="^[^\x00]*$")
    password: str = Field("", max_length=200)
    token: str = Field("", max_length=200)
    next: str = Field("/", max_length=2000)


@router.get("/")
async def start(_: CurrentUser) -> Response:
    """Go to what most come for."""
    return RedirectResponse("/today", 303)


@router.get("/sign-in")
async def show_sign_in(request: Request, next: str = "/") -> Response:  # noqa: A002 - the address
    """Show the way in."""
    return sign_in_page(request, own_path(next))


@router.post("/sign-in", dependencies=[Depends(take_turn)])
async def sign_in_by_form(
    request: Request, connection: Connection, given: Annotated[SignInForm, Form()]
) -> Response:
    """Sign in with a token, or with name and password."""
    refuse_cross_site(request)
    try:
        if given.token:
            session = await sign_in_by_token(connection, given.token, client_of(request))
        else:
            session = await sign_in(
                connection,
                given.name,
                given.password,
                client_of(request),
                passwords=request.app.state.settings.password_sign_in,
            )
    except ProblemError as error:
        if "hx-request" in request.headers:
            raise
        return sign_in_page(request, own_path(given.next), error, given.name)
    if "hx-request" in request.headers:
        return _signed_in_again(request, session)
    after = own_path(given.next)
    if session.failed_attempts >= FREE_ATTEMPTS:
        # The user should know, and then go on.
        after = "/account?" + urlencode({"failed": session.failed_attempts, "next": after})
    response = RedirectResponse(after, 303)
    set_session_cookie(request, response, session)
    return response


def _signed_in_again(request: Request, session: NewSession) -> Response:
    """Let a page go on that was open when its session ended."""
    user = session.user
    events: dict[str, Any] = {"signed-in": {"id": user.id, "name": user.name}}
    if session.failed_attempts >= FREE_ATTEMPTS:
        words = (
            f"{session.failed_attempts} attempts to sign in as you have failed: see your account."
        )
        events["message"] = {"text": words}
    response = Response(status_code=204, headers={"HX-Trigger": json.dumps(events)})
    set_session_cookie(request, response, session)
    return response


@router.get("/signed-in")
async def show_signed_in(request: Request, _: CurrentUser) -> Response:
    """Say so in a tab that was opened only to sign in."""
    return page(request, "signed_in.html")


@router.get("/set-password")
async def show_set_password(request: Request) -> Response:
    """Show the form that a link to set a password leads to, whatever the link is worth."""
    return page(request, "set_password.html")


@router.post("/set-password", dependencies=[Depends(take_turn)])
async def set_password_by_link(
    request: Request, connection: Connection, given: Annotated[PasswordByLink, Form()]
) -> Response:
    """Set a password by a link, and go to the sign-in."""
    ways = request.app.state.settings
    await links.set_password(connection, given.secret.get_secret_value(), given.new, ways)
    return back_to(request, "/sign-in")


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """End the session, and lead to the identity provider if it has one of its own."""
    refuse_cross_site(request)
    token = request.cookies.get(session_cookie(request))
    id_token = None
    if token is not None:
        async with connection_in_turn(request) as connection:
            if (user := await find_user(connection, token)) is not None:
                id_token = await take_id_token(connection, user)
                await service.sign_out(connection, user)
    elsewhere = await sign_out_elsewhere(request, id_token)
    response = elsewhere or RedirectResponse("/sign-in", 303)
    delete_session_cookie(request, response)
    return response


@router.get("/account")
async def show_account(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    failed: Annotated[int, Query(ge=0)] = 0,
    next: str = "/",  # noqa: A002 - the address
) -> Response:
    """Show who one is, one's tokens and sessions, and attempts to sign in with one's name."""
    account = await service.get_account(connection, user)
    return page(
        request,
        "account.html",
        account=account,
        digest=way_to(request.app.state.settings, account),
        wants_digest=await wants_digest(connection, user),
        tokens=await service.list_tokens(connection, user),
        sessions=await service.list_sessions(connection, user),
        failures=await service.list_failures(connection, user),
        scopes=list(Scope),
        failed=failed,
        next=own_path(next),
        issued=None,
    )


class DigestForm(BaseModel):
    """Whether one wants a digest each day."""

    wanted: bool = False


@router.post("/account/digest")
async def choose_digest(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    given: Annotated[DigestForm, Form()],
) -> Response:
    """Begin or end one's daily digest."""
    await set_digest(connection, user, wanted=given.wanted)
    words = "You get a digest from tomorrow on." if given.wanted else "You get no digest any more."
    return changed(request, "/account", words)


@router.post("/account/password")
async def set_password(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    change: Annotated[PasswordChange, Form()],
) -> Response:
    """Change one's password, which ends all sessions, this one too."""
    await service.change_password(connection, user, change, client_of(request))
    return back_to(request, "/sign-in")


@router.post("/account/tokens")
async def issue(
    request: Request, user: CurrentUser, connection: Connection, new: Annotated[NewToken, Form()]
) -> Response:
    """Make a token, and show it this once."""
    issued = await service.create_token(connection, user, new, client_of(request))
    return page(
        request,
        "_tokens.html",
        tokens=await service.list_tokens(connection, user),
        issued=issued,
    )


@router.post("/tokens/{id}/revoke")
async def revoke(
    request: Request, user: CurrentUser, connection: Connection, token_id: PathId
) -> Response:
    """Revoke a token, and show its owner's."""
    owner = await service.revoke_token(connection, user, token_id)
    tokens = await service.list_tokens(connection, user, owner)
    return page(request, "_tokens.html", tokens=tokens, issued=None)


@router.post("/sessions/{id}/end")
async def end_session(
    request: Request, user: CurrentUser, connection: Connection, session_id: PathId
) -> Response:
    """End a session, and show its user's."""
    owner = await service.end_session(connection, user, session_id)
    sessions = await service.list_sessions(connection, user, owner)
    return page(request, "_sessions.html", sessions=sessions)


@router.post("/account/end-access")
async def end_own_access(request: Request, user: CurrentUser, connection: Connection) -> Response:
    """End all of one's sessions, this one too, and revoke all tokens."""
    await service.end_access(connection, user, user.id)
    return back_to(request, "/sign-in")


@router.get("/admin/users")
async def show_users(request: Request, user: CurrentUser, connection: Connection) -> Response:
    """Show the users."""
    users = await service.list_accounts(connection, user)
    return page(request, "users.html", users=users, link=None)


class NewUserForm(BaseModel):
    """The form of a new user; an empty field means none."""

    name: Name
    full_name: str = Field("", max_length=200, pattern="^[^\x00]*$")
    email: Email | None = None
    role: Role
    is_service: bool = False


@router.post("/admin/users")
async def create(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    given: Annotated[NewUserForm, Form()],
) -> Response:
    """Make a user, and for a person a link to set a password."""
    new = NewUser(
        name=given.name,
        full_name=given.full_name or None,
        email=given.email,
        role=given.role,
        is_service=given.is_service,
    )
    created = await service.create_user(connection, user, new)
    link = None
    ways = request.app.state.settings
    if ways.password_sign_in and user.is_signed_in and not new.is_service:
        link = await _link(request, user, connection, created["id"])
    words = f"{created['name']} is there" + (": pass on the link above." if link else ".")
    return await _users(request, user, connection, words, link)


async def _link(
    request: Request, user: User, connection: AsyncConnection[DictRow], user_id: int
) -> DictRow:
    made = await links.make_link(connection, user, user_id, request.app.state.settings)
    return {
        "name": made.name,
        "address": address_of(request, made.secret),
        "expires_at": made.expires_at,
    }


# What a page showed of a user, since others may change that while it is open.
Seen = Json[dict[str, str | bool | None]]


class UserForm(BaseModel):
    """Role and state of a user; a company account has its role by its groups."""

    role: Role | None = None
    active: bool = False
    seen: Seen


@router.post("/admin/users/{id}")
async def change(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    user_id: PathId,
    given: Annotated[UserForm, Form()],
) -> Response:
    """Change of a user what differs from what the page showed."""
    wanted = given.model_dump(exclude={"seen"}, exclude_none=True)
    words = await _change(request, user, connection, user_id, wanted, given.seen)
    return await _users(request, user, connection, words)


async def _change(
    request: Request,
    user: User,
    connection: AsyncConnection[DictRow],
    user_id: int,
    wanted: dict[str, Any],
    seen: dict[str, Any],
) -> str:
    account, has_changed = await service.change_account(
        connection, user, user_id, wanted, seen, request.app.state.settings
    )
    return f"{account['name']} is changed." if has_changed else "Nothing to change."


class ProfileForm(BaseModel):
    """What people read of a user; an empty field means none."""

    full_name: str = Field("", max_length=200, pattern="^[^\x00]*$")
    email: Email | None = None
    seen: Seen


@router.post("/admin/users/{id}/profile")
async def change_profile(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    user_id: PathId,
    given: Annotated[ProfileForm, Form()],
) -> Response:
    """Change of the full name and the e-mail of a user what differs from what the page showed."""
    wanted = {"full_name": given.full_name.strip() or None, "email": given.email}
    words = await _change(request, user, connection, user_id, wanted, given.seen)
    return changed(request, f"/admin/users/{user_id}/tokens", words, "profile-changed")


async def _users(
    request: Request,
    user: User,
    connection: AsyncConnection[DictRow],
    words: str,
    link: DictRow | None = None,
) -> Response:
    users = await service.list_accounts(connection, user)
    response = page(request, "_users.html", users=users, link=link)
    response.headers["HX-Trigger"] = json.dumps({"message": {"text": words}})
    return response


@router.get("/admin/users/{id}/tokens")
async def show_tokens(
    request: Request, user: CurrentUser, connection: Connection, user_id: PathId
) -> Response:
    """Show what a user gets in with: tokens, sessions, and attempts that failed."""
    access = await service.get_access(connection, user, user_id)
    return page(request, "user_tokens.html", issued=None, link=None, **access)


@router.post("/admin/users/{id}/password-link")
async def make_password_link(
    request: Request, user: CurrentUser, connection: Connection, user_id: PathId
) -> Response:
    """Make a link with which a user sets a password, and show it this once."""
    link = await _link(request, user, connection, user_id)
    return page(request, "_password_link.html", link=link)


class FunctionsForm(BaseModel):
    """All functions of a user: the n-th value belongs to the n-th function, empty ones to none."""

    function: list[str] = Field([], max_length=MOST_FUNCTIONS)
    value: list[str] = Field([], max_length=MOST_FUNCTIONS)
    seen: Json[list[dict[str, str | None]]]


@router.post("/admin/users/{id}/functions")
async def set_functions(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    user_id: PathId,
    given: Annotated[FunctionsForm, Form()],
) -> Response:
    """Give a user exactly the functions of the form, unless others have changed them meanwhile."""
    held = [
        {"function": function, "value": value.strip() or None}
        for function, value in zip(given.function, given.value, strict=False)
        if function
    ]
    try:
        wanted = TypeAdapter(HeldFunctions).validate_python(held)
    except ValidationError as error:
        raise RequestValidationError(error.errors()) from error
    await service.set_functions(connection, user, user_id, wanted, given.seen)
    path = f"/admin/users/{user_id}/tokens"
    return changed(request, path, "The functions are saved.", "functions-changed")


@router.post("/admin/users/{id}/end-access")
async def end_access(
    request: Request, user: CurrentUser, connection: Connection, user_id: PathId
) -> Response:
    """End all sessions of a user, and revoke all tokens."""
    await service.end_access(connection, user, user_id)
    return back_to(request, f"/admin/users/{user_id}/tokens")


@router.post("/admin/users/{id}/unlock")
async def unlock(
    request: Request, user: CurrentUser, connection: Connection, user_id: PathId
) -> Response:
    """Forget the wrong passwords that were tried with a user's name."""
    account = await service.unlock(connection, user, user_id)
    words = f"{account['name']} can sign in again."
    return changed(request, f"/admin/users/{user_id}/tokens", words)


@router.get("/admin/audit")
async def show_audit(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    wanted: Annotated[AuditQuery, Query()],
) -> Response:
    """Show who did what, the newest first."""
    entries = await list_entries(connection, user, wanted)
    asked = wanted.model_dump(mode="json", exclude_none=True, exclude={"before", "limit"})
    context: dict[str, Any] = {"entries": entries, "wanted": wanted, "asked": asked}
    if wants_part(request, "more"):
        return page(request, "_audit.html", **context)
    context["actions"] = await list_actions(connection, user)
    context["people"] = await service.list_users(connection, user)
    return page(request, "audit.html", **context)
