"""Calculate when a schedule is due next, by cron's rules and the clock of a time zone."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from apscheduler.triggers.base import BaseTrigger
from cronsim import CronSim, CronSimError

from database.settings import read_settings

LARGEST_CHANGE = timedelta(hours=3)
"""The largest step by which a clock is put back."""


class ScheduleError(ValueError):
    """A schedule or its time zone is invalid."""


def time_zone() -> ZoneInfo:
    """Return the time zone of all schedules from SCHEDULE_TIMEZONE; UTC if unset.

    Raises:
        ScheduleError: no time zone has this name.
    """
    name = read_settings().schedule_timezone
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ScheduleError(
            f"SCHEDULE_TIMEZONE names no time zone: {name!r}; write it like Europe/Zurich."
        ) from error


def in_words(expression: str) -> str:
    """Return when it is due as people read it, or the expression if it is invalid.

    >>> in_words("30 3 * * 1-5"), in_words("never")
    ('at 03:30 on Monday through Friday', 'never')
    """
    try:
        words = CronSim(expression, datetime.now(UTC)).explain()
    except CronSimError:
        return expression
    return words[:1].lower() + words[1:]


def next_run(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """Return when it is due next, in UTC; None if there is no such day in fifty years.

    As in Debian's cron, an expression with fixed hours and minutes runs once for each time. If the
    clock shows the time twice, it runs the first time; if the clock skips the time, it runs right
    after the change. An expression with `*` for hours or minutes follows the local clock.

    Args:
        expression: five fields, as in cron.
        zone: the time zone.
        after: the moment, with its zone.

    Raises:
        ScheduleError: the expression is invalid.
    """
    if len(expression.split()) != 5:
        raise ScheduleError(f"{expression!r} is not a cron expression: it needs five fields")
    try:
        if _has_fixed_times(expression):
            for found in CronSim(expression, after.astimezone(zone)):
                if found.astimezone(UTC) > after:
                    return found.astimezone(UTC)
            return None
        return _next_by_local_clock(expression, zone, after)
    except CronSimError as error:
        raise ScheduleError(f"{expression!r} is not a cron expression: {error}") from error


def _has_fixed_times(expression: str) -> bool:
    return not any(field.startswith("*") for field in expression.split()[:2])


def _next_by_local_clock(expression: str, zone: ZoneInfo, after: datetime) -> datetime | None:
    """Use local times, since cronsim skips some runs if the clock changes by half an hour."""
    due: datetime | None = None
    local = after.astimezone(zone).replace(tzinfo=None)
    for wall in CronSim(expression, local - LARGEST_CHANGE):
        first, second = (wall.replace(tzinfo=zone, fold=fold).astimezone(UTC) for fold in (0, 1))
        if first > second:  # the local clock skips this time
            continue
        if due is not None and first >= due:
            break
        due = min((time for time in (first, second, due) if time and time > after), default=None)
    return due


class CronTrigger(BaseTrigger):  # type: ignore[misc] # APScheduler has no types
    """`next_run` as a trigger of APScheduler."""

    def __init__(self, expression: str, zone: ZoneInfo) -> None:
        """Take the same arguments as `next_run`."""
        self._expression, self._zone = expression, zone

    def get_next_fire_time(
        self, previous_fire_time: datetime | None, now: datetime
    ) -> datetime | None:
        """Return the next time after the previous one, or after now if there is none."""
        return next_run(self._expression, self._zone, previous_fire_time or now)
