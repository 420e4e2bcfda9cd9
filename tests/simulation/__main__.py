"""Simulate worlds: see the package's docstring."""

import argparse
import logging
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from database.embedded import start_embedded, stop_embedded
from tests.simulation import __doc__ as about
from tests.simulation.world import Database, World

TELL_SECONDS = 15
STORIES = 5
"""The number of failing seeds with a printed story; for the others, only the error is printed."""


def main() -> int:
    """Run the simulations; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.simulation",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("seeds", nargs="?", default="1-300", help="such as 17 or 1000-2000")
    first, _, last = parser.parse_args().seeds.partition("-")
    # The story has enough of the parts' warnings.
    logging.basicConfig(handlers=[logging.NullHandler()])
    # Other users must be able to read the folder: if root starts PostgreSQL, another user runs it.
    with tempfile.TemporaryDirectory(prefix="simulation-") as folder:
        cluster = Path(folder) / "postgres"
        server = start_embedded(cluster).rsplit("/", 1)[0]
        try:
            database = Database.create(server, "template1", Path(folder))
            return _simulate(range(int(first), int(last or first) + 1), database)
        finally:
            stop_embedded(cluster)


def _simulate(seeds: range, database: Database) -> int:
    begin, begin_cpu = time.monotonic(), time.process_time()
    told, failed = begin, []
    tally: Counter[str] = Counter()
    for number, seed in enumerate(seeds, start=1):
        world = World(seed, database)
        try:
            world.play()
        except Exception as error:  # after any error, continue with the other seeds
            failed.append(seed)
            print(world.report(error) if len(failed) <= STORIES else f"Seed {seed}: {error}")
        tally += world.tally
        if time.monotonic() - told > TELL_SECONDS:
            told = time.monotonic()
            print(f"{number:,} of {len(seeds):,} seeds, {len(failed)} failed", flush=True)
    seconds, cpu = time.monotonic() - begin, time.process_time() - begin_cpu
    print("\nWhat there was")
    for what, times in sorted(tally.items()):
        print(f"  {times:9,}  {what}")
    print(
        f"\n{len(seeds):,} seeds in {seconds:,.0f} s: {len(seeds) / seconds:.1f} seeds/s, "
        f"{cpu / len(seeds):.2f} CPU s each besides PostgreSQL's; "
        + (f"FAILED: {', '.join(map(str, failed))}" if failed else "all went well")
    )
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
