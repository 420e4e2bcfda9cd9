"""dbt's command line, as Meltano calls it.

What is imported stays, and looking through it for garbage takes a fifth of a short run.
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
