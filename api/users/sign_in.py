"""Signing in: passwords are checked, and guessing is slowed down.

Wrong passwords count for a name and where they come from: a browser that has a session of the
user, or else an address. Who guesses at an address that the user has never signed in from is
locked out there; where the user is known, there are only pauses. So no stranger can lock out a
name, or all who share an address.
"""

import logging
import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.audit import record
from api.auth import Client, User, find_user, hash_token, issue_token
from api.database import fetch_one
from api.limits import network_of
from api.passwords import renew_hash, verify_password
from api.problems import ProblemError
from api.users.names import unify

log = logging.getLogger(__name__)

SESSION_LIFE = timedelta(hours=1)
FREE_ATTEMPTS = 5
FREE_ATTEMPTS_OF_STRANGERS = 10
"""For one name, from all addresses together that its user has never signed in from."""
WINDOW_SECONDS = 15 * 60
LONGEST_PAUSE_SECONDS = 60

# An attempt counts before its password is checked: a hundred at once are a hundred.
ATTEMPT: LiteralString = """
insert into sign_in_attempts (name, client, session_id, is_known)
select
    lower(%(name)s),
    %(network)s,
    own.id,
    own.id is not null or exists (
        select
        from tokens
        join users on users.id = tokens.user_id
        where lower(users.name) = lower(%(name)s)
            and tokens.signed_in_from = %(network)s
            and tokens.created_at > now() - interval '30 days'
    )
from (select) as one
left join (
    select tokens.id
    from tokens
    join users on users.id = tokens.user_id
    where lower(users.name) = lower(%(name)s)
        and tokens.secret_hash = %(secret_hash)s
        and tokens.kind = 'session'
        -- It may have expired, but nobody has taken it back.
        and tokens.revoked_at is null
        and tokens.parent_id is null
) as own on true
returning id, session_id, is_known
"""
COUNT: LiteralString = """
with
recent as (
    select
        is_known,
        extract(epoch from clock_timestamp() - at)::float8 as ago,
        case
            when %(session_id)s::bigint is null
                then session_id is null and client = %(network)s
            else session_id = %(session_id)s
        end as is_own
    from sign_in_attempts
    where name = lower(%(name)s)
        and at > clock_timestamp() - make_interval(secs => %(window)s)
        and id < %(id)s
        and not is_forgiven
)
select
    count(*) filter (where is_own) as own,
    max(ago) filter (where is_own) as own_first,
    min(ago) filter (where is_own) as own_last,
    count(*) filter (where not is_known) as strange,
    min(ago) filter (where not is_known) as strange_last
from recent
"""
UNDO: LiteralString = "delete from sign_in_attempts where id = %(id)s"
FORGIVE: LiteralString = """
update sign_in_attempts
set is_forgiven = true
where name = lower(%(name)s)
    and not is_forgiven
    and case
        when %(session_id)s::bigint is null then session_id is null and client = %(network)s
        else session_id = %(session_id)s
    end
"""
FIND: LiteralString = """
select id, password_hash
from users
where lower(name) = lower(%(name)s)
    and active
    and (%(passwords)s or (is_break_glass and role = 'admin'))
"""
# A reset or a bar waits for this, or this for it: then the password is no longer the right one.
LOCK: LiteralString = """
select
from users
where id = %(id)s and password_hash = %(password_hash)s and active
for no key update
"""
RENEW: LiteralString = "update users set password_hash = %(new_hash)s where id = %(id)s"
SIGNED_IN: LiteralString = """
with failed as (
    select count(*) as count
    from sign_in_attempts
    join users on sign_in_attempts.name = lower(users.name)
    where users.id = %(id)s
        and sign_in_attempts.at > coalesce(users.last_signed_in_at, '-infinity')
)
update users
set last_signed_in_at = now()
from failed
where id = %(id)s
returning failed.count
"""
KIND: LiteralString = "select kind from tokens where id = %s"


@dataclass(frozen=True)
class NewSession:
    """A session that was just begun."""

    user: User
    token: str
    expires_at: datetime
    failed_attempts: int = 0
    """Attempts to sign in with the name, by whomever, since the last one that succeeded."""


async def sign_in(
    connection: AsyncConnection[DictRow],
    name: str,
    password: str,
    client: Client,
    *,
    passwords: bool = True,
) -> NewSession:
    """Begin a session if name and password are right.

    Args:
        connection: To the database.
        name: What was typed as the name.
        password: What was typed as the password.
        client: Where the request comes from.
        passwords: Whether all users may sign in so; else admins made by a command only.

    Raises:
        ProblemError: 401, name or password are wrong; 429, too many have been.
    """
    found = await find_by_password(connection, name, password, client, passwords=passwords)
    new_hash = None if found is None else await renew_hash(found["password_hash"], password)
    async with connection.transaction():
        if found is None or (await connection.execute(LOCK, found)).rowcount == 0:
            raise ProblemError(
                401, "The name or the password is wrong.", headers={"WWW-Authenticate": "Bearer"}
            )
        if new_hash is not None:
            await connection.execute(RENEW, found | {"new_hash": new_hash})
        failed = await fetch_one(connection, SIGNED_IN, found)
        token, token_id, expires_at = await issue_token(
            connection,
            found["id"],
            "session",
            "sign-in",
            SESSION_LIFE,
            client=client,
            signed_in_from=network_of(client.address),
        )
        user = await user_of(connection, token)
        how = None if passwords else {"with": "password, in an emergency"}
        await record(connection, user, "sign in", "session", token_id, after=how)
        return NewSession(user, token, expires_at, failed["count"])


async def find_by_password(
    connection: AsyncConnection[DictRow],
    name: str,
    password: str,
    client: Client,
    *,
    passwords: bool = True,
) -> DictRow | None:
    """Return the id and password_hash of the user with this name and password, or None.

    Raises:
        ProblemError: 429, too many attempts with this name have failed.
    """
    attempt: DictRow = {
        "name": unify(name),
        "network": network_of(client.address),
        "secret_hash": None if client.token is None else hash_token(client.token),
        "window": WINDOW_SECONDS,
        "passwords": passwords,
    }
    attempt |= await fetch_one(connection, ATTEMPT, attempt)
    before = await fetch_one(connection, COUNT, attempt)
    seconds = _seconds_to_wait(before, is_known=attempt["is_known"])
    if seconds > 0:
        await connection.execute(UNDO, attempt)
        wait = math.ceil(seconds)
        detail = (
            "There were too many attempts with a wrong password. Try again in"
            f" {wait} seconds, or ask an admin to unlock the name."
        )
        raise ProblemError(429, detail, headers={"Retry-After": str(wait)})

    user = await (await connection.execute(FIND, attempt)).fetchone()
    stored = None if user is None else user["password_hash"]
    if await verify_password(stored, password) and user is not None:
        await connection.execute(UNDO, attempt)
        await connection.execute(FORGIVE, attempt)
        return user
    failed = {"tried": attempt["name"], "address": client.kept_address, "failed": before["own"] + 1}
    log.warning("wrong name or password", extra=failed)
    await record(connection, None, "fail to sign in", "name", attempt["name"])
    if user is not None and failed["failed"] == FREE_ATTEMPTS:
        await record(connection, None, "slow down", "user", user["id"], after=failed)
    return None


def _seconds_to_wait(before: DictRow, *, is_known: bool) -> float:
    """Return for how long no password is checked, after what has failed before."""
    if is_known:
        seconds = _pause(before["own"] - FREE_ATTEMPTS) - (before["own_last"] or 0)
    elif before["own"] >= FREE_ATTEMPTS:
        seconds = WINDOW_SECONDS - before["own_first"]
    else:
        pause = _pause(before["strange"] - FREE_ATTEMPTS_OF_STRANGERS)
        seconds = pause - (before["strange_last"] or 0)
    return float(seconds)


def _pause(too_many: int) -> int:
    """Return the seconds to wait after the last of so many attempts beyond the free ones.

    >>> [_pause(too_many) for too_many in (-1, 0, 1, 5, 6, 1000)]
    [0, 1, 2, 32, 60, 60]
    """
    if too_many < 0:
        return 0
    return LONGEST_PAUSE_SECONDS if too_many > 10 else min(1 << too_many, LONGEST_PAUSE_SECONDS)


async def sign_in_by_token(
    connection: AsyncConnection[DictRow], token: str, client: Client
) -> NewSession:
    """Open the console with an API token: the session can do no more than it, and ends with it.

    Raises:
        ProblemError: 401, the token is not good, or is none of the API.
    """
    user = await find_user(connection, token.strip(), address=client.kept_address)
    if user is None or (await fetch_one(connection, KIND, [user.token_id]))["kind"] != "personal":
        raise ProblemError(401, "This token is unknown, expired or revoked.")
    session, session_id, expires_at = await issue_token(
        connection,
        user.id,
        "session",
        "API token",
        SESSION_LIFE,
        scopes=user.scopes,
        parent_id=user.token_id,
        client=client,
    )
    by = {"token": user.token_id}
    await record(connection, user, "sign in", "session", session_id, after=by)
    return NewSession(await user_of(connection, session), session, expires_at)


async def user_of(connection: AsyncConnection[DictRow], token: str) -> User:
    """Return the user of a session that was just begun."""
    user = await find_user(connection, token, is_use=False)
    assert user is not None  # noqa: S101 - the token was made a moment ago
    return user
