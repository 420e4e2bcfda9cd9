"""Signing in: passwords are checked, and guessing is slowed down."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import User, find_user, issue_token
from api.database import fetch_one
from api.passwords import verify_password
from api.problems import ProblemError

SESSION_LIFE = timedelta(hours=1)
ATTEMPTS_PER_NAME = 5
ATTEMPTS_PER_CLIENT = 50

# An attempt counts before its password is checked: a hundred at once are a hundred.
ATTEMPT: LiteralString = """
insert into sign_in_attempts (name, client) values (lower(%s), %s) returning id
"""
COUNT: LiteralString = """
with recent as (
    select *
    from sign_in_attempts
    where at > clock_timestamp() - interval '15 minutes' and id <= %(id)s
        and (name = lower(%(name)s) or client = %(client)s)
)
select
    count(*) filter (where name = lower(%(name)s)) as of_name,
    count(*) filter (where client = %(client)s) as of_client,
    ceil(extract(epoch from min(at) + interval '15 minutes' - clock_timestamp()))::int as seconds
from recent
"""
FORGET: LiteralString = """
delete from sign_in_attempts
where id = %(id)s or name = lower(%(name)s)
"""
UNDO: LiteralString = "delete from sign_in_attempts where id = %(id)s"
FIND: LiteralString = """
select id, password_hash from users where lower(name) = lower(%s) and active
"""
SIGNED_IN: LiteralString = """
update users set last_signed_in_at = now() where id = %s
"""


@dataclass(frozen=True)
class NewSession:
    """A session that was just begun."""

    user: User
    token: str
    expires_at: datetime


async def sign_in(
    connection: AsyncConnection[DictRow], name: str, password: str, client: str
) -> NewSession:
    """Begin a session if name and password are right.

    Raises:
        ProblemError: 401, name or password are wrong; 429, too many have been.
    """
    user_id = await find_by_password(connection, name, password, client)
    if user_id is None:
        raise ProblemError(
            401, "The name or the password is wrong.", headers={"WWW-Authenticate": "Bearer"}
        )
    await connection.execute(SIGNED_IN, [user_id])
    return await begin_session(connection, user_id)


async def find_by_password(
    connection: AsyncConnection[DictRow], name: str, password: str, client: str
) -> int | None:
    """Return the id of the user with this name and password, or None.

    Raises:
        ProblemError: 429, too many attempts with this name or by this client have failed.
    """
    attempt = {"name": name, "client": client}
    attempt |= await fetch_one(connection, ATTEMPT, [name, client])
    counts = await fetch_one(connection, COUNT, attempt)
    if counts["of_name"] > ATTEMPTS_PER_NAME or counts["of_client"] > ATTEMPTS_PER_CLIENT:
        await connection.execute(UNDO, attempt)
        detail = "Too many attempts with a wrong password. Wait, or ask an admin."
        raise ProblemError(429, detail, headers={"Retry-After": str(counts["seconds"])})

    user = await (await connection.execute(FIND, [name])).fetchone()
    stored = None if user is None else user["password_hash"]
    if not await verify_password(stored, password) or user is None:
        return None
    await connection.execute(FORGET, attempt)
    return int(user["id"])


async def begin_session(connection: AsyncConnection[DictRow], user_id: int) -> NewSession:
    """Begin a session for a user."""
    token, _, expires_at = await issue_token(
        connection, user_id, "session", "sign-in", SESSION_LIFE
    )
    user = await find_user(connection, token)
    assert user is not None  # noqa: S101 - the token was made a moment ago
    return NewSession(user, token, expires_at)


async def sign_in_by_token(connection: AsyncConnection[DictRow], token: str) -> NewSession:
    """Begin a session for the holder of an API token.

    Raises:
        ProblemError: 401, the token is not good.
    """
    user = await find_user(connection, token.strip())
    if user is None:
        raise ProblemError(401, "This token is unknown, expired or revoked.")
    return await begin_session(connection, user.id)
