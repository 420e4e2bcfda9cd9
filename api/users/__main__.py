"""`python -m api.users NAME --role admin` makes a user, and asks for the password.

The first admin is made so. Where the input is no terminal, its first line is the password. An admin
who is made so can sign in with it even if `PASSWORD_SIGN_IN` is off.

`python -m api.users NAME --oidc-subject SUBJECT` lets a local user sign in at the identity provider
from now on, and no longer with a password.
"""

import argparse
import asyncio
import getpass
import sys

import psycopg
from psycopg.rows import dict_row
from pydantic import SecretStr, ValidationError

from api.audit import record
from api.auth import Role
from api.oidc.service import link
from api.passwords import hash_password
from api.problems import ProblemError
from api.users.schemas import NewUser
from api.users.service import insert_user, trace
from database.address import database_url, url_for
from database.migrate import migrate_if_needed
from database.settings import read_settings


async def create(url: str, new: NewUser) -> None:
    """Make a user in the database at a URL."""
    password_hash = await hash_password(new.password, new.name, new.full_name, new.email)
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        is_admin = new.role is Role.ADMIN
        user = await insert_user(connection, new, password_hash, is_break_glass=is_admin)
        await record(connection, None, "create", "user", user["id"], after=trace(user))


async def hand_over(url: str, name: str, issuer: str, subject: str) -> None:
    """Let a local user in the database at a URL sign in at the identity provider."""
    async with await psycopg.AsyncConnection.connect(url, row_factory=dict_row) as connection:
        await link(connection, name, issuer, subject)


def main() -> None:
    """Read the command line and the password, and make the user."""
    parser = argparse.ArgumentParser(prog="python -m api.users", description="Make a user.")
    parser.add_argument("name")
    parser.add_argument("--role", type=Role, choices=list(Role), default=Role.VIEWER)
    parser.add_argument("--full-name")
    parser.add_argument("--email")
    parser.add_argument("--oidc-subject", help="who the user is at the identity provider")
    arguments = parser.parse_args()
    subject = vars(arguments).pop("oidc_subject")
    url = database_url()
    migrate_if_needed(url)
    if subject is not None:
        issuer = read_settings().oidc_issuer
        if issuer is None:
            sys.exit("OIDC_ISSUER is not set.")
        try:
            asyncio.run(hand_over(url_for("api", url), arguments.name, issuer.rstrip("/"), subject))
        except ProblemError as error:
            sys.exit(error.detail)
        print(f"{arguments.name} signs in at {issuer}.")
        return
    password = getpass.getpass() if sys.stdin.isatty() else sys.stdin.readline().rstrip("\n")
    try:
        new = NewUser(**vars(arguments), password=SecretStr(password))
        asyncio.run(create(url_for("api", url), new))
    except ValidationError as error:
        sys.exit("; ".join(f"{found['loc'][0]}: {found['msg']}" for found in error.errors()))
    except ProblemError as error:
        sys.exit(error.detail)
    print(f"{new.name} can sign in, as {new.role}.")


if __name__ == "__main__":
    main()
