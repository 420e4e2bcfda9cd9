"""Links with which people set their passwords themselves: to begin, or after they forgot them.

Only admins make links, and pass them on as they like: a mail would show that a name exists here to
anybody who asks for one, and no address of a user has ever been proven. A link works once, until it
expires or another is made. The secret stands after the `#`, so no server or proxy logs it and no
Referer has it; to open the page changes nothing, since mail scanners do so.
"""

import logging
import secrets
from datetime import datetime, timedelta
from typing import LiteralString, NamedTuple

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import SecretStr

from api.audit import record
from api.auth import Role, User, hash_token
from api.database import fetch_one
from api.passwords import hash_password
from api.problems import ProblemError
from api.users import queries
from api.users.service import get_user
from database.settings import SignIn

log = logging.getLogger(__name__)

# A new link takes the place of the one before.
MAKE: LiteralString = """
insert into password_links (user_id, secret_hash, expires_at)
values (%(user_id)s, %(secret_hash)s, now() + %(life)s)
on conflict (user_id) do update
set secret_hash = excluded.secret_hash, created_at = now(), expires_at = excluded.expires_at
returning expires_at
"""
FIND: LiteralString = """
select users.id, users.name, users.full_name, users.email
from password_links
join users on users.id = password_links.user_id
where secret_hash = %s
    and expires_at > now()
    and users.active
    and not users.is_service
    and users.oidc_subject is null
    and users.erased_at is null
"""


class PasswordLink(NamedTuple):
    """A link that was just made for the user with a name."""

    name: str
    secret: str
    expires_at: datetime


async def make_link(
    connection: AsyncConnection[DictRow], user: User, user_id: int, ways: SignIn
) -> PasswordLink:
    """Make a link for a user.

    Args:
        connection: To the database.
        user: Who asks.
        user_id: Who shall set a password.
        ways: How users can sign in.

    Raises:
        ProblemError: 403, it is not an admin who signed in; 404, there is no such user; 409, the
            user has no use for a password.
    """
    user.must_be(Role.ADMIN)
    user.must_be_signed_in()
    if not ways.password_sign_in:
        raise ProblemError(409, "Passwords are switched off here: PASSWORD_SIGN_IN.")
    known = await get_user(connection, user, user_id)
    if known["oidc_subject"] is not None:
        raise ProblemError(409, f"{known['name']} signs in at the identity provider.")
    if known["is_service"]:
        raise ProblemError(409, f"{known['name']} is a service: it has no password.")
    if not known["active"]:
        raise ProblemError(409, f"{known['name']} is barred.")
    secret = secrets.token_urlsafe(32)
    values = {
        "user_id": user_id,
        "secret_hash": hash_token(secret),
        "life": timedelta(hours=ways.password_link_hours),
    }
    async with connection.transaction():
        expires_at = (await fetch_one(connection, MAKE, values))["expires_at"]
        until = {"expires_at": expires_at.isoformat()}
        await record(connection, user, "make password link", "user", user_id, after=until)
    return PasswordLink(known["name"], secret, expires_at)


async def set_password(
    connection: AsyncConnection[DictRow], secret: str, password: SecretStr, ways: SignIn
) -> None:
    """Set the password of the user whom a link is for, and end all access from before.

    Raises:
        ProblemError: 410, the link is good no more, or never was; 422, the password is easy to
            guess, and the link stays good.
    """
    secret_hash = hash_token(secret)
    gone = ProblemError(
        410, "This link was used, has expired, or was replaced. Ask an admin for a new one."
    )
    found = await (await connection.execute(FIND, [secret_hash])).fetchone()
    if found is None or not ways.password_sign_in:
        log.warning("a link to set a password was refused")
        raise gone
    password_hash = await hash_password(password, found["name"], found["full_name"], found["email"])
    user_id = found["id"]
    async with connection.transaction():
        # Two who use it at the same moment wait here, and the second finds it used.
        await connection.execute(queries.LOCK_USER, [user_id])
        if await (await connection.execute(FIND, [secret_hash])).fetchone() is None:
            raise gone
        await connection.execute(
            queries.SET_PASSWORD, {"user_id": user_id, "password_hash": password_hash}
        )
        await connection.execute(queries.END_ACCESS, {"user_id": user_id})
        await connection.execute(queries.UNLOCK, [user_id])
        await record(connection, None, "set password", "user", user_id, after={"with": "link"})
