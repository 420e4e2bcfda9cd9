"""A plain start page: the last sync and the first opportunities, for who is signed in."""

import secrets
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader
from pydantic import BaseModel, Field

from api.auth import SESSION_COOKIE, User, find_user, refuse_cross_site
from api.database import Connection
from api.opportunities.queries import FIRST
from api.problems import ProblemError
from api.sync import queries as sync_queries
from api.users.queries import REVOKE
from api.users.session import client_of, set_session_cookie
from api.users.sign_in import sign_in, sign_in_by_token

router = APIRouter(include_in_schema=False)
pages = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)


class SignInForm(BaseModel):
    """What the form of the start page sends."""

    name: str = Field("", max_length=100, pattern="^[^\x00]*$")
    password: str = Field("", max_length=200)
    token: str = Field("", max_length=200)


@router.get("/")
async def start_page(request: Request, connection: Connection) -> Response:
    """Show the last sync and the first opportunities, or the way in."""
    return await _page(connection, await _user(request, connection))


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
        return await _page(connection, None, error.detail, error.status_code)
    response = RedirectResponse("/", 303)
    set_session_cookie(request, response, session)
    return response


@router.post("/sign-out")
async def sign_out(request: Request, connection: Connection) -> Response:
    """End the session."""
    refuse_cross_site(request)
    if (user := await _user(request, connection)) is not None:
        await connection.execute(REVOKE, [user.token_id])
    response = RedirectResponse("/", 303)
    response.delete_cookie(SESSION_COOKIE)
    return response


async def _user(request: Request, connection: Connection) -> User | None:
    token = request.cookies.get(SESSION_COOKIE)
    return None if token is None else await find_user(connection, token)


async def _page(
    connection: Connection, user: User | None, error: str | None = None, status: int = 200
) -> Response:
    nonce = secrets.token_urlsafe(16)
    text = pages.get_template("start.html").render(
        user=user,
        error=error,
        nonce=nonce,
        syncs=user and await sync_queries.fetch(connection, sync_queries.LATEST),
        opportunities=user and await (await connection.execute(FIRST)).fetchall(),
    )
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; form-action 'self'; base-uri 'none'"
    return HTMLResponse(text, status, {"Content-Security-Policy": policy})
