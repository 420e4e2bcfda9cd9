"""The endpoints of one's own account: sign in and out, password, tokens."""

from datetime import timedelta

from fastapi import APIRouter, Request, Response
from psycopg.rows import DictRow

from api.audit import record
from api.auth import SESSION_COOKIE, Role, Viewer, issue_token, refuse_cross_site
from api.database import Connection
from api.passwords import hash_password
from api.problems import ProblemError, answers
from api.types import Id, PathId
from api.users import queries
from api.users.router import find
from api.users.schemas import (
    IssuedToken,
    NewToken,
    PasswordChange,
    Session,
    SignIn,
    TokenAnswer,
    UserAnswer,
)
from api.users.sign_in import NewSession, find_by_password, sign_in

router = APIRouter(prefix="/api", tags=["users"])


def client_of(request: Request) -> str:
    """Return the address that a request came from."""
    return request.client.host if request.client else "unknown"


def set_session_cookie(request: Request, response: Response, session: NewSession) -> None:
    """Give the browser the session, out of reach of scripts and of other sites."""
    response.set_cookie(
        SESSION_COOKIE,
        session.token,
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )


@router.post(
    "/session", status_code=201, response_model=Session, responses=answers(401, 403, 422, 429)
)
async def begin_session(
    request: Request, response: Response, connection: Connection, given: SignIn
) -> dict[str, object]:
    """Sign in: a token that lives for an hour after its last use, in the cookie too."""
    refuse_cross_site(request)
    password = given.password.get_secret_value()
    session = await sign_in(connection, given.name, password, client_of(request))
    set_session_cookie(request, response, session)
    user = await find(connection, queries.GET, session.user_id)
    return {"token": session.token, "expires_at": session.expires_at, "user": user}


@router.get("/session", response_model=UserAnswer, responses=answers(401))
async def who_am_i(user: Viewer, connection: Connection) -> DictRow:
    """Get who one is."""
    return await find(connection, queries.GET, user.id)


@router.delete("/session", status_code=204, responses=answers(401, 403))
async def end_session(user: Viewer, response: Response, connection: Connection) -> None:
    """Sign out: the token that this request came with is good no more."""
    await connection.execute(queries.REVOKE, [user.token_id])
    response.delete_cookie(SESSION_COOKIE)


@router.put("/password", status_code=204, responses=answers(401, 403, 409, 422, 429))
async def change_password(
    user: Viewer, request: Request, connection: Connection, change: PasswordChange
) -> None:
    """Change one's own password, which ends all sessions."""
    present = change.present.get_secret_value()
    if not await find_by_password(connection, user.name, present, client_of(request)):
        raise ProblemError(409, "The present password is not right.")
    password_hash = await hash_password(change.new)
    async with connection.transaction():
        account = await find(connection, queries.GET_FOR_CHANGE, user.id)
        await find(connection, queries.CHANGE, account | {"password_hash": password_hash})
        await connection.execute(queries.END_SESSIONS, [user.id])
        await record(connection, user, "update", "user", user.id, after={"password": "new"})


@router.get("/tokens", response_model=list[TokenAnswer], responses=answers(401, 403, 422))
async def list_tokens(
    user: Viewer, connection: Connection, user_id: Id | None = None
) -> list[DictRow]:
    """List one's own API tokens; an admin may ask for another user's."""
    owner = user.id if user_id is None else user_id
    if owner != user.id and user.role is not Role.ADMIN:
        raise ProblemError(403, "Only an admin sees the tokens of others.")
    return await (await connection.execute(queries.TOKENS, [owner])).fetchall()


@router.post(
    "/tokens", status_code=201, response_model=IssuedToken, responses=answers(401, 403, 422)
)
async def create_token(user: Viewer, connection: Connection, new: NewToken) -> dict[str, object]:
    """Make an API token of one's own. It can do what its owner can."""
    async with connection.transaction():
        token, token_id, _ = await issue_token(
            connection, user.id, "personal", new.name, timedelta(days=new.days)
        )
        await record(connection, user, "create", "token", token_id, after={"name": new.name})
        row = await (await connection.execute(queries.ONE_OF_TOKENS, [token_id])).fetchone()
    return {"token": token, **(row or {})}


@router.delete("/tokens/{id:int}", status_code=204, responses=answers(401, 403, 404, 422))
async def revoke_token(user: Viewer, connection: Connection, token_id: PathId) -> None:
    """Revoke an API token; an admin may revoke anybody's."""
    async with connection.transaction():
        token = await (await connection.execute(queries.ONE_OF_TOKENS, [token_id])).fetchone()
        if token is None or (token["user_id"] != user.id and user.role is not Role.ADMIN):
            raise ProblemError(404, "There is no such token.")
        await connection.execute(queries.REVOKE, [token_id])
        await record(connection, user, "revoke", "token", token_id, {"name": token["name"]})
