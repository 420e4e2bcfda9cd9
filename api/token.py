"""`python -m api.token ROLE` prints a new API token, alone on a line.

It belongs to the service user of that role, `service-ROLE`, which is made when needed and has
no password. `--scope`, which may be repeated, makes it good for less than the role may do.
"""

import argparse
import sys
from collections.abc import Iterable
from datetime import timedelta

import psycopg
from psycopg.rows import dict_row

from api.audit import RECORD, entry
from api.auth import ISSUE, MOST_DAYS, Role, Scope, new_token
from database.address import database_url, url_for
from database.migrate import migrate_if_needed

SERVICE_USER = """
insert into users (name, full_name, role, is_service)
values ('service-' || %(role)s, 'Services that act as ' || %(role)s, %(role)s, true)
on conflict (lower(name)) do update set updated_at = users.updated_at
returning id, role, active
"""


def make_token(
    url: str, role: Role, life: timedelta, scopes: Iterable[Scope] = tuple(Scope)
) -> str:
    """Return a new token of the role's service user.

    Raises:
        ValueError: somebody has barred that user, or given it another role.
    """
    with psycopg.connect(url_for("api", url)) as connection:
        row = connection.execute(SERVICE_USER, {"role": role}).fetchone()
        assert row is not None  # noqa: S101 - `returning` gives one
        user_id, its_role, is_active = row
        if its_role != role or not is_active:
            state = f"has the role {its_role}" if is_active else "is barred"
            raise ValueError(f"The user service-{role} {state}: correct that in the console first.")
        token, values = new_token(user_id, "personal", "command line", life, scopes=scopes)
        cursor = connection.cursor(row_factory=dict_row)
        (made,) = cursor.execute(ISSUE, values).fetchall()
        after = {"name": "command line", "of": f"service-{role}", "scopes": list(scopes)}
        connection.execute(RECORD, entry(None, "create", "token", made["id"], after=after))
    return token


def _days(text: str) -> int:
    days = int(text)
    if not 1 <= days <= MOST_DAYS:
        raise argparse.ArgumentTypeError(f"a token lives for 1 to {MOST_DAYS} days")
    return days


def main() -> None:
    """Read the command line, and print a token."""
    parser = argparse.ArgumentParser(prog="python -m api.token", description=make_token.__doc__)
    parser.add_argument("role", type=Role, choices=list(Role), metavar="|".join(Role))
    parser.add_argument("--days", type=_days, default=90, help="until it expires (default 90)")
    parser.add_argument(
        "--scope",
        type=Scope,
        choices=list(Scope),
        action="append",
        metavar="|".join(Scope),
        help="what it is good for, may be repeated (default: all that the role may do)",
    )
    arguments = parser.parse_args()
    url = database_url()
    migrate_if_needed(url)
    try:
        life = timedelta(days=arguments.days)
        print(make_token(url, arguments.role, life, arguments.scope or list(Scope)))
    except ValueError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
