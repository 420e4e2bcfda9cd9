"""`python -m orchestrate.deploy.healthy api|scheduler`: exit code 0 if that service is well.

The API is asked over HTTP, on this machine. The scheduler has no port: it is well if its
heartbeat in the database is young; one that is still starting has none.
"""

import sys
import urllib.error
import urllib.request

import psycopg

from orchestrate.postgres import database_url
from orchestrate.scheduler import HEARTBEAT_SECONDS
from orchestrate.settings import setting

PATIENCE_SECONDS = 5


def api() -> str | None:
    """Return what is wrong with the API, or None."""
    url = f"http://127.0.0.1:{setting('API_PORT') or 8000}/health/ready"
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        opener.open(url, timeout=PATIENCE_SECONDS).close()
    except (urllib.error.URLError, OSError) as error:
        return str(error)
    return None


def scheduler() -> str | None:
    """Return what is wrong with the scheduler, or None."""
    try:
        with psycopg.connect(database_url(), connect_timeout=PATIENCE_SECONDS) as connection:
            row = connection.execute(
                """
                select max(heartbeat_at) > now() - make_interval(secs => %s) from schedules
                """,
                [4 * HEARTBEAT_SECONDS],
            ).fetchone()
    except psycopg.Error as error:
        return str(error)
    return None if row and row[0] else "no heartbeat of late"


def main() -> None:
    """Exit with what is wrong, if anything is."""
    match sys.argv[1:]:
        case ["api"]:
            sys.exit(api())
        case ["scheduler"]:
            sys.exit(scheduler())
        case _:
            sys.exit("usage: python -m orchestrate.deploy.healthy api|scheduler")


if __name__ == "__main__":
    main()
