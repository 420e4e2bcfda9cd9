"""`make demo`: a CRM sandbox, a real sync of it, the result to look at, and the API to use.

The demo never touches what `.env` names: it reads the sandbox and, unless the environment
says otherwise, writes the embedded PostgreSQL. Of `.env` it takes API_PORT alone.

Settings: API_PORT (8000), SANDBOX_PORT (8899); DEMO_SERVE=0 ends it after the summary.
"""

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg.rows import DictRow, dict_row
from rich.console import Console
from rich.table import Table

from database.address import database_url
from database.embedded import start_embedded
from database.environment import DATA, ROOT, setting
from runs.control import PIPELINE, command

LOCAL = "127.0.0.1"
SANDBOX_PORT = os.environ.get("SANDBOX_PORT") or "8899"
SANDBOX_URL = f"http://{LOCAL}:{SANDBOX_PORT}"
API_PORT = setting("API_PORT") or "8000"
API_URL = f"http://{LOCAL}:{API_PORT}"

console = Console(highlight=False)


def main() -> int:
    """Run the demo; returns the exit code of what failed first, the sync or the API."""
    is_served = os.environ.get("DEMO_SERVE", "1") != "0"
    if is_served:
        _check_free("API_PORT", API_PORT)
    # Told to stop, it stops what it started.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Each setting that is unset or empty in the environment would come from these.
    os.environ |= {
        "ORACLE_CRM_SYNC_ENV_FILE": os.devnull,
        "SECRETS_DIR": "",
        "API_HOST": LOCAL,
        "API_PORT": API_PORT,
    }
    os.environ["DATABASE_URL"] = os.environ.get("DATABASE_URL") or start_embedded(DATA / "postgres")
    subprocess.run([sys.executable, "-m", "database", "migrate"], cwd=ROOT, check=True)
    with _sandbox():
        console.rule("[bold]meltano run " + " ".join(PIPELINE))
        sync = subprocess.run(command(full=False), cwd=ROOT, check=False)
        _summarise()
        if sync.returncode != 0 or not is_served:
            return sync.returncode
        _show_addresses()
        return _serve()


def _check_free(setting_name: str, port: str) -> None:
    """End the demo if something else listens on a port that it needs."""
    try:
        socket.create_server((LOCAL, int(port))).close()
    except (OSError, ValueError, OverflowError) as error:
        sys.exit(f"Can't listen on port {port}: {error}. Set {setting_name} to a free port.")


@contextmanager
def _sandbox() -> Iterator[None]:
    """Point the settings at the sandbox; start one unless `make sandbox` runs already."""
    os.environ |= {
        "ORACLE_BASE_URL": SANDBOX_URL,
        "ORACLE_USER": os.environ.get("SANDBOX_USER", "sandbox"),
        "ORACLE_PASS": os.environ.get("SANDBOX_PASSWORD", "sandbox-password"),
    }
    for name in ("ORACLE_TOKEN_URL", "ORACLE_CLIENT_ID", "ORACLE_CLIENT_SECRET", "ORACLE_SCOPE"):
        os.environ[name] = ""
    if _answers(SANDBOX_URL):
        console.print(f"The CRM sandbox at {SANDBOX_URL} runs already: syncing that.")
        yield
        return
    _check_free("SANDBOX_PORT", SANDBOX_PORT)
    server = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "oracle_crm_sandbox",
            "--until-stdin-closes",
            "--port",
            SANDBOX_PORT,
            "--journal",
            DATA / "sandbox.journal",
        ],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
    )
    try:
        while not _answers(SANDBOX_URL):
            if server.poll() is not None:
                sys.exit("The CRM sandbox did not start: see above.")
            time.sleep(0.05)
        if _synced_before():
            _change_some_deals()
        yield
    finally:
        server.terminate()
        server.wait()


def _answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/_sandbox/requests", timeout=2):  # noqa: S310
            return True
    except (urllib.error.URLError, OSError):
        return False


def _synced_before() -> bool:
    with psycopg.connect(database_url()) as connection:
        row = connection.execute("select exists (select from opportunities)").fetchone()
    return bool(row and row[0])


def _change_some_deals() -> None:
    """Let the sales teams work between two demos: 20 deals change, 5 are new."""
    urllib.request.urlopen(  # noqa: S310
        urllib.request.Request(  # noqa: S310
            f"{SANDBOX_URL}/_sandbox/mutate", data=b'{"update": 20, "create": 5}', method="POST"
        ),
        timeout=30,
    ).close()
    console.print("Since the last demo, 20 deals changed in the CRM and 5 are new.")


def _summarise() -> None:
    """Print what the sync did, and a few of the deals."""
    with psycopg.connect(database_url(), row_factory=dict_row) as connection:
        run = connection.execute("select * from sync_logs order by id desc limit 1").fetchone()
        deals = connection.execute(
            """
            select name, deal_value, currency, stage, workflow_status
            from opportunities
            order by last_synced_at desc, id desc
            limit 5
            """
        ).fetchall()
        total = connection.execute("select count(*) as n from opportunities").fetchone()
    console.rule("[bold]What happened")
    if run is None:
        console.print("[red]The sync did not begin: see above.")
        return
    console.print(_run_table(run, total["n"] if total else 0))
    if deals:
        console.print(_deal_table(deals))


def _run_table(run: DictRow, total: int) -> Table:
    table = Table.grid(padding=(0, 2))
    colour = {"SUCCESS": "green", "FAILED": "red"}.get(run["status"], "yellow")
    rows = {
        "Sync": f"[bold {colour}]{run['status']}[/] {run['sync_type'].lower()}",
        "Read": f"{run['total_fetched']:,} from the CRM, in {run['duration_seconds']} s",
        "New": f"{run['new_records']:,}",
        "Updated": f"{run['updated_records']:,}",
        "Unchanged": f"{run['unchanged_records']:,}",
        "Failed": f"{run['failed_records']:,}",
        "In all": f"{total:,} opportunities in public.opportunities",
    }
    if run["error_message"]:
        rows["Why"] = run["error_message"]
    for label, text in rows.items():
        table.add_row(f"[bold]{label}", text)
    return table


def _deal_table(deals: list[DictRow]) -> Table:
    table = Table(title="The last ones to arrive", title_justify="left", expand=True)
    table.add_column("Opportunity", no_wrap=True, ratio=3)
    table.add_column("Value", justify="right", no_wrap=True, min_width=14)
    table.add_column("Stage", no_wrap=True, ratio=2)
    table.add_column("Workflow", no_wrap=True, min_width=8)
    for deal in deals:
        value = "" if deal["deal_value"] is None else f"{deal['deal_value']:,.0f}"
        table.add_row(
            deal["name"],
            f"{value} {deal['currency'] or ''}".strip(),
            deal["stage"],
            deal["workflow_status"],
        )
    return table


def _show_addresses() -> None:
    """Print where the demo is to be looked at, and a token."""
    token = subprocess.run(
        [sys.executable, "-m", "api.token", "admin"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    authorization = f"-H 'Authorization: Bearer {token}'"
    console.rule("[bold]To look at")
    for label, text in {
        "Console": f"{API_URL}/ (sign in with the token)",
        "API docs": f"{API_URL}/docs",
        "CRM": f"{SANDBOX_URL}/crmRestApi/resources/latest/opportunities",
        "Database": "make psql",
        "Token": token,
    }.items():
        console.print(f"[bold]{label:10}[/]{text}", soft_wrap=True)
    console.print()
    console.print(f"curl {authorization} '{API_URL}/api/opportunities?limit=3'", soft_wrap=True)
    console.print(f"curl {authorization} -X POST {API_URL}/api/sync-database", soft_wrap=True)
    console.print()


def _serve() -> int:
    """Serve API and console, and keep to the schedule, until Ctrl-C."""
    console.print(f"Serving on {API_URL} until Ctrl-C; the database stays, `make stop` stops it.")
    scheduler = subprocess.Popen([sys.executable, "-m", "orchestrate.scheduler"], cwd=ROOT)
    try:
        return subprocess.run([sys.executable, "-m", "api"], cwd=ROOT, check=False).returncode
    except KeyboardInterrupt:
        console.print("Demo ended.")
        return 0
    finally:
        scheduler.terminate()
        scheduler.wait()


if __name__ == "__main__":
    sys.exit(main())
