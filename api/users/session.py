"""The endpoints of one's own account: sign in and out, password, tokens."""

import asyncio

from fastapi import APIRouter, Depends, Request, Response
from psycopg.rows import DictRow

from api.auth import CurrentUser, client_of, refuse_cross_site, session_cookie
from api.database import Connection, let_wait
from api.limits import Place, busy
from api.problems import answers
from api.types import Id, PathId
from api.users import links, service
from api.users.schemas import (
    IssuedToken,
    NewToken,
    PasswordByLink,
    PasswordChange,
    Session,
    SessionAnswer,
    SignIn,
    TokenAnswer,
    UserAnswer,
)
from api.users.sign_in import NewSession, sign_in

router = APIRouter(prefix="/api", tags=["users"])

SIGN_IN_PATIENCE = 10


def set_session_cookie(request: Request, response: Response, session: NewSession) -> None:
    """Give the browser the session, out of reach of scripts and of other sites' forms.

    Links of other sites bring it along ("lax"): who follows one from a mail is signed in.
    """
    response.set_cookie(
        session_cookie(request),
        session.token,
        httponly=True,
        samesite="lax",
        secure=request.url.scheme == "https",
    )


def delete_session_cookie(request: Request, response: Response) -> None:
    """Take the session from the browser."""
    response.delete_cookie(session_cookie(request), secure=request.url.scheme == "https")


async def take_turn(request: Request) -> None:
    """Let a sign-in wait for its turn before it takes a connection: passwords take their time."""
    turns: asyncio.Semaphore = request.app.state.sign_ins
    let_wait(request, Place(turns, SIGN_IN_PATIENCE, lambda: busy("many are signing in.")))


@router.post(
    "/session",
    status_code=201,
    response_model=Session,
    responses=answers(401, 403, 422, 429),
    dependencies=[Depends(take_turn)],
)
async def begin_session(
    request: Request, response: Response, connection: Connection, given: SignIn
) -> dict[str, object]:
    """Sign in: a token that lives for an hour after its last use, in the cookie too."""
    refuse_cross_site(request)
    password = given.password.get_secret_value()
    session = await sign_in(
        connection,
        given.name,
        password,
        client_of(request),
        passwords=request.app.state.settings.password_sign_in,
    )
    set_session_cookie(request, response, session)
    account = await service.get_account(connection, session.user)
    return {
        "token": session.token,
        "expires_at": session.expires_at,
        "failed_attempts": session.failed_attempts,
        "user": account,
    }


@router.get("/session", response_model=UserAnswer, responses=answers(401))
async def who_am_i(user: CurrentUser, connection: Connection) -> DictRow:
    """Get who one is."""
    return await service.get_account(connection, user)


@router.delete("/session", status_code=204, responses=answers(401, 403))
async def end_session(
    user: CurrentUser, request: Request, response: Response, connection: Connection
) -> None:
    """Sign out: the token that this request came with is good no more."""
    await service.sign_out(connection, user)
    delete_session_cookie(request, response)


@router.get("/sessions", response_model=list[SessionAnswer], responses=answers(401, 403, 422))
async def list_sessions(
    user: CurrentUser, connection: Connection, user_id: Id | None = None
) -> list[DictRow]:
    """List one's own sessions that are under way; an admin may ask for another user's."""
    return await service.list_sessions(connection, user, user_id)


@router.delete("/sessions/{id:int}", status_code=204, responses=answers(401, 403, 404, 422))
async def end_one_session(user: CurrentUser, connection: Connection, session_id: PathId) -> None:
    """End a session; an admin may end anybody's."""
    await service.end_session(connection, user, session_id)


@router.put("/password", status_code=204, responses=answers(401, 403, 409, 422, 429))
async def change_password(
    user: CurrentUser, request: Request, connection: Connection, change: PasswordChange
) -> None:
    """Change one's own password, which ends all sessions."""
    await service.change_password(connection, user, change, client_of(request))


@router.post(
    "/password",
    status_code=204,
    responses=answers(410, 422),
    dependencies=[Depends(take_turn)],
)
async def set_password(request: Request, connection: Connection, given: PasswordByLink) -> None:
    """Set a password by a link that an admin made; it ends all access from before."""
    ways = request.app.state.settings
    await links.set_password(connection, given.secret.get_secret_value(), given.new, ways)


@router.get("/tokens", response_model=list[TokenAnswer], responses=answers(401, 403, 422))
async def list_tokens(
    user: CurrentUser, connection: Connection, user_id: Id | None = None
) -> list[DictRow]:
    """List one's own API tokens; an admin may ask for another user's."""
    return await service.list_tokens(connection, user, user_id)


@router.post(
    "/tokens",
    status_code=201,
    response_model=IssuedToken,
    responses=answers(401, 403, 409, 422, 429),
)
async def create_token(
    user: CurrentUser, request: Request, connection: Connection, new: NewToken
) -> dict[str, object]:
    """Create an API token of one's own: soon after a sign-in, or with the password again."""
    return await service.create_token(connection, user, new, client_of(request))


@router.delete("/tokens/{id:int}", status_code=204, responses=answers(401, 403, 404, 422))
async def revoke_token(user: CurrentUser, connection: Connection, token_id: PathId) -> None:
    """Revoke an API token; an admin may revoke anybody's."""
    await service.revoke_token(connection, user, token_id)
