"""A first load of millions of rows in partitions, by several workers at once.

Commands of `python -m orchestrate.airflow.first_load`:

- `plan N` begins a load that the partitions share, and divides the CRM's keys into N ranges with
  about the same number of rows. It prints, as one line of JSON, the environment of each
  partition's run: its condition on the key, the number of the load, and the suffix of its own
  Meltano state.
- `hand-over` sets the ordinary pipeline to continue from the newest change before the partitions
  began, so the next sync reads the changes since then.
- `tidy` deletes the partitions' states.

Rows without a key belong to the last partition. It needs REST framework version 2.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise

from tap_oracle_crm.crm import CHANGED, KEY, Crm

from database.address import database_url
from database.environment import ROOT
from orchestrate.crm import tap_settings
from runs import registry
from runs.control import MELTANO
from runs.registry import begin_shared_load

MOST_PARTITIONS = 500
TOLERANCE = 0.1
"""The allowed deviation of a partition from its share, to limit the number of counts."""
MOST_COUNTS = 40
"""The largest number of requests for one bound; each request halves the range."""
PARTITION, PIPELINE = (
    "tap-oracle-crm-partition-to-target-postgres",
    "tap-oracle-crm-to-target-postgres",
)

Environment = dict[str, str]


def plan(parts: int) -> list[Environment]:
    """Return the environment of each partition's run."""
    if not 1 <= parts <= MOST_PARTITIONS:
        sys.exit(f"A first load has 1 to {MOST_PARTITIONS} partitions.")
    with Crm(tap_settings()) as crm:
        if crm.settings["framework_version"] < 2:
            sys.exit("Partitions need framework_version 2 or higher.")
        load = begin_shared_load(database_url())
        # Read this first: all later changes then have a later change time.
        mark = crm.newest_change()
        if mark is None:
            sys.exit("The CRM shows no opportunities: run python -m orchestrate.doctor.")
        lowest, highest = crm.keys() or (0, 0)

        def count(key: int) -> int:
            total = crm.count(upto=key)
            if total is None:
                sys.exit("The CRM does not count its rows, so they can't be divided.")
            return total

        conditions = _conditions(cuts(count, lowest, highest, count(highest), parts))
        given = crm.settings.get("filter")
    own = f"({given}) and " if given else ""
    return [
        {
            "TAP_ORACLE_CRM_PARTITION_FILTER": f"{own}{condition}",
            "MELTANO_RUN_STATE_ID_SUFFIX": f"first-load-{part}-of-{len(conditions)}",
            "FIRST_LOAD_MARK": mark.isoformat(),
            registry.NUMBER: str(load),
        }
        for part, condition in enumerate(conditions, 1)
    ]


def cuts(
    count: Callable[[int], int], lowest: int, highest: int, total: int, parts: int
) -> list[int]:
    """Return keys that divide a table into parts with about the same number of rows.

    Args:
        count: returns the number of rows up to a key.
        lowest: the lowest key.
        highest: the highest key.
        total: the number of rows.
        parts: the number of parts; fewer are returned if there are too few rows.
    """
    found: list[int] = []
    slack = TOLERANCE * total / parts
    for part in range(1, parts):
        wanted = total * part / parts
        low, high = found[-1] if found else lowest - 1, highest
        for _ in range(MOST_COUNTS):
            middle = (low + high) // 2
            there = count(middle)
            if abs(there - wanted) <= slack or high - low <= 1:
                break
            low, high = (middle, high) if there < wanted else (low, middle)
        if middle > (found[-1] if found else lowest - 1) and middle < highest:
            found.append(middle)
    return found


def _conditions(keys: list[int]) -> list[str]:
    """Return conditions; exactly one is true for each row, even without a key."""
    if not keys:
        return [f"({KEY} >= 0 or {KEY} is null)"]
    return [
        f"{KEY} <= {keys[0]}",
        *(f"{KEY} > {low} and {KEY} <= {high}" for low, high in pairwise(keys)),
        f"({KEY} > {keys[-1]} or {KEY} is null)",
    ]


def hand_over(mark: str) -> None:
    """Set the pipeline's bookmark of opportunities; the bookmarks of other streams stay."""
    state_id = _partition_states()[0].split(":")[0] + f":{PIPELINE}"
    state = json.loads(_meltano("state", "get", state_id) or "{}")
    bookmarks = state.setdefault("singer_state", {}).setdefault("bookmarks", {})
    bookmarks["opportunities"] = {"replication_key": CHANGED, "replication_key_value": mark}
    _meltano("state", "set", "--force", state_id, json.dumps(state))
    print(f"{state_id} continues from {mark}")


def tidy() -> None:
    """Delete the partitions' states, so that another first load reads everything again."""
    for state_id in _partition_states():
        _meltano("state", "clear", "--force", state_id)
        print(f"{state_id} deleted")


def _partition_states() -> list[str]:
    listed = _meltano("state", "list", "--pattern", f"*:{PARTITION}:first-load-*")
    found = [line.strip() for line in listed.splitlines() if f":{PARTITION}:" in line]
    if environment := os.environ.get("MELTANO_ENVIRONMENT"):
        found = [state_id for state_id in found if state_id.startswith(f"{environment}:")]
    if not found:
        sys.exit("No partition has a state: nothing was loaded.")
    if len({state_id.split(":")[0] for state_id in found}) > 1:
        sys.exit("Several environments have partitions' states: set MELTANO_ENVIRONMENT to one.")
    return found


def _meltano(*arguments: str) -> str:
    done = subprocess.run(
        [MELTANO, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def main() -> None:
    """Run the command."""
    match sys.argv[1:]:
        case ["plan", parts]:
            print(json.dumps(plan(int(parts))))
        case ["hand-over", mark]:
            hand_over(mark)
        case ["tidy"]:
            tidy()
        case _:
            sys.exit("usage: python -m orchestrate.airflow.first_load plan N|hand-over MARK|tidy")


if __name__ == "__main__":
    main()
