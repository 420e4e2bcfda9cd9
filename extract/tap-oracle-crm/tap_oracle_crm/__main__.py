"""The SDK's command line; errors are one line that says what to do."""

from __future__ import annotations

import gc
import io
import logging
import sys
from importlib.metadata import version

NAME = "tap-oracle-crm"


def main() -> None:
    """Run the tap; exit code 1 on failure."""
    if sys.argv[1:] == ["--version"]:
        # Meltano asks often; the SDK takes a quarter of a second to import.
        print(f"{NAME} v{version(NAME)}, Meltano SDK v{version('singer-sdk')}")
        return
    gc.disable()  # imports leave no garbage; the search takes a tenth of a short run
    from tap_oracle_crm.config import check_environment
    from tap_oracle_crm.errors import OracleCrmError
    from tap_oracle_crm.tap import TapOracleCRM

    gc.freeze()
    gc.enable()
    if not isinstance(sys.stdout.buffer, io.BufferedWriter):
        # With PYTHONUNBUFFERED, a signal could interrupt a write in the middle of a message.
        sys.stdout = open(sys.stdout.fileno(), "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    try:
        check_environment()
        TapOracleCRM.cli()
    except (OracleCrmError, FileNotFoundError) as error:
        logging.getLogger(NAME).critical("%s", error)
        sys.exit(1)


if __name__ == "__main__":
    main()
