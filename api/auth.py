"""Identify the user of a request, and check the role.

Tokens are opaque: 256 random bits, of which the database keeps the SHA-256. One look-up tells
who holds one and that it is neither expired nor revoked, so there is no signing key to keep.
"""

import hashlib
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, LiteralString

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.addresses import split
from api.database import SAFE_METHODS, Connection, connection_in_turn, fetch_one
from api.problems import ProblemError

PREFIX = "ocs_"
SESSION_COOKIE = "session"


class Role(StrEnum):
    """What a user may do; each role may do what those before it may."""

    VIEWER = "viewer"
    ASSESSOR = "assessor"
    MANAGER = "manager"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """Tell whether this role may do what `other` may."""
        roles = list(Role)
        return roles.index(self) >= roles.index(other)


@dataclass(frozen=True)
class User:
    """The caller of a request."""

    id: int
    name: str
    role: Role
    token_id: int

    def must_be(self, role: Role) -> None:
        """Let nobody go on whose role is a lesser one.

        Services ask before they do anything else, so that whoever calls them need not.

        Raises:
            ProblemError: 403.
        """
        if not self.role.includes(role):
            raise ProblemError(403, f"This needs the role {role}; {self.name} is {self.role}.")


bearer = HTTPBearer(auto_error=False, description="A token of `make token`, or of a sign-in")
cookie = APIKeyCookie(name=SESSION_COOKIE, auto_error=False, description="The console's session")

ISSUE: LiteralString = """
insert into tokens (user_id, kind, name, secret_hash, expires_at)
values (%s, %s, %s, %s, now() + %s)
returning id, expires_at
"""
FIND: LiteralString = """
with found as (
    select users.id, users.name, users.role, tokens.id as token_id, tokens.last_used_at
    from tokens
    join users on users.id = tokens.user_id
    where tokens.secret_hash = %s
        and tokens.revoked_at is null
        and tokens.expires_at > now()
        and users.active
),
-- To the minute is enough, and spares a write for each request.
used as (
    update tokens
    set
        last_used_at = now(),
        -- A session lives on while it is used, for a day's work at most.
        expires_at = case when kind = 'session'
            then least(created_at + interval '12 hours', now() + interval '1 hour')
            else expires_at
        end
    from found
    where tokens.id = found.token_id
        and coalesce(found.last_used_at, '-infinity') < now() - interval '1 minute'
)
select id, name, role, token_id from found
"""

IS_GOOD: LiteralString = """
select exists (
    select
    from tokens
    join users on users.id = tokens.user_id
    where tokens.id = %s
        and tokens.revoked_at is null
        and tokens.expires_at > now()
        and users.active
) as is_good
"""


def new_token() -> tuple[str, bytes]:
    """Return a fresh token and the hash to store of it."""
    token = PREFIX + secrets.token_urlsafe(32)
    return token, hash_token(token)


def hash_token(token: str) -> bytes:
    """Return the hash of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


async def issue_token(
    connection: AsyncConnection[DictRow], user_id: int, kind: str, name: str, life: timedelta
) -> tuple[str, int, datetime]:
    """Store a new token of a user and return it, its id and when it expires."""
    token, secret_hash = new_token()
    row = await fetch_one(connection, ISSUE, [user_id, kind, name, secret_hash, life])
    return token, row["id"], row["expires_at"]


async def find_user(connection: AsyncConnection[DictRow], token: str) -> User | None:
    """Return the user of a token; None if it is unknown, expired or revoked."""
    row = await (await connection.execute(FIND, [hash_token(token)])).fetchone()
    return None if row is None else User(row["id"], row["name"], Role(row["role"]), row["token_id"])


async def is_still_let_in(connection: AsyncConnection[DictRow], user: User) -> bool:
    """Tell whether the token that a request came with, some time ago, is good still."""
    return bool((await fetch_one(connection, IS_GOOD, [user.token_id]))["is_good"])


async def get_token(
    request: Request,
    credentials: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
    session: Annotated[str | None, Depends(cookie)],
) -> str:
    """Return the token that a request came with, without a look at the database.

    Raises:
        ProblemError: 401, none; 403, a page of another site with the user's cookie.
    """
    if credentials is not None:
        return credentials.credentials
    if session is not None:
        refuse_cross_site(request)
        return session
    raise _unauthorised("This needs a token: send it as `Authorization: Bearer TOKEN`.")


Token = Annotated[str, Depends(get_token)]


async def identify(request: Request, token: Token, connection: Connection) -> User:
    """Return the user of a request.

    Raises:
        ProblemError: 401, nobody known; 403, a page of another site with the user's cookie.
    """
    user = await find_user(connection, token)
    if user is None:
        error = ', error="invalid_token"' if "authorization" in request.headers else ""
        raise _unauthorised("The token is unknown, expired or revoked.", error)
    request.state.user = user
    request.app.state.limits.callers.know(request.state.credentials, user.name)
    return user


async def identify_first(request: Request, token: Token) -> User:
    """Return the user of a request that will take connections of its own; raises as `identify`.

    To wait for another connection while one holds one is to wait for those who do the same.
    """
    async with connection_in_turn(request) as connection:
        return await identify(request, token, connection)


def refuse_cross_site(request: Request) -> None:
    """Refuse a change that a page of another site asks for with the user's cookie.

    Raises:
        ProblemError: 403.
    """
    if request.method in SAFE_METHODS:
        return
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site", "same-origin")
    if site not in ("same-origin", "none") or (
        origin is not None and (split(origin).netloc or None) != request.headers.get("host")
    ):
        raise ProblemError(403, "A page of another site may not do this with your session.")


def _unauthorised(detail: str, error: str = "") -> ProblemError:
    return ProblemError(401, detail, headers={"WWW-Authenticate": f'Bearer realm="api"{error}'})


CurrentUser = Annotated[User, Depends(identify)]
UserWithoutConnection = Annotated[User, Depends(identify_first)]
