"""Check the results after all actors have stopped."""

import statistics
from collections.abc import Iterator

from api.workflow import FROM_CRM
from tests.conftest import MAPPING, as_column
from tests.soak.actors import Ledger, Sample
from tests.soak.world import SERVICES, World

CLOSED = {"WON": "WON", "LOST": "LOST", "NO_SALE": "CLOSED", "CLOSED": "CLOSED"}
MEGABYTE = 1 << 20
WARM_UP_SECONDS = 20
GROWTH, SLACK = 1.05, 4 * MEGABYTE


def settle(world: World, ledger: Ledger) -> None:
    """Correct the CRM's broken deals, and run the nightly jobs."""
    world.crm.clear_faults()
    held = {row["OptyId"] for row in world.crm.rows(fields=["OptyId"])}
    for key in sorted(ledger.poisoned & held):  # some are deleted now
        world.crm.heal(key)
    for job in ("sync", "reconcile", "housekeeping"):
        done = world.pipeline.meltano("run", job)
        if done.returncode != 0:
            ledger.defects.append(f"meltano run {job} fails at the end: {done.stdout[-800:]}")


def judge(world: World, ledger: Ledger) -> Iterator[tuple[str, list[str]]]:
    """Yield each rule, with the evidence that it is broken."""
    yield "there were no defects", ledger.defects
    yield "PostgreSQL equals the CRM", list(_difference(world))
    (totals,) = world.pipeline.query("select wrong_totals() as wrong")
    wrong = [f"{totals['wrong']} are not"] if totals["wrong"] else []
    yield "the dashboard's totals are those of the deals", wrong
    yield (
        f"no status is lost ({len(ledger.statuses):,} deals edited)",
        list(_lost_statuses(world, ledger)),
    )
    yield (
        f"no assessment is lost ({len(ledger.summaries):,})",
        list(_lost_assessments(world, ledger)),
    )
    yield (
        "every run has ended in the log",
        [
            f"run {run['id']} is RUNNING"
            for run in world.pipeline.syncs()
            if run["status"] == "RUNNING"
        ],
    )
    yield (
        "it became midnight, and the scheduler began the night's sync",
        list(_midnight(world, ledger)),
    )
    for name in SERVICES:
        yield _memory(name, ledger)


def _difference(world: World) -> Iterator[str]:
    found = {
        row.pop("remote_id"): row
        for row in world.pipeline.query("select * from opportunities where deleted_at is null")
    }
    expected = {str(row["OptyId"]): row for row in world.crm.rows()}
    for remote_id in sorted(expected.keys() ^ found.keys()):
        yield f"{remote_id} is " + ("missing" if remote_id in expected else "gone from the CRM")
    for remote_id in sorted(expected.keys() & found.keys()):
        for attribute, column in MAPPING.items():
            wanted = as_column(attribute, expected[remote_id].get(attribute))
            if (value := found[remote_id][column]) != wanted:
                yield f"{remote_id}: {column} is {value!r}, not {wanted!r}"


def _lost_statuses(world: World, ledger: Ledger) -> Iterator[str]:
    crm = {str(row["OptyId"]): row for row in world.crm.rows()}
    for row in world.pipeline.query("select id, remote_id, workflow_status from opportunities"):
        there = crm.get(row["remote_id"])
        open_ones = ledger.statuses.get(row["id"], {"NEW"})
        if there is None or not there.get("StatusCode"):
            allowed = open_ones | {*FROM_CRM}  # deleted, or closed when it still had a code
        elif there["StatusCode"] in CLOSED:
            allowed = {CLOSED[there["StatusCode"]]}
        else:
            allowed = open_ones
        if row["workflow_status"] not in allowed:
            yield f"opportunity {row['id']}: {row['workflow_status']}, not {allowed}"


def _lost_assessments(world: World, ledger: Ledger) -> Iterator[str]:
    found = {row["id"]: row["summary"] for row in world.pipeline.query("select * from assessments")}
    for number, allowed in ledger.summaries.items():
        if number not in found:
            yield f"assessment {number} is missing"
        elif found[number] not in allowed:
            yield f"assessment {number}: {found[number]!r}, not {allowed}"


def _midnight(world: World, ledger: Ledger) -> Iterator[str]:
    (nightly,) = world.pipeline.query("select * from schedules where name = 'nightly'")
    began = nightly["last_run_at"]
    if began is None or ledger.midnight is None or began < ledger.midnight:
        yield f"it was midnight at {ledger.midnight}, and the scheduler recorded {nightly}"


def _memory(name: str, ledger: Ledger) -> tuple[str, list[str]]:
    """Compare early and late memory of a service's longest-running process."""
    lives: dict[int, list[Sample]] = {}
    for sample in ledger.memory.get(name, []):
        lives.setdefault(sample.pid, []).append(sample)
    if not lives:
        return f"memory of the {name} is flat", ["it was never seen"]
    life = max(lives.values(), key=lambda samples: samples[-1].at - samples[0].at)
    seconds = life[-1].at - life[0].at
    warm = [sample for sample in life if sample.at - life[0].at >= WARM_UP_SECONDS]
    if seconds < 3 * WARM_UP_SECONDS:
        return f"memory of the {name} is flat", [f"it never ran for more than {seconds:.0f} s"]
    third = len(warm) // 3
    early, late = (
        statistics.median(sample.bytes for sample in part) for part in (warm[:third], warm[-third:])
    )
    title = (
        f"memory of the {name} is flat: {early / MEGABYTE:.1f} MB, then {late / MEGABYTE:.1f} MB, "
        f"in {seconds:.0f} s and {warm[-1].answers - warm[0].answers:,} answers of one life"
    )
    return title, [] if late <= early * GROWTH + SLACK else ["it grew"]
