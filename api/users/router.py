"""The endpoints of users: an admin makes them, changes them, and bars them."""

from typing import LiteralString

import psycopg
from fastapi import APIRouter
from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.audit import record
from api.auth import Admin, Manager, Role
from api.database import Connection
from api.passwords import hash_password
from api.problems import ProblemError, answers
from api.types import PathId
from api.users import queries
from api.users.schemas import NewUser, UserAnswer, UserChange

router = APIRouter(prefix="/api/users", tags=["users"])


@router.get("", response_model=list[UserAnswer], responses=answers(401, 403))
async def list_users(_: Manager, connection: Connection) -> list[DictRow]:
    """List all users, for who assigns deals to them."""
    return await (await connection.execute(queries.LIST)).fetchall()


@router.post("", status_code=201, response_model=UserAnswer, responses=answers(401, 403, 409, 422))
async def create_user(admin: Admin, connection: Connection, new: NewUser) -> DictRow:
    """Make a user: a person with a password, or a service without."""
    password_hash = await hash_password(new.password)
    async with connection.transaction():
        user = await insert_user(connection, new, password_hash)
        await record(connection, admin, "create", "user", user["id"], after=_trace(user))
    return user


async def insert_user(
    connection: AsyncConnection[DictRow], new: NewUser, password_hash: str | None
) -> DictRow:
    """Put a new user into the table.

    Raises:
        ProblemError: 409, the name is taken.
    """
    values = new.model_dump(exclude={"password"}) | {"password_hash": password_hash}
    try:
        user = await (await connection.execute(queries.CREATE, values)).fetchone()
    except psycopg.errors.UniqueViolation as error:
        raise ProblemError(409, f"There is a user {new.name} already.") from error
    assert user is not None  # noqa: S101 - `returning` gives one
    return user


@router.get("/{id:int}", response_model=UserAnswer, responses=answers(401, 403, 404, 422))
async def get_user(_: Manager, connection: Connection, user_id: PathId) -> DictRow:
    """Get a user."""
    return await find(connection, queries.GET, user_id)


@router.patch("/{id:int}", response_model=UserAnswer, responses=answers(401, 403, 404, 409, 422))
async def change_user(
    admin: Admin,
    connection: Connection,
    user_id: PathId,
    change: UserChange,
) -> DictRow:
    """Change a user. A new role or password, or barring them, ends their sessions."""
    password_hash = await hash_password(change.password)
    wanted = change.model_dump(exclude_unset=True, exclude={"password"})
    if password_hash:
        wanted["password_hash"] = password_hash
    async with connection.transaction():
        await connection.execute(queries.LOCK_ADMINS)
        before = await find(connection, queries.GET_FOR_CHANGE, user_id)
        user = await find(connection, queries.CHANGE, before | wanted)
        admins = await (await connection.execute(queries.COUNT_ADMINS)).fetchone()
        if before["role"] == Role.ADMIN and admins is not None and admins["count"] == 0:
            raise ProblemError(409, f"{user['name']} is the last active admin.")
        if password_hash or {"role", "active"} & wanted.keys():
            await connection.execute(queries.END_SESSIONS, [user_id])
        if password_hash:
            await connection.execute(queries.FORGET_ATTEMPTS, [user["name"]])
        after = _trace(user) | ({"password": "new"} if password_hash else {})
        await record(connection, admin, "update", "user", user_id, _trace(before), after)
    return user


async def find(
    connection: AsyncConnection[DictRow], query: LiteralString, of: int | DictRow
) -> DictRow:
    """Return the user that a query finds.

    Raises:
        ProblemError: 404, there is none.
    """
    parameters = of if isinstance(of, dict) else [of]
    user = await (await connection.execute(query, parameters)).fetchone()
    if user is None:
        raise ProblemError(404, "There is no such user.")
    return user


def _trace(user: DictRow) -> DictRow:
    return {name: user[name] for name in ("name", "full_name", "email", "role", "active")}
