"""One's own account: sign in and out, who one is, the password, API tokens."""

from typing import Annotated
from urllib.parse import urlsplit

from fastapi import Form, Request, Response
from fastapi.responses import RedirectResponse
from pydantic import BaseModel, Field

from api.auth import SESSION_COOKIE, Viewer, find_user, refuse_cross_site
from api.console.pages import back_to, console_router, page
from api.database import Connection
from api.problems import ProblemError
from api.types import PathId
from api.users.queries import REVOKE
from api.users.schemas import NewToken, PasswordChange
from api.users.session import (
    change_password,
    client_of,
    create_token,
    list_tokens,
    revoke_token,
    set_session_cookie,
    who_am_i,
)
from api.users.sign_in import sign_in, sign_in_by_token

router = console_router()


class SignInForm(BaseModel):
    """What the form sends: a name and its password, or a token."""

    name: str = Field("", max_length=100, pattern="^[^\x00]*$")
    password: str = Field("", max_length=200)
    token: str = Field("", max_length=200)
    next: str = Field("/", max_length=2000)


def _own_path(wanted: str) -> str:
    """Return a path of ours to go on to: never the address of another site."""
    parts = urlsplit(wanted)
    is_ours = not parts.scheme and not parts.netloc and wanted.startswith("/")
    return wanted if is_ours and "\\" not in wanted and wanted.isprintable() else "/"


@router.get("/")
async def start(_: Viewer) -> Response:
    """Go to what most come for."""
    return RedirectResponse("/opportunities", 303)


@router.get("/sign-in")
async def show_sign_in(request: Request, next: str = "/") -> Response:  # noqa: A002 - the address
    """Show the way in."""
    return page(request, "sign_in.html", next=_own_path(next), error=None, name="")


@router.post("/sign-in")
async def sign_in_by_form(
    request: Request, connection: Connection, given: Annotated[SignInForm, Form()]
) -> Response:
    """Begin a session for who has a token, or a name and its password."""
    refuse_cross_site(request)
    try:
        if given.token:
            session = await sign_in_by_token(connection, given.token)
        else:
            session = await sign_in(connection, given.name, given.password, client_of(request))
    except ProblemError as error:
        return page(
            request, "sign_in.html", error.status_code,
            next=_own_path(given.next), error=error.detail, name=given.name,
        )  # fmt: skip
    response = RedirectResponse(_own_path(given.next), 303)
    set_session_cookie(request, response, session)
    return response


@router.post("/sign-out")
async def sign_out(request: Request, connection: Connection) -> Response:
    """End the session."""
    refuse_cross_site(request)
    token = request.cookies.get(SESSION_COOKIE)
    user = None if token is None else await find_user(connection, token)
    if user is not None:
        await connection.execute(REVOKE, [user.token_id])
    response = RedirectResponse("/sign-in", 303)
    response.delete_cookie(SESSION_COOKIE)
    return response


@router.get("/account")
async def show_account(request: Request, user: Viewer, connection: Connection) -> Response:
    """Show who one is, and the tokens one holds."""
    return page(
        request, "account.html",
        account=await who_am_i(user, connection),
        tokens=await list_tokens(user, connection),
        issued=None,
    )  # fmt: skip


@router.post("/account/password")
async def set_password(
    request: Request,
    user: Viewer,
    connection: Connection,
    change: Annotated[PasswordChange, Form()],
) -> Response:
    """Change one's password, which ends all sessions, this one too."""
    await change_password(user, request, connection, change)
    return back_to(request, "/sign-in")


@router.post("/account/tokens")
async def issue(
    request: Request, user: Viewer, connection: Connection, new: Annotated[NewToken, Form()]
) -> Response:
    """Make a token, and show it this once."""
    issued = await create_token(user, connection, new)
    return page(
        request, "_tokens.html",
        tokens=await list_tokens(user, connection), issued=issued, owner=user.id,
    )  # fmt: skip


@router.post("/tokens/{id}/revoke")
async def revoke(
    request: Request, user: Viewer, connection: Connection, token_id: PathId, owner: int
) -> Response:
    """Revoke a token."""
    await revoke_token(user, connection, token_id)
    return page(
        request, "_tokens.html",
        tokens=await list_tokens(user, connection, owner), issued=None, owner=owner,
    )  # fmt: skip
