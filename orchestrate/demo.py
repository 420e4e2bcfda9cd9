"""`make demo`: start a CRM sandbox, sync it for real, show the result, and serve the API.

The demo never touches the CRM and the database in `.env`, of which it reads only API_PORT. It reads
the sandbox and, unless the environment sets DATABASE_URL, writes to the embedded PostgreSQL.

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

from database.address import database_url, url_for
from database.environment import DATA, ROOT, setting
from runs.control import PIPELINE, command

LOCAL = "127.0.0.1"
SANDBOX_PORT = os.environ.get("SANDBOX_PORT") or "8899"
SANDBOX_URL = f"http://{LOCAL}:{SANDBOX_PORT}"
API_PORT = setting("API_PORT") or "8000"
API_URL = f"http://{LOCAL}:{API_PORT}"

console = Console(highlight=False)


def main() -> int:
    """Run the demo; return the exit code of the sync if it failed, else that of the API."""
    is_served = os.environ.get("DEMO_SERVE", "1") != "0"
    if is_served:
        _check_free("API_PORT", API_PORT)
    # On SIGTERM, stop the started processes, too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    # Without this, settings that are unset in the environment would come from these files.
    os.environ |= {
        "ORACLE_CRM_SYNC_ENV_FILE": os.devnull,
        "SECRETS_DIR": "",
        "API_HOST": LOCAL,
        "API_PORT": API_PORT,
    }
    os.environ["DATABASE_URL"] = os.environ.get("DATABASE_URL") or database_url()
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
    """End the demo if another program uses the port."""
    try:
        socket.create_server((LOCAL, int(port))).close()
    except (OSError, ValueError, OverflowError) as error:
        sys.exit(f"Can't listen on port {port}: {error}. Set {setting_name} to a free port.")


@contextmanager
def _sandbox() -> Iterator[None]:
    """Use the sandbox as the CRM; start one unless `make sandbox` is running."""
    os.environ |= {
        "ORACLE_BASE_URL": SANDBOX_URL,
        "ORACLE_USER": os.environ.get("SANDBOX_USER", "sandbox"),
        "ORACLE_PASS": os.environ.get("SANDBOX_PASSWORD", "sandbox-password"),
    }
    for name in ("ORACLE_TOKEN_URL", "ORACLE_CLIENT_ID", "ORACLE_CLIENT_SECRET", "ORACLE_SCOPE"):
        os.environ[name] = ""
    if _answers(SANDBOX_URL):
        console.print(f"A CRM sandbox is already running at {SANDBOX_URL}: syncing it.")
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
    with psycopg.connect(url_for("api", database_url())) as connection:
        row = connection.execute("select exists (select from opportunities)").fetchone()
    return bool(row and row[0])


def _change_some_deals() -> None:
    """Change 20 deals and create 5, as sales teams do between two syncs."""
    urllib.request.urlopen(  # noqa: S310
        urllib.request.Request(  # noqa: S310
            f"{SANDBOX_URL}/_sandbox/mutate", data=b'{"update": 20, "create": 5}', method="POST"
        ),
        timeout=30,
    ).close()
    console.print("Since the last demo, 20 deals changed in the CRM and 5 are new.")


def _summarise() -> None:
    """Print the result of the sync, and a few deals."""
    with psycopg.connect(url_for("api", database_url()), row_factory=dict_row) as connection:
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
    console.rule("[bold]Result")
    if run is None:
        console.print("[red]The sync did not start: see above.")
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
        "Total": f"{total:,} opportunities in public.opportunities",
    }
    if run["error_message"]:
        rows["Error"] = run["error_message"]
    for label, text in rows.items():
        table.add_row(f"[bold]{label}", text)
    return table


def _deal_table(deals: list[DictRow]) -> Table:
    table = Table(title="Newest opportunities", title_justify="left", expand=True)
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
    """Print the addresses of the demo, and a token."""
    token = subprocess.run(
        [sys.executable, "-m", "api.token", "admin"],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.strip()
    authorization = f"-H 'Authorization: Bearer {token}'"
    console.rule("[bold]Addresses")
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
    """Serve API and console, and run the scheduler, until Ctrl-C."""
    console.print(f"Serving on {API_URL} until Ctrl-C. To stop the database: `make stop`.")
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
