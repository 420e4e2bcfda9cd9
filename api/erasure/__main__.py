"""`make erase PERSON=ada` says what would be erased of a user; `APPLY=1` erases it for good.

`make erase OWNER=300000012345678` does the same for an owner of deals in the CRM: give the
`sales_owner` of the deals.
"""

import argparse
import asyncio
import sys
from collections.abc import Iterator

import psycopg
from psycopg.rows import dict_row

from api.erasure.service import Erasure, Person, erase
from api.problems import ProblemError
from api.users.names import unify
from database.address import database_url, url_for
from database.migrate import migrate_if_needed
from database.settings import Settings, read_settings

FIND = "select id from users where lower(name) = lower(%s)"


async def run(
    url: str, user: str | None, owner: str | None, ways: Settings, *, apply: bool
) -> Erasure:
    """Erase a user, by name, or an owner; without `apply`, only rehearse.

    Raises:
        ProblemError: 404, there is no such person; 409, it is the last admin who can sign in.
    """
    async with await psycopg.AsyncConnection.connect(
        url, row_factory=dict_row, autocommit=True
    ) as connection:
        wait = "select set_config('lock_timeout', %s, false)"
        await connection.execute(wait, [f"{ways.sync_lock_timeout}s"])
        if user is None:
            person = Person(user_id=None, owner=owner)
        else:
            found = await (await connection.execute(FIND, [unify(user)])).fetchone()
            if found is None:
                raise ProblemError(404, f"There is no user {user}.")
            person = Person(user_id=found["id"], owner=None)
        return await erase(connection, None, person, ways, is_rehearsal=not apply)


def report(erasure: Erasure, *, is_applied: bool) -> Iterator[str]:
    """Yield the lines that tell people what was erased, or would be."""
    who = erasure.name or f"owner {erasure.owner}"
    yield f"{who}: {'this was erased' if is_applied else 'this would be erased'}:"
    for table, count in erasure.rows.items():
        yield f"{count:12,} rows of {table}"
    for user in erasure.same_users:
        yield f"The user {user['name']} has the same e-mail: make erase PERSON={user['name']}"
    for owner in erasure.same_owners:
        yield f"A CRM owner has the same e-mail: make erase OWNER={owner['remote_id']}"
    if not is_applied:
        yield "Nothing is changed. To erase it for good, add APPLY=1."


def main() -> None:
    """Read the command line, and erase or rehearse."""
    parser = argparse.ArgumentParser(prog="make erase", description="Erase a person.")
    whom = parser.add_mutually_exclusive_group(required=True)
    whom.add_argument("--user", help="the name to sign in with")
    whom.add_argument("--owner", help="the sales_owner of the deals")
    parser.add_argument("--apply", action="store_true")
    arguments = parser.parse_args()
    url = database_url()
    migrate_if_needed(url)
    try:
        erasure = asyncio.run(run(url_for("migrate", url), **vars(arguments), ways=read_settings()))
    except ProblemError as error:
        sys.exit(error.detail)
    except psycopg.errors.LockNotAvailable:
        sys.exit("Another session holds a lock, perhaps a sync: nothing is changed. Try again.")
    print(*report(erasure, is_applied=arguments.apply), sep="\n")


if __name__ == "__main__":
    main()
