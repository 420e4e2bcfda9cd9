"""How many requests the CRM gets at once, and in an hour."""

from __future__ import annotations

import heapq
import threading
from collections import deque
from contextlib import ExitStack
from typing import Any

import pytest
from tap_oracle_crm.budget import Budget
from tap_oracle_crm.errors import StoppedError
from tap_oracle_crm.gate import Gate, Turn
from tap_user import TapUser


class Clock:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


class Pod:
    """A server that takes `seconds` for each of `serves` requests, and the requests of a gate.

    With `slow` it shares what it can do among all; otherwise it refuses the others.
    """

    def __init__(self, serves: int, most: int, *, slow: bool = False, seconds: float = 1.0) -> None:
        self.serves, self.slow, self.seconds = serves, slow, seconds
        self.clock = Clock()
        self.gate = Gate(most, threading.Event(), clock=self.clock)
        self.refused = self.served = 0
        self._under_way: list[tuple[float, int, Turn, ExitStack]] = []

    def run(self, until: float) -> float:
        """Send requests all the time; return the average number under way."""
        begun, busy = self.clock.now, 0.0
        while self.clock.now < until:
            while len(self._under_way) < self.gate.allowed:
                self._send()
            before = self.clock.now
            end, _, turn, slot = heapq.heappop(self._under_way)
            self.clock.now = end
            busy += (end - before) * (len(self._under_way) + 1)
            slot.close()
            self.served += 1
            self.gate.answered(turn, "page")
        return busy / (self.clock.now - begun)

    def _send(self) -> None:
        slot = ExitStack()
        turn = slot.enter_context(self.gate.slot())
        at_once = len(self._under_way) + 1
        if at_once > self.serves and not self.slow:
            self.refused += 1
            slot.close()
            self.gate.throttled(turn)
            return
        end = self.clock.now + self.seconds * max(1.0, at_once / self.serves)
        heapq.heappush(self._under_way, (end, id(slot), turn, slot))


@pytest.mark.parametrize("most", [1, 2, 8, 24])
@pytest.mark.parametrize("serves", [1, 4, 8, 16])
def test_a_pod_gets_as_many_requests_as_it_serves(serves: int, most: int) -> None:
    pod = Pod(serves, most)
    pod.run(until=40)
    assert pod.run(until=55) == pytest.approx(min(serves, most), rel=0.1)
    assert pod.refused <= (0 if most <= serves else 5)


def test_what_was_refused_is_tried_again_ever_more_rarely() -> None:
    pod = Pod(4, 8)
    pod.run(until=3_600)
    assert 3 <= pod.refused <= 10
    assert pod.served > 0.98 * 4 * 3_600


def test_a_pod_that_grows_gets_more() -> None:
    pod = Pod(4, 8)
    pod.run(until=20)
    pod.serves = 8
    pod.run(until=80)
    assert pod.gate.allowed == 8


@pytest.mark.parametrize(("serves", "most"), [(1, 4), (2, 5), (4, 7)])
def test_a_pod_that_becomes_slower_gets_fewer(serves: int, most: int) -> None:
    pod = Pod(8, 8, slow=True)
    pod.run(until=20)
    assert pod.gate.allowed == 8
    pod.serves = serves
    pod.run(until=60)
    assert pod.run(until=100) <= most
    assert "the CRM slowed down at" in f"{pod.gate}"


def test_a_crm_that_is_slower_for_another_reason_gets_as_many() -> None:
    pod = Pod(8, 8)
    pod.run(until=20)
    pod.seconds = 5
    pod.run(until=300)
    assert pod.gate.allowed == 8


def test_refusals_at_one_moment_count_once() -> None:
    gate = Gate(8, threading.Event())
    with ExitStack() as stack:
        turns = [stack.enter_context(gate.slot()) for _ in range(4)]
        for turn in turns:
            gate.throttled(turn)
    assert gate.allowed == 2
    with gate.slot() as turn:
        gate.timed_out(turn)
    assert gate.allowed == 1


def test_nobody_waits_at_the_gate_once_reading_stops() -> None:
    stopping = threading.Event()
    gate = Gate(1, stopping)
    with gate.slot() as turn:
        gate.throttled(turn, 3600)
    stopping.set()
    with pytest.raises(StoppedError), gate.slot():
        pass


def test_the_tap_finds_how_many_requests_the_crm_serves(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.clear_requests()
    tap.crm.fault("pod", at_once=5, ms=400, retry_after=0)
    # No retry is allowed, and none is needed: a request that was one too many is not to blame.
    output = tap.sync(catalog=catalog, page_size=25, max_retries=0)
    assert output.error is None
    assert set(output.by_key()) == set(tap.expected(["OptyId"]))
    assert tap.crm.requests()["by_status"]["429"] <= 2
    assert "the CRM throttled at 6" in output.log


def test_requests_at_once_are_limited_and_fewer_after_throttling(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.fault("latency", ms=20)
    tap.crm.clear_requests()
    tap.sync(catalog=catalog, page_size=50, concurrency=3)
    assert tap.crm.requests()["max_concurrent"] == 3
    tap.crm.fault("throttle", retry_after=0, every=5, next=20)
    output = tap.sync(catalog=catalog, page_size=50, concurrency=3)
    assert set(output.by_key()) == set(tap.expected(["OptyId"]))


# --- calls in an hour -------------------------------------------------------------------


@pytest.mark.parametrize("calls", [1, 60, 5_000])
def test_no_hour_has_more_calls_and_reading_never_stops(calls: int) -> None:
    budget, now, sent = Budget(calls), 0.0, 0
    hour: deque[float] = deque()
    most = longest = 0.0
    while now < 6 * 3_600:
        pause = max(0.02, budget.wait(now))  # as fast as a CRM could answer
        longest = max(longest, pause)
        now += pause
        budget.spend(now)
        sent += 1
        hour.append(now)
        while hour[0] <= now - 3_600:
            hour.popleft()
        most = max(most, len(hour))
    assert most <= calls
    assert longest <= 4 * 3_600 / calls, "at a quarter of the average speed at least"
    assert sent >= 0.9 * 6 * calls


def test_half_of_an_hours_calls_need_no_pause() -> None:
    budget = Budget(5_000)
    for _ in range(2_499):
        budget.spend(1.0)
    assert budget.wait(1.0) <= 0
    budget.spend(1.0)
    assert budget.wait(1.0) > 0


def test_the_tap_spreads_its_calls(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.clear_requests()
    settings: dict[str, Any] = {"page_size": 25, "calls_per_hour": 60}
    output = tap.sync(catalog=catalog, max_runtime_seconds=4, **settings)
    assert output.error is None
    assert "calls_per_hour" in output.log
    assert 30 <= tap.crm.requests()["total"] <= 32
    assert len(output.by_key()) < 1_000


def test_calls_of_others_count_and_the_rest_is_shared() -> None:
    budget = Budget(5_000)
    budget.share(3_600.0, processes=2, others=[0, 2_500])
    budget.spend(3_600.0)
    alone = Budget(5_000)
    for _ in range(2_500):
        alone.spend(3_540.0)
    alone.spend(3_600.0)
    assert budget.wait(3_600.0) == pytest.approx(2 * alone.wait(3_600.0))
