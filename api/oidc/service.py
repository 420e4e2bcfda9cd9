"""Who may sign in by the identity provider, and as what."""

from collections.abc import Mapping
from typing import LiteralString

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import TypeAdapter, ValidationError

from api.audit import record
from api.auth import Client, Role, User, hash_token, issue_token
from api.database import fetch_one, fetch_or_404
from api.limits import network_of
from api.oidc.provider import Identity, RefusedError
from api.problems import ProblemError
from api.types import Text
from api.users import queries
from api.users.schemas import Email, Name
from api.users.service import trace
from api.users.sign_in import SESSION_LIFE, SIGNED_IN, NewSession, user_of

NAME: TypeAdapter[str] = TypeAdapter(Name)
OPTIONAL: dict[str, TypeAdapter[str]] = {
    "full_name": TypeAdapter(Text),
    "email": TypeAdapter(Email),
}
CLAIMS = {"full_name": "name", "email": "email"}

# The first one wins; what is older than an attempt may live is forgotten on the way.
COME_BACK: LiteralString = """
with forgotten as (
    delete from oidc_callbacks where at < now() - interval '1 hour'
)
insert into oidc_callbacks (state_hash) values (%s) on conflict do nothing
"""
FIND: LiteralString = f"""
select {queries.USER} from users
where oidc_issuer = %(issuer)s and oidc_subject = %(subject)s
for no key update
"""  # noqa: S608 - put together in this file
CREATE: LiteralString = f"""
insert into users (name, full_name, email, role, oidc_issuer, oidc_subject)
values (%(name)s, %(full_name)s, %(email)s, %(role)s, %(issuer)s, %(subject)s)
-- Two browsers at once: the second one finds the user of the first.
on conflict on constraint users_oidc do update set updated_at = now()
returning {queries.USER}
"""  # noqa: S608 - put together in this file
LINK: LiteralString = f"""
update users
set
    oidc_issuer = %(issuer)s, oidc_subject = %(subject)s, password_hash = null,
    is_break_glass = false, updated_at = now()
where lower(name) = lower(%(name)s) and oidc_subject is null
returning {queries.USER}
"""  # noqa: S608 - put together in this file
KEEP_ID_TOKEN: LiteralString = """
with over as (
    update tokens
    set id_token = null
    where id_token is not null and (revoked_at is not null or expires_at < now())
)
update tokens set id_token = %(id_token)s where id = %(id)s
"""  # noqa: S105 - no password
TAKE_ID_TOKEN: LiteralString = """
with found as (
    select id, id_token from tokens where id = %s and id_token is not null
)
update tokens
set id_token = null
from found
where tokens.id = found.id
returning found.id_token
"""  # noqa: S105 - no password


async def sign_in(
    connection: AsyncConnection[DictRow],
    identity: Identity,
    role: Role | None,
    name: object,
    client: Client,
    state: str,
) -> NewSession:
    """Begin a session of a user of the provider, who is made at the first time.

    Role, full name and e-mail follow the provider each time; the name stays. Another role ends the
    sessions from before, and no role ends all access.

    Args:
        connection: To the database, outside of a transaction.
        identity: Who it is.
        role: What the user's groups give; None: nothing.
        name: What a new user is to be called.
        client: Where the request comes from.
        state: Of the attempt, which works once.

    Raises:
        ProblemError: 400, the attempt was used before; 403, the user is barred, in no group that
            gives a role, or has a name that can't be one here; 409, another user has the name.
    """
    try:
        return await _sign_in(connection, identity, role, name, client, state)
    except ProblemError as refusal:
        tried = "".join(filter(str.isprintable, name))[:100] if isinstance(name, str) else ""
        how = {"with": "identity provider", "reason": refusal.detail}
        await record(connection, None, "fail to sign in", "name", tried.lower(), after=how)
        raise


async def _sign_in(
    connection: AsyncConnection[DictRow],
    identity: Identity,
    role: Role | None,
    name: object,
    client: Client,
    state: str,
) -> NewSession:
    key = {"issuer": identity.issuer, "subject": identity.subject}
    async with connection.transaction():
        if (await connection.execute(COME_BACK, [hash_token(state)])).rowcount == 0:
            raise ProblemError(400, "This sign-in was used before. Start again.")
        before = await (await connection.execute(FIND, key)).fetchone()
        if role is not None and (before is None or before["active"]):
            profile = key | _profile(identity) | {"role": role}
            if before is None:
                after = await _create(connection, profile | {"name": _name(name)})
            else:
                after = await _update(connection, before, profile)
            return await _begin(connection, identity, before, after, client)
        if before is not None and role is None:
            known = {"user_id": before["id"]}
            ended = await (await connection.execute(queries.END_ACCESS, known)).fetchall()
            lost = {"reason": "in no group that gives a role", "ended": len(ended)}
            await record(connection, None, "end access", "user", before["id"], after=lost)
    # Outside of the transaction: what has ended stays ended.
    if role is not None:
        raise RefusedError("You are barred here. Ask an admin.")
    raise RefusedError(
        "You are in no group that may use this. Ask for one where your groups are managed."
    )


async def _create(connection: AsyncConnection[DictRow], profile: DictRow) -> DictRow:
    try:
        async with connection.transaction():
            return await fetch_one(connection, CREATE, profile)
    except psycopg.errors.UniqueViolation as error:
        raise ProblemError(
            409,
            f"There is a local user {profile['name']} already. If that is you, an admin can link"
            f" the two: python -m api.users {profile['name']} --oidc-subject {profile['subject']}",
        ) from error


async def _update(
    connection: AsyncConnection[DictRow], before: DictRow, profile: DictRow
) -> DictRow:
    if all(before[field] == profile[field] for field in ("role", *CLAIMS)):
        return before
    if before["role"] != profile["role"]:
        await connection.execute(queries.END_SESSIONS, [before["id"]])
    return await fetch_one(connection, queries.CHANGE, before | profile)


async def _begin(
    connection: AsyncConnection[DictRow],
    identity: Identity,
    before: DictRow | None,
    after: DictRow,
    client: Client,
) -> NewSession:
    failed = await fetch_one(connection, SIGNED_IN, after)
    token, token_id, expires_at = await issue_token(
        connection,
        after["id"],
        "session",
        "identity provider",
        SESSION_LIFE,
        client=client,
        signed_in_from=network_of(client.address),
    )
    await connection.execute(KEEP_ID_TOKEN, {"id": token_id, "id_token": identity.id_token})
    user = await user_of(connection, token)
    if after != before:
        action = "create" if before is None else "update"
        was = None if before is None else trace(before)
        await record(connection, user, action, "user", user.id, was, trace(after))
    how = {"with": "identity provider"}
    await record(connection, user, "sign in", "session", token_id, after=how)
    return NewSession(user, token, expires_at, failed["count"])


def _profile(identity: Identity) -> dict[str, str | None]:
    """Return full name and e-mail; what could not be entered here is left out."""
    profile: dict[str, str | None] = {}
    for field, claim in CLAIMS.items():
        try:
            profile[field] = OPTIONAL[field].validate_python(identity.claims.get(claim))
        except ValidationError:
            profile[field] = None
    return profile


def _name(claimed: object) -> str:
    try:
        return NAME.validate_python(claimed)
    except ValidationError as error:
        raise RefusedError(
            "The identity provider gives you no name that can be one here"
            f" ({error.errors()[0]['msg']}). An admin can choose the claim: OIDC_NAME_CLAIM."
        ) from error


def role_of(groups: object, roles: Mapping[str, str]) -> Role | None:
    """Return the highest role that groups give; None: none of them gives one.

    Args:
        groups: What the claim holds: the names, or a single one.
        roles: The role of each group.

    >>> role_of(["sales", "managers"], {"sales": "viewer", "managers": "manager"})
    <Role.MANAGER: 'manager'>
    """
    names = groups if isinstance(groups, list) else [groups]
    found = [Role(roles[name]) for name in names if isinstance(name, str) and name in roles]
    return max(found, key=list(Role).index, default=None)


async def link(
    connection: AsyncConnection[DictRow], name: str, issuer: str, subject: str
) -> DictRow:
    """Hand a local user over to the provider, without asking who does it: for the command line.

    The password goes, and so do the sessions.

    Raises:
        ProblemError: 404, there is no such local user; 409, another user is this subject.
    """
    values = {"name": name, "issuer": issuer, "subject": subject}
    try:
        user = await fetch_or_404(connection, LINK, values, f"There is no local user {name}.")
    except psycopg.errors.UniqueViolation as error:
        raise ProblemError(409, f"Another user is {subject} already.") from error
    await connection.execute(queries.END_SESSIONS, [user["id"]])
    await record(connection, None, "link", "user", user["id"], after={"oidc_subject": subject})
    return user


async def take_id_token(connection: AsyncConnection[DictRow], user: User) -> str | None:
    """Return the ID token of the session that asks, once; None if it has none."""
    row = await (await connection.execute(TAKE_ID_TOKEN, [user.token_id])).fetchone()
    return None if row is None else str(row["id_token"])
