"""dbt's command line, as Meltano calls it.

Imports leave no garbage; the search for it would take a fifth of a short run.
"""

import gc
import sys


def main() -> None:
    """Run dbt."""
    gc.disable()
    from dbt.cli.main import cli

    gc.freeze()
    gc.enable()
    sys.exit(cli())
