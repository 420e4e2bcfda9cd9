"""`python -m database`: bring it up to date, print its URL, open psql, stop the embedded server."""

import os
import sys

from database.address import EMBEDDED, database_url, libpq_environment
from database.embedded import BIN, stop_embedded


def main() -> None:
    """Do what the command line says."""
    match sys.argv[1:]:
        case ["migrate"]:
            from database.migrate import main as migrate

            migrate()
        case ["url"]:
            print(database_url())
        case ["psql", *arguments]:
            environment = os.environ | libpq_environment(database_url())
            os.execve(BIN / "psql", ["psql", *arguments], environment)  # noqa: S606
        case ["stop"]:
            stop_embedded(EMBEDDED)
        case _:
            sys.exit("usage: python -m database migrate|url|psql|stop")


if __name__ == "__main__":
    main()
