"""``oracle-crm-sandbox``: serve until interrupted."""

from __future__ import annotations

import argparse
import os
import sys
import threading
from pathlib import Path

from .journal import Journal
from .replay import commands
from .rest import Credentials
from .server import make_server


def main() -> None:
    """Read the command line and serve."""
    parser = argparse.ArgumentParser(
        prog="oracle-crm-sandbox", description="A sandbox of Oracle Fusion CRM's REST API"
    )
    env = os.environ
    parser.add_argument("--port", type=int, default=int(env.get("SANDBOX_PORT", "8899")))
    parser.add_argument("--records", type=int, default=int(env.get("SANDBOX_RECORDS", "1000")))
    parser.add_argument("--seed", type=int, default=int(env.get("SANDBOX_SEED", "1")))
    parser.add_argument(
        "--until-stdin-closes", action="store_true", help="stop when the parent process ends"
    )
    parser.add_argument(
        "--journal", type=Path, help="save changes, so that a restart gives the same CRM"
    )
    parser.add_argument(
        "--replay", type=Path, help="refuse the same requests as in a file of tap-oracle-crm-probe"
    )
    options = parser.parse_args()
    credentials = Credentials(
        env.get("SANDBOX_USER", "sandbox"),
        env.get("SANDBOX_PASSWORD", "sandbox-password"),
        env.get("SANDBOX_CLIENT_ID", "sandbox-client"),
        env.get("SANDBOX_CLIENT_SECRET", "sandbox-secret"),
    )
    journal = Journal(options.journal) if options.journal else None
    begin = commands(options.replay) if options.replay else []
    server = make_server(options.port, options.records, options.seed, credentials, journal, begin)
    if options.until_stdin_closes:

        def watch() -> None:
            sys.stdin.buffer.read()
            server.should_exit = server.force_exit = True

        threading.Thread(target=watch, daemon=True).start()
    server.run()


if __name__ == "__main__":
    main()
