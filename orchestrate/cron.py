"""When a schedule is due next, as cron would have it on the clock of a time zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from cronsim import CronSim, CronSimError

from database.settings import read_settings

LARGEST_CHANGE = timedelta(hours=3)
"""By how much clocks are put back at most."""


class ScheduleError(ValueError):
    """A schedule or its time zone can't be understood."""


def time_zone() -> ZoneInfo:
    """Return the time zone of all schedules, which SCHEDULE_TIMEZONE names: UTC if unset.

    Raises:
        ScheduleError: there is none of that name.
    """
    name = read_settings().schedule_timezone
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ScheduleError(
            f"SCHEDULE_TIMEZONE names no time zone: {name!r}; write it like Europe/Zurich."
        ) from error


def next_run(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """Return when it is due next, in UTC; None if there is no such day in fifty years.

    As in Debian's cron, what names its hours and minutes runs once for each: in the first of two
    hours that are called alike, and right after the change where the clock skips it. What runs
    every so many hours or minutes (`*`) follows the clock on the wall.

    Args:
        expression: five fields, as cron writes them.
        zone: the time zone.
        after: the moment, with its zone.

    Raises:
        ScheduleError: it is no such expression.
    """
    if len(expression.split()) != 5:
        raise ScheduleError(f"{expression!r} is no cron expression: it needs five fields")
    try:
        if _names_its_times(expression):
            for found in CronSim(expression, after.astimezone(zone)):
                if found.astimezone(UTC) > after:
                    return found.astimezone(UTC)
            return None
        return _recurring(expression, zone, after)
    except CronSimError as error:
        raise ScheduleError(f"{expression!r} is no cron expression: {error}") from error


def _names_its_times(expression: str) -> bool:
    return not any(field.startswith("*") for field in expression.split()[:2])


def _recurring(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """Go by the clock on the wall: cronsim skips some runs where it changes by half an hour."""
    due: datetime | None = None
    local = after.astimezone(zone).replace(tzinfo=None)
    for wall in CronSim(expression, local - LARGEST_CHANGE):
        first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first > second:  # no clock shows it
            continue
        if due is not None and first >= due:
            break
        due = min((time for time in (first, second, due) if time and time > after), default=None)
    return due


class CronTrigger(BaseTrigger):  # type: ignore[misc] # APScheduler has no types
    """The same, for APScheduler."""

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        """Take an expression, as `next_run` does."""
        self._expression, self._zone = expression, zone

    def get_next_fire_time(
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """Return when it is due after it was last, or from now on."""
        return next_run(self._expression, self._zone, previous_fire_time or now)
