"""A first load of millions of rows in partitions, which several workers load at once.

`python -m orchestrate.airflow.first_load` and

- `plan N` begins a load that the partitions share, divides the CRM's keys into N ranges of about
  as many rows, and prints, as one line of JSON, the environment of each partition's run: its
  condition on the key, the number of the load, and the suffix of its own Meltano state.
- `hand-over` lets the ordinary pipeline go on from the newest change that was known before the
  partitions began: what changed while they were loaded is read by the next sync.
- `tidy` removes the partitions' states.

Rows without a key belong to the last partition. From REST framework version 2.
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
"""How far from its share a partition may be, so as not to count for ever."""
MOST_COUNTS = 40
"""Requests that a bound may cost: each halves the numbers between two bounds."""
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
        # Before anything else is read: whatever changes later is stamped later.
        mark = crm.newest_change()
        if mark is None:
            sys.exit("The CRM shows no opportunity: run python -m orchestrate.doctor.")
        lowest, highest = crm.keys() or (0, 0)

        def count(key: int) -> int:
            total = crm.count(upto=key)
            if total is None:
                sys.exit("The CRM does not say how many rows it has: it can't be divided.")
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
    """Return keys that divide a table into so many parts, of about as many rows.

    Args:
        count: says how many rows there are up to a key.
        lowest: the lowest key.
        highest: the highest.
        total: how many rows there are.
        parts: how many parts are wanted; there are fewer where rows are too few.
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
    """Return conditions, one of which holds for each row, also for one without a key."""
    if not keys:
        return [f"({KEY} >= 0 or {KEY} is null)"]
    return [
        f"{KEY} <= {keys[0]}",
        *(f"{KEY} > {low} and {KEY} <= {high}" for low, high in pairwise(keys)),
        f"({KEY} > {keys[-1]} or {KEY} is null)",
    ]


def hand_over(mark: str) -> None:
    """Set the bookmark of the ordinary pipeline; its other streams' stay."""
    state_id = _partition_states()[0].split(":")[0] + f":{PIPELINE}"
    state = json.loads(_meltano("state", "get", state_id) or "{}")
    bookmarks = state.setdefault("singer_state", {}).setdefault("bookmarks", {})
    bookmarks["opportunities"] = {"replication_key": CHANGED, "replication_key_value": mark}
    _meltano("state", "set", "--force", state_id, json.dumps(state))
    print(f"{state_id} goes on from {mark}")


def tidy() -> None:
    """Remove the partitions' states: another first load reads everything again."""
    for state_id in _partition_states():
        _meltano("state", "clear", "--force", state_id)
        print(f"{state_id} removed")


def _partition_states() -> list[str]:
    listed = _meltano("state", "list", "--pattern", f"*:{PARTITION}:first-load-*")
    found = [line.strip() for line in listed.splitlines() if f":{PARTITION}:" in line]
    if environment := os.environ.get("MELTANO_ENVIRONMENT"):
        found = [state_id for state_id in found if state_id.startswith(f"{environment}:")]
    if not found:
        sys.exit("There is no partition's state: nothing was loaded.")
    if len({state_id.split(":")[0] for state_id in found}) > 1:
        sys.exit("Several environments have partitions' states: set MELTANO_ENVIRONMENT to one.")
    return found


def _meltano(*arguments: str) -> str:
    done = subprocess.run(
        [MELTANO, *arguments], cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout


def main() -> None:
    """Do what the command line says."""
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
