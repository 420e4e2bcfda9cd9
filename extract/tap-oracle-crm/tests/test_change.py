"""Nothing is lost while the CRM changes during the read, or when the read breaks off."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import time
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tap_oracle_crm.ranges import Bounds, KeyRange, RangePlan
from tap_user import Output, TapUser, clean_environment, parse, select, wait_until

FIELDS = ["OptyId", "Name", "Revenue", "StatusCode", "SalesStage"]


def seen(*outputs: Output) -> dict[int, dict[str, Any]]:
    """What a target holds after these runs, in the attributes that are compared."""
    rows = {}
    for output in outputs:
        rows.update(output.by_key())
    return {key: {name: row[name] for name in FIELDS} for key, row in rows.items()}


def present(tap: TapUser) -> dict[int, dict[str, Any]]:
    """What the CRM holds, in the same form."""
    return {
        key: {**row, "Revenue": None if row["Revenue"] is None else float(row["Revenue"])}
        for key, row in tap.expected(FIELDS).items()
    }


def assert_equal_but_for_deleted(tap: TapUser, *outputs: Output) -> None:
    """Check that a target equals the CRM; deletes leave no trace, so extra keys may stay."""
    held, there = seen(*outputs), present(tap)
    assert {key: held.get(key) for key in there} == there


change = st.fixed_dictionaries(
    {
        "number": st.integers(1, 14),
        "kind": st.sampled_from(["create", "update", "delete", "close", "reopen", "mass"]),
        "count": st.integers(1, 60),
        "seed": st.integers(0, 1000),
    }
)


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    changes=st.lists(change, max_size=6),
    later=st.lists(change, max_size=4),
    page_size=st.sampled_from([25, 40, 100, 499]),
    concurrency=st.integers(1, 4),
)
def test_after_a_run_under_change_and_one_more_nothing_is_missing(
    tap: TapUser,
    changes: list[dict[str, Any]],
    later: list[dict[str, Any]],
    page_size: int,
    concurrency: int,
) -> None:
    options: dict[str, Any] = {"page_size": page_size, "concurrency": concurrency}
    tap.crm.reset(records=300)
    catalog = tap.discover()

    def during(what: list[dict[str, Any]]) -> None:
        tap.crm.clear_hooks()
        for item in what:
            if item["kind"] == "mass":
                tap.crm.after_request(item["number"], "mass-update", {"count": item["count"]})
            else:
                body = {item["kind"]: item["count"], "seed": item["seed"]}
                tap.crm.after_request(item["number"], "mutate", body)

    during(changes)
    outputs = [tap.sync(catalog=catalog, lookback_seconds=0, **options)]
    during(later)
    outputs.append(tap.sync(outputs[-1].state, catalog, lookback_seconds=0, **options))
    during([])
    outputs.append(tap.sync(outputs[-1].state, catalog, lookback_seconds=0, **options))
    assert_equal_but_for_deleted(tap, *outputs)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    breaks=st.lists(st.floats(0, 1), min_size=1, max_size=3),
    between=st.integers(0, 50),
    concurrency=st.integers(1, 4),
)
def test_a_run_that_broke_off_goes_on_from_what_the_target_was_given(
    tap: TapUser,
    monkeypatch: pytest.MonkeyPatch,
    breaks: list[float],
    between: int,
    concurrency: int,
) -> None:
    options: dict[str, Any] = {"page_size": 25, "concurrency": concurrency}
    tap.crm.reset(records=400)
    catalog = tap.discover()
    monkeypatch.setattr("tap_oracle_crm.collection.STATE_ROWS", 50)
    state: dict[str, Any] = {}
    outputs = []
    for share in breaks:
        whole = tap.sync(state, catalog, **options)
        # The pipe ends somewhere: the target got only the first messages, and the state
        # that it saves is the last one among them.
        kept = Output(whole.messages[: int(share * len(whole.messages))])
        outputs.append(kept)
        state = kept.state or state
        tap.crm.mutate(update=between, create=between // 5)
    outputs.append(tap.sync(state, catalog, **options))
    assert_equal_but_for_deleted(tap, *outputs)


def test_a_resumed_scan_reads_little_again(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.fault("error", status=500, after=25)
    broken = tap.sync(catalog=catalog, page_size=25, max_retries=0)
    tap.crm.clear_faults()
    assert len(broken.records()) > 400
    rest = tap.sync(broken.state, catalog, page_size=25)
    assert len(rest.records()) < 1000 - len(broken.records()) + 200
    assert "FULL read" in rest.log
    assert '"sync_type":"FULL"' in rest.log
    assert "INCREMENTAL" not in rest.log, "what changed meanwhile belongs to the first read"
    assert_equal_but_for_deleted(tap, broken, rest)


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_killed_process_leaves_a_state_to_go_on_from(
    tap: TapUser, signum: signal.Signals
) -> None:
    tap.crm.reset(records=3000)
    (tap.folder / "catalog.json").write_text(json.dumps(tap.discover()))
    tap.crm.fault("latency", ms=30)
    command = tap.command(
        "--catalog", str(tap.folder / "catalog.json"), config=tap.config(page_size=25)
    )
    with (
        (tap.folder / "log").open("wb") as log,
        subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=log, env=clean_environment()
        ) as process,
    ):
        assert process.stdout
        head = b"".join(process.stdout.readline() for _ in range(400))
        process.send_signal(signum)
        text = (head + process.stdout.read()).decode()
    killed = Output(parse(text), code=process.returncode)
    assert killed.code == (-signum if signum == signal.SIGKILL else 128 + signum)
    assert "Traceback" not in (tap.folder / "log").read_text()
    if signum != signal.SIGKILL:
        assert text.endswith("\n")
        assert text.rstrip("\n").split("\n")[-1].startswith('{"type":"STATE"')
    tap.crm.clear_faults()
    rest = tap.sync(killed.state, tap.discover())
    if signum != signal.SIGKILL:
        assert len(rest.records()) < 2900
    assert_equal_but_for_deleted(tap, killed, rest)


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_signal_cuts_no_message_short(tap: TapUser, unbuffered: str) -> None:
    environment = clean_environment() | {"PYTHONUNBUFFERED": unbuffered}
    with subprocess.Popen(
        tap.command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=environment
    ) as process:
        assert process.stdout
        head = b"".join(process.stdout.readline() for _ in range(100))
        time.sleep(0.5)  # by then the pipe is full, and the current page is not completely written
        process.send_signal(signal.SIGTERM)
        *lines, end = (head + process.stdout.read()).split(b"\n")
    assert [json.loads(line)["type"] for line in lines][-1] == "STATE"
    assert end == b""


def test_the_run_time_limit_stops_cleanly_and_the_next_run_goes_on(tap: TapUser) -> None:
    tap.crm.reset(records=2000)
    catalog = tap.discover()
    tap.crm.fault("latency", ms=60)
    begin = time.monotonic()
    part = tap.sync(catalog=catalog, page_size=25, concurrency=2, max_runtime_seconds=1)
    assert time.monotonic() - begin < 5
    assert part.error is None
    assert 0 < len(part.records()) < 2000
    assert "run-time limit" in part.log
    assert part.bookmark["scan"]
    tap.crm.clear_faults()
    rest = tap.sync(part.state, catalog)
    assert rest.bookmark["scan"] == ""
    assert_equal_but_for_deleted(tap, part, rest)


@pytest.mark.parametrize("path", ["/opportunities$", "/child/ChildRevenue$"])
def test_the_run_time_limit_holds_while_an_answer_is_waited_for(tap: TapUser, path: str) -> None:
    tap.crm.reset(records=100)
    catalog = select(tap.discover(), "opportunities", "revenue_lines")
    tap.crm.fault("stall", seconds=30, path=path)
    begin = time.monotonic()
    part = tap.sync(catalog=catalog, max_runtime_seconds=1)
    assert time.monotonic() - begin < 5
    assert part.error is None
    assert '"metric":"runtime_limit","value":1' in part.log
    assert '"status":"succeeded"' in part.log
    tap.crm.clear_faults()
    rest = tap.sync(part.state, catalog)
    assert_equal_but_for_deleted(tap, part, rest)
    assert {row["OptyId"] for row in rest.records("revenue_lines")} == set(present(tap))


def test_what_the_run_time_limit_leaves_out_is_told_of(tap: TapUser) -> None:
    catalog = select(tap.discover(), "accounts", "opportunities")
    tap.crm.fault("stall", seconds=30, path="/accounts$")
    output = tap.sync(catalog=catalog, max_runtime_seconds=1)
    assert output.error is None
    for stream in ("accounts", "opportunities"):
        told = f'"metric":"runtime_limit","value":1,"tags":{{"stream":"{stream}"'
        assert told in output.log


def test_the_run_time_limit_is_named_where_even_discovery_took_longer(tap: TapUser) -> None:
    tap.crm.fault("stall", seconds=30)
    done = tap.cli(config=tap.config(max_runtime_seconds=1))
    assert done.code == 1
    assert "within the run-time limit of 1 s (setting max_runtime_seconds)" in done.log
    assert "Traceback" not in done.log


def test_a_child_that_is_waited_for_does_not_hold_up_the_end(tap: TapUser) -> None:
    tap.crm.reset(records=60)  # the written part of them fits into the pipe
    (tap.folder / "catalog.json").write_text(
        json.dumps(select(tap.discover(), "opportunities", "revenue_lines"))
    )
    tap.crm.fault("stall", seconds=30, path="/child/")
    command = tap.command("--catalog", str(tap.folder / "catalog.json"))
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=clean_environment()
    ) as process:
        assert process.stdout
        while b'"opportunities"' not in process.stdout.readline():
            pass
        wait_until(lambda: tap.crm.requests()["max_concurrent"] >= 4)
        begin = time.monotonic()
        process.send_signal(signal.SIGTERM)
        process.stdout.read()
        assert process.wait() == 128 + signal.SIGTERM
        assert time.monotonic() - begin < 5


def test_a_target_that_stops_reading_ends_the_tap_in_one_line(tap: TapUser) -> None:
    with subprocess.Popen(
        tap.command(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=clean_environment()
    ) as process:
        assert process.stdout
        assert process.stderr
        process.stdout.close()
        log = process.stderr.read().decode()
    assert process.returncode == 1
    assert "target stopped reading" in log
    assert "Traceback" not in log


# The plan of ranges, against a model of a table


@settings(max_examples=200, deadline=None)
@given(
    keys=st.one_of(
        st.sets(st.integers(1, 10**18), max_size=400),
        # Clusters far apart, as in merged pods.
        st.builds(
            lambda begins, size: {begin + at for begin in begins for at in range(size)},
            st.sets(st.integers(10**14, 10**18), min_size=1, max_size=4),
            st.integers(1, 120),
        ),
    ),
    page_size=st.integers(1, 40),
    workers=st.integers(1, 5),
    biased=st.booleans(),
    seed=st.integers(0, 2**32),
)
def test_ranges_cover_every_key_once_in_few_pages(
    keys: set[int], page_size: int, workers: int, biased: bool, seed: int
) -> None:
    chance = random.Random(seed)
    table = sorted(keys)
    sample = table[:page_size] if biased else chance.sample(table, min(page_size, len(table)))
    plan = RangePlan(RangePlan.partition(sample, workers), sample, page_size)
    written: list[int] = []
    pages = 0
    under_way: list[KeyRange] = []
    idle = workers
    while under_way or plan.remaining():
        while idle and (item := plan.take(wait=False)):
            under_way.append(item)
            idle -= 1
        item = chance.choice(under_way)
        low, high = plan.bounds_of(item)
        page = [
            key for key in table if (low is None or key > low) and (high is None or key <= high)
        ][:page_size]
        pages += 1
        low, high = plan.receive(item, page, complete=len(page) < page_size)
        written += [key for key in page if high is None or key <= high]
        plan.wrote(item, item.fetched, last_page=item.exhausted)
        if item.exhausted:
            under_way.remove(item)
            idle += 1
        assert covers(plan.remaining(), set(table) - set(written))
    assert sorted(written) == table
    assert pages <= 1.1 * len(table) / page_size + 2 * workers + 8


def covers(bounds: list[Bounds], keys: set[int]) -> bool:
    """Whether each key lies within one of the ranges."""
    return all(
        any((low is None or key > low) and (high is None or key <= high) for low, high in bounds)
        for key in keys
    )
