"""The console's page of the system's health: the doctor, schedules, notifications and access."""

import asyncio
from datetime import datetime
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo

from fastapi import Path, Request, Response
from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import SecretStr

from api import checks
from api.audit import record
from api.auth import CurrentUser, Role, User, UserWithoutConnection
from api.console.pages import changed, console_router, page
from api.database import Connection, connection_of
from api.problems import ProblemError
from api.sync import service as sync
from api.sync.page import schedule_in_words
from api.sync.schemas import ScheduleChange
from api.types import Text
from api.users import service as users
from database.settings import Settings
from orchestrate.cron import next_run

EXAMINATION_SECONDS = 30
"""For all checks of the doctor together; what is left then is named."""
NOTIFICATION_SECONDS = 50
MOST_ACCESS = 500
LATER_RUNS = 2
OTHER_RUNS = 15

router = console_router()


async def examine(database_url: str) -> list[DictRow]:
    """Let the doctor look, and return its findings: the most urgent ones first."""
    seconds = str(EXAMINATION_SECONDS)
    found = await checks.findings(database_url, "orchestrate.doctor", "--within", seconds)
    urgency = ["error", "warning", "ok"]
    return sorted(found, key=lambda finding: urgency.index(finding["status"]))


@router.get("/admin/health")
async def show_health(request: Request, user: CurrentUser, connection: Connection) -> Response:
    """Show the page; it asks for the doctor's findings itself, since they take seconds."""
    user.must_be(Role.ADMIN)
    return page(request, "health.html", findings=None, **await _context(request, user, connection))


@router.get("/admin/health/findings")
async def show_findings(request: Request, user: UserWithoutConnection) -> Response:
    """Let the doctor look, and show what it found. Those who ask at once share one look."""
    user.must_be(Role.ADMIN)
    findings = await request.app.state.doctor.get()
    if "hx-request" in request.headers:
        return page(request, "_findings.html", findings=findings)
    async with connection_of(request) as connection:
        context = await _context(request, user, connection)
    return page(request, "health.html", findings=findings, **context)


@router.post("/admin/health/notification")
async def send_test(request: Request, user: UserWithoutConnection) -> Response:
    """Send a test message to each service of NOTIFY_URLS, and show who accepted it."""
    user.must_be(Role.ADMIN)
    async with connection_of(request) as connection:
        await record(connection, user, "test", "notifications", "all")
    return page(request, "_notification.html", sent=await _send_test())


@router.post("/admin/schedules/{name}/{order}")
async def order_schedule(
    request: Request,
    user: CurrentUser,
    connection: Connection,
    name: Annotated[Text, Path()],
    order: Literal["pause", "resume", "run"],
) -> Response:
    """Pause, resume or run a schedule."""
    if order == "run":
        await sync.run_schedule(connection, user, name)
        words = f"{name} runs within seconds, after what the scheduler runs now."
    else:
        change = ScheduleChange(paused=order == "pause")
        await sync.change_schedule(connection, user, name, change)
        words = f"{name} is {order}d."
    return changed(request, "/admin/health", words, "schedules-changed")


async def _context(
    request: Request, user: User, connection: AsyncConnection[DictRow]
) -> dict[str, Any]:
    return {
        "settings": _settings(request.app.state.settings),
        "schedules": await sync.list_schedules(connection, user),
        "schedule_in_words": schedule_in_words,
        "later_runs": _later_runs,
        "others": await sync.list_others(connection, user, OTHER_RUNS),
        "outcome_of": sync.outcome,
        "access": await users.list_access(connection, user, MOST_ACCESS),
    }


def _later_runs(schedule: DictRow) -> list[datetime]:
    """Return when a schedule is due after its next time."""
    times: list[datetime] = []
    at = schedule["next_run_at"]
    while at is not None and len(times) < LATER_RUNS:
        at = next_run(schedule["interval"], ZoneInfo(schedule["timezone"]), at)
        times += [] if at is None else [at]
    return times


def _settings(settings: Settings) -> dict[str, str]:
    """Return what is set to something else than the default; of secrets only that they are set."""
    known = {name: getattr(settings, name) for name in Settings.model_fields}
    return {
        name.upper(): "(secret)" if isinstance(value, SecretStr) else str(value)
        for name, value in known.items()
        if value != Settings.model_fields[name].default
    }


async def _send_test() -> dict[str, str | None]:
    """Return for each service why it did not accept the message, or None.

    Raises:
        ProblemError: 409, NOTIFY_URLS is wrong; 503, a service takes too long.
    """
    from notifications.services import send_test  # only now: it takes half a second

    try:
        async with asyncio.timeout(NOTIFICATION_SECONDS):
            return await asyncio.to_thread(send_test)
    except ValueError as error:
        raise ProblemError(409, f"{error}.") from error
    except TimeoutError as error:
        raise ProblemError(503, "A service of NOTIFY_URLS takes too long to answer.") from error
