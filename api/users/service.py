"""What can be done with users, their passwords and tokens, and by whom."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import SecretStr

from api.audit import record
from api.auth import Client, Role, Scope, User, is_still_let_in, issue_token
from api.database import fetch_one, fetch_or_404
from api.passwords import hash_password
from api.problems import ProblemError
from api.users import queries
from api.users.schemas import HeldFunction, NewToken, NewUser, PasswordChange, UserChange
from api.users.sign_in import find_by_password
from api.workflow import read_rules
from database.settings import SignIn
from declared.decisions import Function

NO_USER = "There is no such user."
NO_TOKEN = "There is no such token."  # noqa: S105 - no password
NO_SESSION = "There is no such session."


async def list_users(connection: AsyncConnection[DictRow], user: User) -> list[DictRow]:
    """List all users: deals are assigned to them."""
    user.must_be(Role.MANAGER, Scope.READ)
    return await (await connection.execute(queries.LIST)).fetchall()


async def list_accounts(connection: AsyncConnection[DictRow], user: User) -> list[DictRow]:
    """List all users for their administration, and how many sign-ins failed just now."""
    user.must_be(Role.ADMIN)
    users = await list_users(connection, user)
    found = await (await connection.execute(queries.RECENT_FAILURES)).fetchall()
    failures = {row["id"]: row["count"] for row in found}
    return [one | {"failures": failures.get(one["id"], 0)} for one in users]


async def get_user(connection: AsyncConnection[DictRow], user: User, user_id: int) -> DictRow:
    """Return a user; raises 404 if there is none."""
    user.must_be(Role.MANAGER, Scope.READ)
    return await fetch_or_404(connection, queries.GET, [user_id], NO_USER)


async def get_account(connection: AsyncConnection[DictRow], user: User) -> DictRow:
    """Return the user who asks."""
    user.must_be(Role.VIEWER)
    return await fetch_one(connection, queries.GET, [user.id])


async def create_user(connection: AsyncConnection[DictRow], user: User, new: NewUser) -> DictRow:
    """Create a person or a service.

    Raises:
        ProblemError: 403, an API token gives a password; 409, the name is taken; 422, the password
            is easy to guess.
    """
    user.must_be(Role.ADMIN)
    if new.password is not None:
        user.must_be_signed_in()
    password_hash = await hash_password(new.password, new.name, new.full_name, new.email)
    async with connection.transaction():
        created = await insert_user(connection, new, password_hash)
        await record(connection, user, "create", "user", created["id"], after=trace(created))
    return created


async def insert_user(
    connection: AsyncConnection[DictRow],
    new: NewUser,
    password_hash: str | None,
    *,
    is_break_glass: bool = False,
) -> DictRow:
    """Insert a user without asking who does it: for the command line.

    Raises:
        ProblemError: 409, the name is taken.
    """
    values = new.model_dump(exclude={"password"})
    values |= {"password_hash": password_hash, "is_break_glass": is_break_glass}
    try:
        return await fetch_one(connection, queries.CREATE, values)
    except psycopg.errors.UniqueViolation as error:
        raise ProblemError(409, f"There is a user {new.name} already.") from error


async def change_user(
    connection: AsyncConnection[DictRow],
    user: User,
    user_id: int,
    change: UserChange,
    ways: SignIn,
    seen: Mapping[str, Any] | None = None,
) -> DictRow:
    """Change a user. A new password, or barring them, ends all their access; a role, sessions.

    Args:
        connection: To the database.
        user: Who asks.
        user_id: Whom to change.
        change: What is to be different.
        ways: How users can sign in.
        seen: Of what is changed, what the user who asks saw.

    Raises:
        ProblemError: 403, an API token gives a password; 404, there is no such user; 409, it is the
            last admin who can sign in, a service gets a password, the identity provider decides,
            or it is not as it was seen; 422, the password is easy to guess.
    """
    user.must_be(Role.ADMIN)
    known = await get_user(connection, user, user_id)
    wanted = change.model_dump(exclude_unset=True, exclude={"password"})
    if known["oidc_subject"] is not None:
        _leave_to_provider(known, wanted, change.password)
    if change.password is not None:
        user.must_be_signed_in()
        if known["is_service"]:
            raise ProblemError(409, f"{known['name']} is a service: it has no password.")
    password_hash = await hash_password(
        change.password, known["name"], known["full_name"], known["email"]
    )
    async with connection.transaction():
        await connection.execute(queries.LOCK_ADMINS)
        before = await fetch_or_404(connection, queries.LOCK_USER, [user_id], NO_USER)
        _check_seen(before, seen or {})
        had_admin = await has_admin(connection, ways)
        after = await fetch_one(connection, queries.CHANGE, before | wanted)
        if had_admin and not await has_admin(connection, ways):
            raise ProblemError(409, f"{after['name']} is the last admin who can sign in.")
        traced = trace(after)
        if password_hash:
            new = {"user_id": user_id, "password_hash": password_hash}
            await connection.execute(queries.SET_PASSWORD, new)
            await connection.execute(queries.UNLOCK, [user_id])
            traced |= {"password": "new"}
        if password_hash or not after["active"]:
            await connection.execute(queries.END_ACCESS, {"user_id": user_id})
        elif {"role", "active"} & wanted.keys():
            await connection.execute(queries.END_SESSIONS, [user_id])
        await record(connection, user, "update", "user", user_id, trace(before), traced)
    return after


async def list_functions(
    connection: AsyncConnection[DictRow], user: User, user_id: int
) -> list[DictRow]:
    """List what a user is beside the role: one's own functions, or a manager anybody's."""
    if user_id != user.id:
        user.must_be(Role.MANAGER, Scope.READ)
    user.must_be(Role.VIEWER)
    await fetch_or_404(connection, queries.GET, [user_id], NO_USER)
    return await (await connection.execute(queries.FUNCTIONS, [user_id])).fetchall()


async def set_functions(
    connection: AsyncConnection[DictRow],
    user: User,
    user_id: int,
    wanted: list[HeldFunction],
    seen: list[DictRow] | None = None,
) -> list[DictRow]:
    """Give a user exactly these functions. What is voted already stays.

    Raises:
        ProblemError: 404, there is no such user; 409, they are not as they were `seen`; 422, a
            function is not declared or takes no value.
    """
    user.must_be(Role.ADMIN)
    declared = (await read_rules(connection)).decisions.functions
    async with connection.transaction():
        await fetch_or_404(connection, queries.LOCK_USER, [user_id], NO_USER)
        before = await (await connection.execute(queries.FUNCTIONS, [user_id])).fetchall()
        if seen not in (None, before):
            now = ", ".join(_in_words(before))
            raise _changed_meanwhile(f"the functions are {now}" if now else "there is no function")
        for held in wanted:
            if held.model_dump() not in before:
                _check_declared(declared, held)
        await connection.execute(queries.REMOVE_FUNCTIONS, [user_id])
        for held in wanted:
            row = [user_id, held.function, (held.value or "").strip()]
            await connection.execute(queries.ADD_FUNCTION, row)
        after = await (await connection.execute(queries.FUNCTIONS, [user_id])).fetchall()
        if after != before:
            states = [{"functions": _in_words(held)} for held in (before, after)]
            await record(connection, user, "update", "user", user_id, *states)
    return after


async def list_routes(connection: AsyncConnection[DictRow], user: User) -> list[str]:
    """List the values of the fields that route deals to functions, to choose from."""
    user.must_be(Role.ADMIN)
    declared = (await read_rules(connection)).decisions.functions
    values: list[str] = []
    for field in sorted({one.by for one in declared.values() if one.by is not None}):
        found = await connection.execute(queries.routes(field))
        values += [row["value"] for row in await found.fetchall()]
    return values


async def change_account(
    connection: AsyncConnection[DictRow],
    user: User,
    user_id: int,
    given: Mapping[str, Any],
    seen: Mapping[str, Any],
    ways: SignIn,
) -> tuple[DictRow, bool]:
    """Change of a user what is given and differs from `seen`; others may have changed the rest.

    Naming a role or a state would end their sessions, too.

    Returns:
        The user, and whether anything differed.

    Raises:
        ProblemError: As `change_user`.
    """
    user.must_be(Role.ADMIN)
    wanted = {name: value for name, value in given.items() if value != seen.get(name)}
    if not wanted:
        return await get_user(connection, user, user_id), False
    change = UserChange.model_validate(wanted)
    seen = {name: seen.get(name) for name in wanted}
    return await change_user(connection, user, user_id, change, ways, seen), True


async def change_password(
    connection: AsyncConnection[DictRow], user: User, change: PasswordChange, client: Client
) -> None:
    """Change the password of the user who asks, and end all sessions of theirs.

    Raises:
        ProblemError: 403, an API token asks; 409, the present password is wrong; 422, the new one
            is easy to guess; 429, it was wrong too often.
    """
    user.must_be_signed_in()
    await _confirm(connection, user, change.present, client)
    password_hash = await hash_password(change.new, user.name)
    async with connection.transaction():
        new = {"user_id": user.id, "password_hash": password_hash}
        await connection.execute(queries.SET_PASSWORD, new)
        await connection.execute(queries.END_SESSIONS, [user.id])
        await record(connection, user, "update", "user", user.id, after={"password": "new"})


async def sign_out(connection: AsyncConnection[DictRow], user: User) -> None:
    """Revoke the token of the request."""
    async with connection.transaction():
        await connection.execute(queries.REVOKE, [user.token_id])
        await record(connection, user, "sign out", "session", user.token_id)


async def list_tokens(
    connection: AsyncConnection[DictRow], user: User, owner: int | None = None
) -> list[DictRow]:
    """List the API tokens of the user who asks, or of another one if an admin asks."""
    user.must_be(Role.VIEWER if owner in (None, user.id) else Role.ADMIN)
    return await (
        await connection.execute(queries.TOKENS, [user.id if owner is None else owner])
    ).fetchall()


async def list_sessions(
    connection: AsyncConnection[DictRow], user: User, owner: int | None = None
) -> list[DictRow]:
    """List the sessions of the user who asks, or of another one if an admin asks."""
    user.must_be(Role.VIEWER if owner in (None, user.id) else Role.ADMIN)
    sessions = await (
        await connection.execute(queries.SESSIONS, [user.id if owner is None else owner])
    ).fetchall()
    return [one | {"is_current": one["id"] == user.token_id} for one in sessions]


async def list_failures(
    connection: AsyncConnection[DictRow], user: User, owner: int | None = None
) -> list[DictRow]:
    """List where sign-ins with a name have failed lately: client, count, last_at."""
    user.must_be(Role.VIEWER if owner in (None, user.id) else Role.ADMIN)
    return await (
        await connection.execute(queries.FAILURES, [user.id if owner is None else owner])
    ).fetchall()


async def list_access(
    connection: AsyncConnection[DictRow], user: User, limit: int
) -> list[DictRow]:
    """List the sessions and tokens that are good now, of all users, the last used ones first."""
    user.must_be(Role.ADMIN)
    found = await (await connection.execute(queries.ALL_ACCESS, [limit])).fetchall()
    return [one | {"is_current": one["id"] == user.token_id} for one in found]


async def get_access(connection: AsyncConnection[DictRow], user: User, user_id: int) -> DictRow:
    """Return a user's account, functions, tokens, sessions and failures, for administration.

    Raises:
        ProblemError: 404, there is no such user.
    """
    user.must_be(Role.ADMIN)
    return {
        "account": await get_user(connection, user, user_id),
        "tokens": await list_tokens(connection, user, user_id),
        "sessions": await list_sessions(connection, user, user_id),
        "failures": await list_failures(connection, user, user_id),
        "held": await list_functions(connection, user, user_id),
        "declared": (await read_rules(connection)).decisions.functions,
        "routes": await list_routes(connection, user),
    }


async def create_token(
    connection: AsyncConnection[DictRow], user: User, new: NewToken, client: Client
) -> dict[str, Any]:
    """Create an API token; the answer alone shows it.

    Raises:
        ProblemError: 401, the session has just ended; 403, an API token asks, or the sign-in was
            some time ago and there is no password; 409, the password is wrong; 429, it was wrong
            too often.
    """
    user.must_be_signed_in()
    if new.password is not None:
        await _confirm(connection, user, new.password, client)
    elif not user.is_confirmed:
        detail = (
            "You signed in more than 10 minutes ago: give your password, too, or sign in again."
        )
        raise ProblemError(403, detail)
    async with connection.transaction():
        await connection.execute(queries.SHARE_USER, [user.id])
        if not await is_still_let_in(connection, user):
            raise ProblemError(401, "This session has just ended.")
        token, token_id, _ = await issue_token(
            connection,
            user.id,
            "personal",
            new.name,
            timedelta(days=new.days),
            scopes=new.scopes,
        )
        made = {"name": new.name, "scopes": new.scopes}
        await record(connection, user, "create", "token", token_id, after=made)
        row = await fetch_one(connection, queries.ONE_OF_TOKENS, [token_id])
    return {"token": token, **row}


async def revoke_token(connection: AsyncConnection[DictRow], user: User, token_id: int) -> int:
    """Revoke an API token and return its owner's id; an admin may revoke anybody's.

    Raises:
        ProblemError: 404, there is none, or it is another user's.
    """
    async with connection.transaction():
        token = await fetch_or_404(connection, queries.ONE_OF_TOKENS, [token_id], NO_TOKEN)
        _must_manage(user, token["user_id"], NO_TOKEN)
        await connection.execute(queries.REVOKE, [token_id])
        await record(connection, user, "revoke", "token", token_id, {"name": token["name"]})
    return int(token["user_id"])


async def end_session(connection: AsyncConnection[DictRow], user: User, session_id: int) -> int:
    """End a session and return its user's id; an admin may end anybody's.

    Raises:
        ProblemError: 404, there is none, or it is another user's.
    """
    async with connection.transaction():
        session = await fetch_or_404(connection, queries.ONE_OF_SESSIONS, [session_id], NO_SESSION)
        _must_manage(user, session["user_id"], NO_SESSION)
        await connection.execute(queries.REVOKE, [session_id])
        before = {"address": session["address"], "browser": session["browser"]}
        await record(connection, user, "end", "session", session_id, before)
    return int(session["user_id"])


async def end_access(connection: AsyncConnection[DictRow], user: User, user_id: int) -> None:
    """End all sessions of a user and revoke all tokens; an admin may do so to anybody.

    Raises:
        ProblemError: 404, there is no such user, or it is another one.
    """
    async with connection.transaction():
        _must_manage(user, user_id, NO_USER)
        await fetch_or_404(connection, queries.LOCK_USER, [user_id], NO_USER)
        ended = await (
            await connection.execute(queries.END_ACCESS, {"user_id": user_id})
        ).fetchall()
        kinds = [row["kind"] for row in ended]
        counts = {"sessions": kinds.count("session"), "tokens": kinds.count("personal")}
        await record(connection, user, "end access", "user", user_id, before=counts)


async def unlock(connection: AsyncConnection[DictRow], user: User, user_id: int) -> DictRow:
    """Let a user sign in again at once, after whatever wrong passwords; raises 404 if no user."""
    user.must_be(Role.ADMIN)
    async with connection.transaction():
        account = await fetch_or_404(connection, queries.GET, [user_id], NO_USER)
        await connection.execute(queries.UNLOCK, [user_id])
        await record(connection, user, "unlock", "user", user_id)
    return account


def _must_manage(user: User, owner: int, missing: str) -> None:
    """Let only the owner go on who has signed in, and admins: for others it does not exist.

    Raises:
        ProblemError: 403 or 404.
    """
    if owner == user.id:
        user.must_be_signed_in()
    elif user.role is Role.ADMIN:
        user.must_be(Role.ADMIN)
    else:
        raise ProblemError(404, missing)


async def _confirm(
    connection: AsyncConnection[DictRow], user: User, password: SecretStr, client: Client
) -> None:
    """Check the password of the user who asks; raises 409 if it is wrong, 429 if too often."""
    given = password.get_secret_value()
    if await find_by_password(connection, user.name, given, client) is None:
        raise ProblemError(409, "The present password is not right.")
    await connection.execute(queries.CONFIRM, [user.token_id])


def _check_declared(declared: Mapping[str, Function], held: HeldFunction) -> None:
    """Refuse a new function that is not declared, or takes no value; raises 422."""
    if held.function not in declared:
        known = ", ".join(declared) or "none"
        detail = f"body: crm.yml declares no function {held.function}; it declares: {known}"
        raise ProblemError(422, detail)
    if held.value is not None and declared[held.function].by is None:
        raise ProblemError(422, f"body: {held.function} is of all deals: leave out the value")


def _check_seen(present: DictRow, seen: Mapping[str, Any]) -> None:
    """Refuse a change of what is not any more as it was seen; raises 409."""
    words = {
        "role": f"the role is {present['role']}",
        "active": "the user is active" if present["active"] else "the user is barred",
        "full_name": f"the full name is {present['full_name'] or 'empty'}",
        "email": f"the e-mail is {present['email'] or 'empty'}",
    }
    if now := [words[name] for name, value in seen.items() if value != present[name]]:
        raise _changed_meanwhile(" and ".join(now))


def _changed_meanwhile(now: str) -> ProblemError:
    return ProblemError(409, f"It has been changed meanwhile: {now}. Reload the page.")


def _in_words(functions: list[DictRow]) -> list[str]:
    return [
        one["function"] if one["value"] is None else f"{one['function']}: {one['value']}"
        for one in functions
    ]


def _leave_to_provider(user: DictRow, wanted: DictRow, password: SecretStr | None) -> None:
    """Refuse what the next sign-in would undo, or what would be a way round it; raises 409."""
    if password is not None or wanted.get("role", user["role"]) != user["role"]:
        raise ProblemError(
            409,
            f"{user['name']} signs in at the identity provider: the role comes from the groups"
            " there, and there is no password here. You can bar the user.",
        )


async def has_admin(connection: AsyncConnection[DictRow], ways: SignIn) -> bool:
    """Tell whether an admin can sign in."""
    given = {
        "oidc_issuer": ways.oidc_issuer and ways.oidc_issuer.rstrip("/"),
        "password_sign_in": ways.password_sign_in,
    }
    return bool((await fetch_one(connection, queries.HAS_ADMIN, given))["has_admin"])


def trace(user: DictRow) -> DictRow:
    """Return what the audit trail keeps of a user."""
    return {name: user[name] for name in ("name", "full_name", "email", "role", "active")}
