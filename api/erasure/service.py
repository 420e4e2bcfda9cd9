"""Erase the personal data of a user, or of an owner of deals in the CRM (GDPR, article 17).

How is in database/sql/functions/erase_person.sql. A rehearsal does the same and takes it back, so
that it can't differ.
"""

from collections import Counter
from typing import Any, LiteralString, Self

import psycopg
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field, model_validator

from api.audit import record
from api.auth import Role, User
from api.problems import ProblemError
from api.types import Id, Input, Text
from api.users.queries import LOCK_ADMINS
from api.users.service import NO_USER, has_admin
from database.settings import SignIn

ERASE_USER: LiteralString = "select * from erase_user(%(user_id)s)"
ERASE_OWNER: LiteralString = "select * from erase_sales_owner(%(owner)s)"
FIND_USER: LiteralString = """
select name, email from users where id = %(user_id)s and erased_at is null
"""
FIND_OWNER: LiteralString = """
select
    (select name from sales_owners where remote_id = sought.remote_id) as name,
    (select email from sales_owners where remote_id = sought.remote_id) as email
from (select %(owner)s::text as remote_id) as sought
where exists (select from sales_owners where remote_id = sought.remote_id)
    or exists (select from opportunities where sales_owner = sought.remote_id)
"""
SAME_USERS: LiteralString = """
select id, name
from users
where lower(email) = lower(%(email)s) and erased_at is null and id is distinct from %(user_id)s
order by id
"""
SAME_OWNERS: LiteralString = """
select remote_id, name
from sales_owners
where lower(email) = lower(%(email)s) and remote_id is distinct from %(owner)s
order by remote_id
"""
# A large database takes longer than any other request may.
NO_TIMEOUT: LiteralString = "set local statement_timeout = 0"


class Person(Input):
    """Whom to erase: a user, or an owner of deals in the CRM."""

    user_id: Id | None = None
    owner: Text | None = Field(None, description="`sales_owner` of the deals")

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.user_id is None) == (self.owner is None):
            raise ValueError("give user_id or owner")
        return self


class Erasure(BaseModel):
    """What was erased of a person, or would be."""

    user_id: int | None
    owner: str | None
    name: str | None = Field(description="As it was until now")
    rows: dict[str, int] = Field(
        description="How many rows of each table are deleted or changed",
        examples=[{"public.users": 1, "public.audit_log": 312}],
    )
    same_users: list[dict[str, Any]] = Field(
        description="Users with the same e-mail, who are not erased along: id, name"
    )
    same_owners: list[dict[str, Any]] = Field(
        description="Owners with the same e-mail, who are not erased along: remote_id, name"
    )


async def erase(
    connection: AsyncConnection[DictRow],
    user: User | None,
    person: Person,
    ways: SignIn,
    *,
    is_rehearsal: bool = False,
) -> Erasure:
    """Erase a person for good.

    Args:
        connection: To the database.
        user: Who asks; None: somebody at the command line.
        person: Whom to erase.
        ways: How users can sign in.
        is_rehearsal: Whether to take it back at the end.

    Raises:
        ProblemError: 403, it is not an admin who signed in; 404, there is no such person; 409, it
            is the user who asks, or the last admin who can sign in.
    """
    if user is not None:
        user.must_be(Role.ADMIN)
        user.must_be_signed_in()
        if person.user_id == user.id:
            raise ProblemError(409, "Another admin has to erase you.")
    async with connection.transaction(force_rollback=is_rehearsal):
        await connection.execute(NO_TIMEOUT)
        await connection.execute(LOCK_ADMINS)
        erasure = await _erase(connection, person, ways)
        if not is_rehearsal:
            subject, subject_id = (
                ("user", person.user_id) if person.owner is None else ("sales owner", person.owner)
            )
            await record(connection, user, "erase", subject, subject_id, after=erasure.rows)
    return erasure


async def _erase(connection: AsyncConnection[DictRow], person: Person, ways: SignIn) -> Erasure:
    found = await _find(connection, person)
    given = person.model_dump() | {"email": found["email"]}
    same_users = await (await connection.execute(SAME_USERS, given)).fetchall()
    same_owners = await (await connection.execute(SAME_OWNERS, given)).fetchall()
    had_admin = await has_admin(connection, ways)
    statement = ERASE_USER if person.owner is None else ERASE_OWNER
    rows: Counter[str] = Counter()
    try:
        for row in await (await connection.execute(statement, given)).fetchall():
            rows[row["place"]] += row["changed"]
    except psycopg.errors.NoDataFound as error:
        raise ProblemError(404, NO_USER) from error
    if had_admin and not await has_admin(connection, ways):
        raise ProblemError(409, f"{found['name']} is the last admin who can sign in.")
    return Erasure(
        user_id=person.user_id,
        owner=person.owner,
        name=found["name"],
        rows={place: count for place, count in sorted(rows.items()) if count},
        same_users=same_users,
        same_owners=same_owners,
    )


async def _find(connection: AsyncConnection[DictRow], person: Person) -> DictRow:
    query = FIND_USER if person.owner is None else FIND_OWNER
    found = await (await connection.execute(query, person.model_dump())).fetchone()
    if found is None:
        raise ProblemError(404, NO_USER if person.owner is None else "There is no such owner.")
    return found
