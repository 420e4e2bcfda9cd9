"""`python -m orchestrate.deploy.healthy SERVICE`: exit code 0 if that service is healthy.

`api` is checked over HTTP, on this machine. `scheduler` has no port: it is healthy if its heartbeat
in the database is recent; while it starts, it has none. For `airflow metadatabase`, `airflow
scheduler` and `airflow dag_processor`, ask Airflow's API server at
AIRFLOW__CORE__EXECUTION_API_SERVER_URL.
"""

import json
import os
import sys
import urllib.error
import urllib.request
from urllib.parse import urljoin

import psycopg

from database.address import database_url, url_for
from database.settings import read_settings
from orchestrate.scheduler import HEARTBEAT_SECONDS

PATIENCE_SECONDS = 5


def api() -> str | None:
    """Return the API's problem, or None."""
    try:
        _get(f"http://127.0.0.1:{read_settings().api_port}/health/ready")
    except (urllib.error.URLError, OSError) as error:
        return str(error)
    return None


def airflow(component: str) -> str | None:
    """Return the problem of a part of Airflow, or None."""
    server = os.environ.get("AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "http://127.0.0.1:8080")
    try:
        health = json.loads(_get(urljoin(server, "/api/v2/monitor/health")))
    except (urllib.error.URLError, OSError) as error:
        return str(error)
    status = health[component]["status"]
    return None if status == "healthy" else f"Airflow reports for its {component}: {status}"


def _get(url: str) -> bytes:
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=PATIENCE_SECONDS) as answer:
        body: bytes = answer.read()
    return body


def scheduler() -> str | None:
    """Return the scheduler's problem, or None."""
    try:
        url = url_for("run", database_url())
        with psycopg.connect(url, connect_timeout=PATIENCE_SECONDS) as connection:
            row = connection.execute(
                """
                select max(heartbeat_at) > now() - make_interval(secs => %s) from schedules
                """,
                [4 * HEARTBEAT_SECONDS],
            ).fetchone()
    except psycopg.Error as error:
        return str(error)
    return None if row and row[0] else "no recent heartbeat"


def main() -> None:
    """Exit with the problem, if there is one."""
    match sys.argv[1:]:
        case ["api"]:
            sys.exit(api())
        case ["scheduler"]:
            sys.exit(scheduler())
        case ["airflow", ("metadatabase" | "scheduler" | "dag_processor") as component]:
            sys.exit(airflow(component))
        case _:
            sys.exit(
                "usage: python -m orchestrate.deploy.healthy api|scheduler|"
                "airflow metadatabase|airflow scheduler|airflow dag_processor"
            )


if __name__ == "__main__":
    main()
