"""Schedules are due when cron would run them, even when the clocks change."""

from collections import defaultdict
from collections.abc import Collection, Iterator
from datetime import UTC, datetime, timedelta
from itertools import pairwise, product
from zoneinfo import ZoneInfo

import pytest

from orchestrate.cron import ScheduleError, next_run, time_zone

ZONES = [
    "Europe/Berlin",
    "America/New_York",
    "Africa/Cairo",
    "America/Havana",
    "Australia/Lord_Howe",
    "Asia/Kolkata",
]
BEGIN, END = datetime(2024, 1, 1, tzinfo=UTC), datetime(2034, 1, 1, tzinfo=UTC)
FEW_YEARS = datetime(2027, 1, 1, tzinfo=UTC)
QUARTER = timedelta(minutes=15)
ANY = range(32)
Rule = tuple[Collection[int], Collection[int], Collection[int], Collection[int]]
# The expression, and its meaning: minutes, hours, days of the month, weekdays from Monday.
NAMED: dict[str, Rule] = {
    "0 0 * * *": ({0}, {0}, ANY, ANY),
    "30 2 * * *": ({30}, {2}, ANY, ANY),
    "30 0 * * *": ({30}, {0}, ANY, ANY),
    "0 4 * * 0": ({0}, {4}, ANY, {6}),
    "15 1 * * 7": ({15}, {1}, ANY, {6}),
    "45 22 * * 1-5": ({45}, {22}, ANY, range(5)),
    "0 0 1 * *": ({0}, {0}, {1}, ANY),
    "0,30 0-3 * * sun": ({0, 30}, range(4), ANY, {6}),
}
RECURRING: dict[str, Rule] = {
    "15 */3 * * *": ({15}, range(0, 24, 3), ANY, ANY),
    "*/30 2 * * *": ({0, 30}, {2}, ANY, ANY),
}


class Clock:
    """A local clock, read each quarter of an hour for ten years.

    Attributes:
        zone: its time zone.
        shown: by minute and hour, the moments when it showed them, each with its local time.
        passed: the same, for the moments when it first reached or skipped them.
    """

    Times = dict[tuple[int, int], list[tuple[datetime, datetime]]]

    def __init__(self, zone: ZoneInfo) -> None:
        self.zone = zone
        self.shown: Clock.Times = defaultdict(list)
        self.passed: Clock.Times = defaultdict(list)
        moment = BEGIN
        next_wall = BEGIN.astimezone(zone).replace(tzinfo=None)
        while moment < END:
            wall = moment.astimezone(zone).replace(tzinfo=None)
            self.shown[wall.minute, wall.hour].append((moment, wall))
            while next_wall <= wall:
                self.passed[next_wall.minute, next_wall.hour].append((moment, next_wall))
                next_wall += QUARTER
            moment += QUARTER


def moments(times: Clock.Times, rule: Rule) -> list[datetime]:
    minutes, hours, days, weekdays = rule
    found = {
        moment
        for time in product(minutes, hours)
        for moment, wall in times[time]
        if wall.day in days and wall.weekday() in weekdays
    }
    return sorted(found)


@pytest.fixture(scope="module", params=ZONES)
def clock(request: pytest.FixtureRequest) -> Clock:
    return Clock(ZoneInfo(request.param))


def runs(expression: str, zone: ZoneInfo, end: datetime = END) -> Iterator[datetime]:
    moment = next_run(expression, zone, BEGIN - timedelta(seconds=1))
    while moment and moment < end:
        yield moment
        moment = next_run(expression, zone, moment)


@pytest.mark.parametrize("expression", NAMED)
def test_a_named_time_is_due_once_when_the_clock_first_reaches_or_skips_it(
    clock: Clock, expression: str
) -> None:
    assert list(runs(expression, clock.zone)) == moments(clock.passed, NAMED[expression])


@pytest.mark.parametrize("expression", RECURRING)
def test_a_recurring_time_is_due_each_time_the_clock_shows_it(
    clock: Clock, expression: str
) -> None:
    shown = [time for time in moments(clock.shown, RECURRING[expression]) if time < FEW_YEARS]
    assert list(runs(expression, clock.zone, FEW_YEARS)) == shown


def test_a_daily_job_runs_once_in_each_local_day(clock: Clock) -> None:
    days = [moment.astimezone(clock.zone).date() for moment in runs("0 0 * * *", clock.zone)]
    assert len(days) >= 3652
    assert all(after - before == timedelta(days=1) for before, after in pairwise(days))


def test_a_job_that_has_run_today_is_not_due_again_at_any_moment() -> None:
    havana = ZoneInfo("America/Havana")
    # On 3 November 2024 the hour after midnight came twice there.
    second = datetime(2024, 11, 3, 0, 10, fold=1, tzinfo=havana)
    due = next_run("30 0 * * *", havana, second)
    assert due == datetime(2024, 11, 4, 0, 30, tzinfo=havana).astimezone(UTC)


@pytest.mark.parametrize(
    "expression",
    ["", "tomorrow", "0 0 * *", "0 0 0 * * *", "0 25 * * *", "61 * * * *", "0 0 31 2 *"],
)
def test_an_invalid_expression_is_an_error(expression: str) -> None:
    with pytest.raises(ScheduleError, match="is not a cron expression"):
        next_run(expression, ZoneInfo("UTC"), BEGIN)


@pytest.mark.parametrize("name", ["Europe/Zuerich", "../etc/passwd", "CET+1"])
def test_a_time_zone_that_does_not_exist_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SCHEDULE_TIMEZONE", name)
    with pytest.raises(ScheduleError, match=f"no time zone: '{name}'".replace("+", r"\+")):
        time_zone()
