"""`python -m database`: migrate, print the URL, open psql, stop the embedded server.

`settings` writes what documents the settings.
"""

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
        case ["settings"]:
            from database.settings_documents import documents

            for path, text in documents().items():
                path.write_text(text)
        case _:
            sys.exit("usage: python -m database migrate|url|psql|stop|settings")


if __name__ == "__main__":
    main()
