"""What can be done with users, their passwords and tokens, and by whom."""

from datetime import timedelta
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.audit import record
from api.auth import Role, User, issue_token
from api.database import fetch_one, fetch_or_404
from api.passwords import hash_password
from api.problems import ProblemError
from api.users import queries
from api.users.schemas import NewToken, NewUser, PasswordChange, UserChange
from api.users.sign_in import find_by_password

NO_USER = "There is no such user."
NO_TOKEN = "There is no such token."  # noqa: S105 - no password


async def list_users(connection: AsyncConnection[DictRow], user: User) -> list[DictRow]:
    """List all users: deals are assigned to them."""
    user.must_be(Role.MANAGER)
    return await (await connection.execute(queries.LIST)).fetchall()


async def list_accounts(connection: AsyncConnection[DictRow], user: User) -> list[DictRow]:
    """List all users for their administration."""
    user.must_be(Role.ADMIN)
    return await list_users(connection, user)


async def get_user(connection: AsyncConnection[DictRow], user: User, user_id: int) -> DictRow:
    """Return a user; raises 404 if there is none."""
    user.must_be(Role.MANAGER)
    return await fetch_or_404(connection, queries.GET, [user_id], NO_USER)


async def get_account(connection: AsyncConnection[DictRow], user: User) -> DictRow:
    """Return the user who asks."""
    user.must_be(Role.VIEWER)
    return await fetch_one(connection, queries.GET, [user.id])


async def create_user(connection: AsyncConnection[DictRow], user: User, new: NewUser) -> DictRow:
    """Create a person with a password, or a service without; raises 409 if the name is taken."""
    user.must_be(Role.ADMIN)
    password_hash = await hash_password(new.password, new.name, new.full_name, new.email)
    async with connection.transaction():
        created = await insert_user(connection, new, password_hash)
        await record(connection, user, "create", "user", created["id"], after=_trace(created))
    return created


async def insert_user(
    connection: AsyncConnection[DictRow], new: NewUser, password_hash: str | None
) -> DictRow:
    """Insert a user without asking who does it: for the command line.

    Raises:
        ProblemError: 409, the name is taken.
    """
    values = new.model_dump(exclude={"password"}) | {"password_hash": password_hash}
    try:
        return await fetch_one(connection, queries.CREATE, values)
    except psycopg.errors.UniqueViolation as error:
        raise ProblemError(409, f"There is a user {new.name} already.") from error


async def change_user(
    connection: AsyncConnection[DictRow], user: User, user_id: int, change: UserChange
) -> DictRow:
    """Change a user. A new role or password, or barring them, ends their sessions.

    Raises:
        ProblemError: 404, there is no such user; 409, it is the last active admin.
    """
    user.must_be(Role.ADMIN)
    known = await get_user(connection, user, user_id)
    password_hash = await hash_password(
        change.password, known["name"], known["full_name"], known["email"]
    )
    wanted = change.model_dump(exclude_unset=True, exclude={"password"})
    async with connection.transaction():
        await connection.execute(queries.LOCK_ADMINS)
        before = await fetch_or_404(connection, queries.GET_FOR_CHANGE, [user_id], NO_USER)
        after = await fetch_one(connection, queries.CHANGE, before | wanted)
        admins = await fetch_one(connection, queries.COUNT_ADMINS)
        if before["role"] == Role.ADMIN and admins["count"] == 0:
            raise ProblemError(409, f"{after['name']} is the last active admin.")
        traced = _trace(after)
        if password_hash:
            await connection.execute(queries.SET_PASSWORD, [password_hash, user_id])
            await connection.execute(queries.FORGET_ATTEMPTS, [after["name"]])
            traced |= {"password": "new"}
        if password_hash or {"role", "active"} & wanted.keys():
            await connection.execute(queries.END_SESSIONS, [user_id])
        await record(connection, user, "update", "user", user_id, _trace(before), traced)
    return after


async def change_account(
    connection: AsyncConnection[DictRow], user: User, user_id: int, seen: UserChange
) -> tuple[DictRow, bool]:
    """Change of a user what differs from `seen`: naming a role or state ends their sessions.

    Returns:
        The user, and whether anything differed.
    """
    user.must_be(Role.ADMIN)
    present = await get_user(connection, user, user_id)
    given = seen.model_dump(exclude_unset=True)
    wanted = {
        name: value
        for name, value in given.items()
        if value is not None and (name == "password" or value != present[name])
    }
    if not wanted:
        return present, False
    change = UserChange.model_validate(wanted)
    return await change_user(connection, user, user_id, change), True


async def change_password(
    connection: AsyncConnection[DictRow], user: User, change: PasswordChange, client: str
) -> None:
    """Change the password of the user who asks, and end all sessions of theirs.

    Raises:
        ProblemError: 409, the present password is wrong; 429, it was wrong too often.
    """
    user.must_be(Role.VIEWER)
    present = change.present.get_secret_value()
    if not await find_by_password(connection, user.name, present, client):
        raise ProblemError(409, "The present password is not right.")
    password_hash = await hash_password(change.new, user.name)
    async with connection.transaction():
        await connection.execute(queries.SET_PASSWORD, [password_hash, user.id])
        await connection.execute(queries.END_SESSIONS, [user.id])
        await record(connection, user, "update", "user", user.id, after={"password": "new"})


async def sign_out(connection: AsyncConnection[DictRow], user: User) -> None:
    """Revoke the token of the request."""
    await connection.execute(queries.REVOKE, [user.token_id])


async def list_tokens(
    connection: AsyncConnection[DictRow], user: User, owner: int | None = None
) -> list[DictRow]:
    """List the API tokens of the user who asks, or of another one if an admin asks."""
    user.must_be(Role.VIEWER if owner in (None, user.id) else Role.ADMIN)
    return await (
        await connection.execute(queries.TOKENS, [user.id if owner is None else owner])
    ).fetchall()


async def get_holder(
    connection: AsyncConnection[DictRow], user: User, user_id: int
) -> tuple[DictRow, list[DictRow]]:
    """Return a user and the API tokens they hold, for administration; raises 404 if no user."""
    user.must_be(Role.ADMIN)
    holder = await get_user(connection, user, user_id)
    return holder, await list_tokens(connection, user, user_id)


async def create_token(
    connection: AsyncConnection[DictRow], user: User, new: NewToken
) -> dict[str, Any]:
    """Create an API token, which may do what its owner may; the answer alone shows it."""
    user.must_be(Role.VIEWER)
    async with connection.transaction():
        token, token_id, _ = await issue_token(
            connection, user.id, "personal", new.name, timedelta(days=new.days)
        )
        await record(connection, user, "create", "token", token_id, after={"name": new.name})
        row = await fetch_one(connection, queries.ONE_OF_TOKENS, [token_id])
    return {"token": token, **row}


async def revoke_token(connection: AsyncConnection[DictRow], user: User, token_id: int) -> int:
    """Revoke an API token and return its owner's id; an admin may revoke anybody's.

    Raises:
        ProblemError: 404, there is none, or it is another user's.
    """
    user.must_be(Role.VIEWER)
    async with connection.transaction():
        token = await fetch_or_404(connection, queries.ONE_OF_TOKENS, [token_id], NO_TOKEN)
        if token["user_id"] != user.id and user.role is not Role.ADMIN:
            raise ProblemError(404, NO_TOKEN)
        await connection.execute(queries.REVOKE, [token_id])
        await record(connection, user, "revoke", "token", token_id, {"name": token["name"]})
    return int(token["user_id"])


def _trace(user: DictRow) -> DictRow:
    return {name: user[name] for name in ("name", "full_name", "email", "role", "active")}
