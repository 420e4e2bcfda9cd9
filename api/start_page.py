"""A plain start page: the last sync and the first opportunities, for who is signed in."""

import secrets
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Form, Request, Response
from fastapi.responses import HTMLResponse, RedirectResponse
from jinja2 import Environment, FileSystemLoader

from api.auth import SESSION_COOKIE, User, find_user, refuse_cross_site
from api.database import Connection
from api.opportunities.queries import FIRST
from api.sync import queries as sync_queries

router = APIRouter(include_in_schema=False)
pages = Environment(loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True)


@router.get("/")
async def start_page(request: Request, connection: Connection) -> Response:
    """Show the last sync and the first opportunities, or the way in."""
    token = request.cookies.get(SESSION_COOKIE)
    user = None if token is None else await find_user(connection, token)
    return await _page(connection, user)


@router.post("/sign-in")
async def sign_in(
    request: Request, connection: Connection, token: Annotated[str, Form(max_length=200)]
) -> Response:
    """Take a token into the browser's cookie."""
    refuse_cross_site(request)
    if await find_user(connection, token.strip()) is None:
        return await _page(connection, None, "This token is unknown, expired or revoked.", 401)
    response = RedirectResponse("/", 303)
    response.set_cookie(
        SESSION_COOKIE,
        token.strip(),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return response


@router.post("/sign-out")
async def sign_out(request: Request) -> Response:
    """Forget the token."""
    refuse_cross_site(request)
    response = RedirectResponse("/", 303)
    response.delete_cookie(SESSION_COOKIE)
    return response


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
