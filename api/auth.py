"""Identify the user of a request, and check the role.

Tokens are opaque: 256 random bits, of which the database keeps the SHA-256. One look-up tells
who holds one and that it is neither expired nor revoked, so there is no signing key to keep.
"""

import hashlib
import secrets
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any, LiteralString, NamedTuple, TypeVar

from fastapi import Depends, Request
from fastapi.security import APIKeyCookie, HTTPAuthorizationCredentials, HTTPBearer
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from starlette.requests import HTTPConnection

from api.changes.cursor import Position
from api.database import SAFE_METHODS, Connection, connection_in_turn, fetch_one
from api.opportunities.unchanged import STATE, State
from api.problems import ProblemError
from api.public import PublicAddress

PREFIX = "ocs_"
MOST_DAYS = 366
"""An API token lives no longer."""


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


class Scope(StrEnum):
    """What a token is good for, within its user's role. All of them include reading."""

    READ = "read"
    WORKFLOW = "workflow"
    SYNC = "sync"
    ADMIN = "admin"


# What changes need if nothing else is said.
USUAL_SCOPES = {
    Role.VIEWER: Scope.READ,
    Role.ASSESSOR: Scope.WORKFLOW,
    Role.MANAGER: Scope.WORKFLOW,
    Role.ADMIN: Scope.ADMIN,
}


@dataclass(frozen=True)
class User:
    """The caller of a request."""

    id: int
    name: str
    role: Role
    token_id: int
    scopes: frozenset[Scope]
    is_signed_in: bool
    """By password. Else an API token is behind the request, also if it opened the console."""
    is_confirmed: bool
    """The password was given a few minutes ago."""
    as_of: str
    """Where in the feed of changes everything is that the user's request sees: a cursor."""
    seen: State | None = None
    """Of opportunities, when the user was identified."""

    def must_be(self, role: Role, scope: Scope | None = None) -> None:
        """Let nobody go on whose role is a lesser one, or whose token is not for this.

        Services ask before they do anything else, so that whoever calls them need not.

        Raises:
            ProblemError: 403.
        """
        if not self.role.includes(role):
            raise ProblemError(403, f"This needs the role {role}; {self.name} is {self.role}.")
        needed = scope or USUAL_SCOPES[role]
        if needed is not Scope.READ and needed not in self.scopes:
            raise ProblemError(403, f"This needs a token with the scope {needed}.")

    def must_be_signed_in(self) -> None:
        """Let no API token go on: what it could make would outlive it.

        Raises:
            ProblemError: 403.
        """
        if not self.is_signed_in:
            raise ProblemError(403, "No API token can do this: sign in with your password.")


class Client(NamedTuple):
    """Where a request comes from."""

    address: str
    browser: str
    token: str | None
    is_kept: bool = True
    """Whether address and browser may be stored for people to see."""

    @property
    def kept_address(self) -> str | None:
        """The address to store."""
        return self.address if self.is_kept else None

    @property
    def kept_browser(self) -> str | None:
        """The browser to store."""
        return self.browser if self.is_kept else None


def client_of(request: Request) -> Client:
    """Return where a request comes from, and the token that it carries, good or not."""
    return Client(
        address=request.client.host if request.client else "unknown",
        browser=request.headers.get("user-agent", "")[:300],
        token=request.headers.get("authorization", "").partition(" ")[2]
        or request.cookies.get(session_cookie(request)),
        is_kept=request.app.state.settings.api_keep_addresses,
    )


_Endpoint = TypeVar("_Endpoint", bound=Callable[..., Any])
_unattended: set[Callable[..., Any]] = set()


def unattended(endpoint: _Endpoint) -> _Endpoint:
    """Mark an endpoint that pages call by themselves: it keeps no session alive."""
    _unattended.add(endpoint)
    return endpoint


bearer = HTTPBearer(auto_error=False, description="A token of `make token`, or of a sign-in")


def session_cookie(request: HTTPConnection) -> str:
    """Return the name of the cookie that holds the console's session."""
    name: str = request.app.state.public.session_cookie
    return name


class _SessionCookie(APIKeyCookie):
    async def __call__(self, request: HTTPConnection) -> str | None:
        return request.cookies.get(session_cookie(request))


cookie = _SessionCookie(name="session", description="The console's session")

ISSUE: LiteralString = """
insert into tokens (
    user_id, kind, name, secret_hash, expires_at, scopes, parent_id, address, browser,
    signed_in_from, confirmed_at
)
values (
    %(user_id)s, %(kind)s, %(name)s, %(secret_hash)s, now() + %(life)s, %(scopes)s, %(parent_id)s,
    %(address)s, %(browser)s, %(signed_in_from)s,
    case when %(kind)s = 'session' and %(parent_id)s::bigint is null then now() end
)
returning id, expires_at
"""
IS_LIVE: LiteralString = """
tokens.revoked_at is null
and tokens.expires_at > now()
and users.active
and not exists (
    select
    from tokens as parent
    where parent.id = tokens.parent_id
        and (parent.revoked_at is not null or parent.expires_at <= now())
)
"""
FIND: LiteralString = f"""
with found as (
    select
        users.id, users.name, users.role, tokens.id as token_id, tokens.scopes,
        tokens.kind = 'session' and tokens.parent_id is null as is_signed_in,
        coalesce(tokens.confirmed_at > now() - interval '10 minutes', false) as is_confirmed,
        tokens.last_used_at
    from tokens
    join users on users.id = tokens.user_id
    where tokens.secret_hash = %(secret_hash)s and {IS_LIVE}
),
-- To the minute is enough, and spares a write for each request.
used as (
    update tokens
    set
        last_used_at = now(),
        address = coalesce(%(address)s, address),
        -- A session lives on while it is used, for a day's work at most.
        expires_at = case when kind = 'session'
            then least(created_at + interval '12 hours', now() + interval '1 hour')
            else expires_at
        end
    from found
    where tokens.id = found.token_id
        and %(is_use)s
        and coalesce(found.last_used_at, '-infinity') < now() - interval '1 minute'
)
select
    found.id, name, role, token_id, scopes, is_signed_in, is_confirmed,
    (select generation from change_feed) as generation,
    pg_snapshot_xmin(pg_current_snapshot())::text as horizon,
    {STATE}
from found
"""  # noqa: S608 - put together in this file

IS_GOOD: LiteralString = f"""
select exists (
    select
    from tokens
    join users on users.id = tokens.user_id
    where tokens.id = %s and {IS_LIVE}
) as is_good
"""  # noqa: S608 - put together in this file


def new_token(
    user_id: int,
    kind: str,
    name: str,
    life: timedelta,
    *,
    scopes: Iterable[Scope] = tuple(Scope),
    parent_id: int | None = None,
    client: Client | None = None,
    signed_in_from: str | None = None,
) -> tuple[str, dict[str, Any]]:
    """Return a fresh token of a user, and the values to store of it by `ISSUE`."""
    token = PREFIX + secrets.token_urlsafe(32)
    return token, {
        "user_id": user_id,
        "kind": kind,
        "name": name,
        "secret_hash": hash_token(token),
        "life": life,
        "scopes": sorted({Scope.READ, *scopes}, key=list(Scope).index),
        "parent_id": parent_id,
        "address": client and client.kept_address,
        "browser": client and client.kept_browser,
        "signed_in_from": signed_in_from,
    }


def hash_token(token: str) -> bytes:
    """Return the hash of a token."""
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()


async def issue_token(
    connection: AsyncConnection[DictRow],
    user_id: int,
    kind: str,
    name: str,
    life: timedelta,
    **more: Any,
) -> tuple[str, int, datetime]:
    """Store a new token as `new_token` makes it; return it, its id and when it expires."""
    token, values = new_token(user_id, kind, name, life, **more)
    row = await fetch_one(connection, ISSUE, values)
    return token, row["id"], row["expires_at"]


async def find_user(
    connection: AsyncConnection[DictRow],
    token: str,
    *,
    address: str | None = None,
    is_use: bool = True,
) -> User | None:
    """Return the user of a token; None if it is unknown, expired or revoked.

    Args:
        connection: To the database.
        token: What the caller sent.
        address: Where it was sent from.
        is_use: Whether a person or program asks, so that a session goes on.
    """
    values = {"secret_hash": hash_token(token), "address": address, "is_use": is_use}
    row = await (await connection.execute(FIND, values)).fetchone()
    if row is None:
        return None
    as_of = Position(row.pop("horizon")).encode(row.pop("generation"))
    given = {"role": Role(row["role"]), "scopes": frozenset(map(Scope, row["scopes"]))}
    seen = State(row.pop("version"), row.pop("snapshot"))
    return User(**row | given, as_of=as_of, seen=seen)


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
    user = await find_user(
        connection,
        token,
        address=client_of(request).kept_address,
        is_use=request.scope.get("endpoint") not in _unattended,
    )
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
    public: PublicAddress = request.app.state.public
    origin = request.headers.get("origin")
    site = request.headers.get("sec-fetch-site")
    is_own = origin is None or public.is_own_origin(origin, request.headers.get("host", ""))
    # Behind a proxy that sends another Host, only the browser knows.
    is_known = site is not None and public.url is None
    if site not in (None, "same-origin", "none") or not (is_own or is_known):
        raise ProblemError(403, "A page of another site may not do this with your session.")


def _unauthorised(detail: str, error: str = "") -> ProblemError:
    return ProblemError(401, detail, headers={"WWW-Authenticate": f'Bearer realm="api"{error}'})


CurrentUser = Annotated[User, Depends(identify)]
UserWithoutConnection = Annotated[User, Depends(identify_first)]
