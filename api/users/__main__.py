"""`python -m api.users NAME --role admin` makes a user, and asks for the password.

The first admin is made so. Where the input is no terminal, its first line is the password.
"""

import argparse
import asyncio
import getpass
import sys

import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr, ValidationError

from api.auth import Role
from api.passwords import hash_password
from api.problems import ProblemError
from api.users.schemas import NewUser
from api.users.service import insert_user
from database.address import database_url
from database.migrate import migrate_if_needed


async def create(url: str, new: NewUser) -> None:
    """Make a user in the database at a URL."""
    password_hash = await hash_password(new.password, new.name, new.full_name, new.email)
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        await insert_user(connection, new, password_hash)


def main() -> None:
    """Read the command line and the password, and make the user."""
    parser = argparse.ArgumentParser(prog="python -m api.users", description="Make a user.")
    parser.add_argument("name")
    parser.add_argument("--role", type=Role, choices=list(Role), default=Role.VIEWER)
    parser.add_argument("--full-name")
    parser.add_argument("--email")
    arguments = parser.parse_args()
    url = database_url()
    migrate_if_needed(url)
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    try:
        new = NewUser(**vars(arguments), password=SecretStr(password))
        asyncio.run(create(url, new))
    except ValidationError as error:
        sys.exit("; ".join(f"{found['loc'][0]}: {found['msg']}" for found in error.errors()))
    except ProblemError as error:
        sys.exit(error.detail)
    print(f"{new.name} can sign in, as {new.role}.")


if __name__ == "__main__":
    main()
