"""Airflow's own database: on the server of `DATABASE_URL`, with the same name plus `_airflow`.

`python -m orchestrate.airflow.metadata url` prints its address in Airflow's format, for
AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_CMD; `create` creates it unless it exists.
"""

import sys

import psycopg
from psycopg import sql

from database.address import database_url, parameters, sqlalchemy_url


def name() -> str:
    """Return the name of Airflow's database."""
    return f"{parameters(database_url())['dbname']}_airflow"


def url() -> str:
    """Return the address of Airflow's database, with the driver that Airflow uses."""
    return sqlalchemy_url(database_url(), None, "psycopg2", name())


def create() -> None:
    """Create Airflow's database, unless it exists.

    Raises:
        SystemExit: the role has no permission to create it.
    """
    with psycopg.connect(database_url(), autocommit=True) as connection:
        found = connection.execute("select from pg_database where datname = %s", [name()])
        if found.rowcount:
            return
        try:
            connection.execute(sql.SQL("create database {}").format(sql.Identifier(name())))
        except psycopg.errors.InsufficientPrivilege:
            sys.exit(f'Airflow needs a database: as an admin, create database "{name()}" owner ...')


def main() -> None:
    """Run the command."""
    match sys.argv[1:]:
        case ["url"]:
            print(url(), end="")  # Airflow would read a newline as a part of the address
        case ["create"]:
            create()
        case _:
            sys.exit("usage: python -m orchestrate.airflow.metadata url|create")


if __name__ == "__main__":
    main()
