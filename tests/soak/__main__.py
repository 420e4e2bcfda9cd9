"""Soak the whole system: see the package's docstring."""

import argparse
import sys
import tempfile
import threading
import time
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

from tests.conftest import wait_until
from tests.soak import __doc__ as about
from tests.soak.actors import Cast, Ledger
from tests.soak.verdict import MEGABYTE, judge, settle
from tests.soak.world import World, world

TELL_SECONDS = 15


def main() -> int:
    """Run the soak; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.soak",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=5, help="how long (default 5)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--records", type=int, default=2000, help="deals in the CRM at first")
    arguments = parser.parse_args()
    print(f"Soaking for {arguments.minutes:g} minutes with seed {arguments.seed} ...", flush=True)
    # Other users must be able to read the folder: if root starts PostgreSQL, another user runs it.
    with (
        tempfile.TemporaryDirectory(prefix="soak-") as scratch,
        world(arguments.records, arguments.seed, Path(scratch)) as there,
    ):
        ledger = Ledger()
        _soak(there, ledger, arguments.seed, 60 * arguments.minutes)
        print("All actors stopped; running the nightly jobs ...", flush=True)
        settle(there, ledger)
        return _report(there, ledger)


def _soak(there: World, ledger: Ledger, seed: int, seconds: float) -> None:
    there.pipeline.sync()
    # The offset of a time zone is in whole seconds.
    now = datetime.now(UTC).replace(microsecond=0)
    half, midnight = (now + timedelta(seconds=round(seconds * at)) for at in (0.5, 0.6))
    there.make_it_midnight(midnight)
    ledger.midnight = midnight
    wait_until(there.is_up, seconds=180)
    stop = threading.Event()
    actors = Cast(there, ledger, seed).start(stop)
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        time.sleep(min(TELL_SECONDS, left))
        if not ledger.services_are_spared.is_set() and datetime.now(UTC) >= half:
            ledger.services_are_spared.set()
            print("From now on, API and scheduler are not killed: measuring memory", flush=True)
        told = ("status edits", "answers read", "faults of the CRM", "deals changed in the CRM")
        kills = sum(number for what, number in ledger.tried.items() if "killed" in what)
        print(
            f"{max(0, end - time.monotonic()):5.0f} s left: {kills} kills, "
            + ", ".join(f"{ledger.tried[what]:,} {what}" for what in told)
            + (f", {len(ledger.defects)} DEFECTS" if ledger.defects else ""),
            flush=True,
        )
    stop.set()
    for actor in actors:
        actor.join()
    there.stop()


def _report(there: World, ledger: Ledger) -> int:
    print("\nTried")
    for what, number in sorted(ledger.tried.items()):
        print(f"  {number:9,}  {what}")
    ended = Counter(run["status"] for run in there.pipeline.syncs())
    print("Syncs in the log: " + ", ".join(f"{n} {status}" for status, n in sorted(ended.items())))
    for name, samples in sorted(ledger.memory.items()):
        most = max(sample.bytes for sample in samples)
        print(f"Largest memory of {name}: {most / MEGABYTE:.0f} MB")
    print("\nSurvived")
    failed = False
    for what, against in judge(there, ledger):
        print(f"{'✗' if against else '✓'} {what}")
        for text in against[:10]:
            print(f"    {text}")
        failed = failed or bool(against)
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
