"""The daily digest: what the page Today shows, sent to each user who wants it."""

import asyncio
import logging
from datetime import UTC, datetime, timedelta
from typing import LiteralString, NamedTuple
from urllib.parse import quote
from zoneinfo import ZoneInfo

from psycopg import AsyncConnection
from psycopg.rows import DictRow

from api.auth import Role, Scope, User
from api.changes import today
from api.changes.page import TITLES
from api.changes.today import Kind, Window
from api.database import Pool, fetch_one
from database.settings import Settings
from notifications.messages import Message

log = logging.getLogger(__name__)

SOME = 5
LONGEST = timedelta(days=1)
"""No transaction is longer: what began before the last digest, and is not told of yet."""

WANTS: LiteralString = "select exists (select from digests where user_id = %s) as wants"
BEGIN: LiteralString = "insert into digests (user_id) values (%s) on conflict do nothing"
END: LiteralString = "delete from digests where user_id = %s"
# Claimed before it is sent, so that no other server sends it, too. What was not accepted is in the
# next one: `seen_xid` stays.
CLAIM: LiteralString = """
update digests set tried_at = now()
where user_id = (
    select digests.user_id
    from digests
    join users on users.id = digests.user_id
    where tried_at < %(due)s and active and (email is not null or not %(needs_email)s)
    order by tried_at
    limit 1
    for update of digests skip locked
)
returning user_id, seen_xid::text, sent_at
"""
PERSON: LiteralString = """
select name, email, role, pg_snapshot_xmin(pg_current_snapshot())::text as until, now() as at
from users
where id = %s
"""
SENT: LiteralString = """
update digests set seen_xid = %(until)s::xid8, sent_at = %(at)s where user_id = %(user_id)s
"""


async def wants_digest(connection: AsyncConnection[DictRow], user: User) -> bool:
    """Tell whether a user wants a digest."""
    user.must_be(Role.VIEWER)
    return bool((await fetch_one(connection, WANTS, [user.id]))["wants"])


async def set_digest(connection: AsyncConnection[DictRow], user: User, *, wanted: bool) -> None:
    """Begin or end a user's own digest; the first one tells what happens from now on.

    Raises:
        ProblemError: 403, an API token asks for it.
    """
    user.must_be_signed_in()
    await connection.execute(BEGIN if wanted else END, [user.id])


async def send_due(pool: Pool, settings: Settings) -> None:
    """Send the digests that are due, one after the other; an error is logged."""
    if settings.digest_url is None:
        return
    url = settings.digest_url.get_secret_value()
    due = due_since(datetime.now(UTC), settings.digest_hour, ZoneInfo(settings.schedule_timezone))
    claim = {"due": due, "needs_email": "{email}" in url}
    while True:
        async with pool.connection() as connection:
            claimed = await (await connection.execute(CLAIM, claim)).fetchone()
            if claimed is None:
                return
            person = await fetch_one(connection, PERSON, [claimed["user_id"]])
            message = await _write(connection, claimed, person, settings.api_public_url)
        # Nobody waits for a connection while a mail server takes its time.
        if message is not None:
            own = url
            for name in ("email", "name"):
                own = own.replace(f"{{{name}}}", quote(person[name] or "", safe=""))
            problem = await asyncio.to_thread(_send, own, message)
            if problem is not None:
                log.error("a digest was not accepted: %s", problem)
                continue
        async with pool.connection() as connection:
            told = {"until": person["until"], "at": person["at"], "user_id": claimed["user_id"]}
            await connection.execute(SENT, told)


def due_since(now: datetime, hour: int, zone: ZoneInfo) -> datetime:
    """Return the last moment at which digests became due.

    >>> due_since(datetime(2026, 3, 2, 5, tzinfo=UTC), 7, ZoneInfo("Europe/Zurich")).isoformat()
    '2026-03-01T07:00:00+01:00'
    """
    local = now.astimezone(zone)
    due = local.replace(hour=hour, minute=0, second=0, microsecond=0)
    return due if due <= local else due - timedelta(days=1)


def _send(url: str, message: Message) -> str | None:
    # Importing Apprise takes half a second.
    from notifications.services import Services

    return Services(url).send(1, message)


async def _write(
    connection: AsyncConnection[DictRow],
    claimed: DictRow,
    person: DictRow,
    address: str | None,
) -> Message | None:
    """Return what a person is told; None: nothing has happened."""
    user = User(
        id=claimed["user_id"],
        name=person["name"],
        role=Role(person["role"]),
        token_id=0,
        scopes=frozenset({Scope.READ}),
        is_signed_in=False,
        is_confirmed=False,
        as_of="",
    )
    # The transactions of a restored database count anew, so a time bounds it, too.
    window = Window(
        claimed["sent_at"], since_xid=claimed["seen_xid"], from_at=claimed["sent_at"] - LONGEST
    )
    totals, rows = await today.find(connection, user, window, person["until"], SOME)
    news = [kind for kind in Kind if totals.get(kind) and kind is not Kind.WAITING]
    if not news:
        return None
    kinds = [kind for kind in Kind if totals.get(kind)]
    parts = ["\n".join(_lines(kind, totals[kind], rows.get(kind, []))) for kind in kinds]
    if address is not None:
        parts.append(f"{address}/today")
    counts = ", ".join(f"{totals[kind]:,} {TITLES[kind].lower()}" for kind in kinds)
    return Message(f"Deals: {counts}", "\n\n".join(parts), "info")


def _lines(kind: Kind, total: int, rows: list[DictRow]) -> list[str]:
    lines = [f"{TITLES[kind]}: {total:,}"]
    lines += [f"- {(row['name'] or '').strip() or '(no name)'}: {_what(kind, row)}" for row in rows]
    if total > len(rows):
        lines.append(f"- and {total - len(rows):,} more")
    return lines


def _what(kind: Kind, row: DictRow) -> str:
    old, new = row["old_value"] or "nothing", row["new_value"] or "nothing"
    if kind in (Kind.VALUE_UP, Kind.VALUE_DOWN):
        return f"{old} → {new} {row['currency'] or ''}".strip()
    if kind in (Kind.DATE, Kind.STAGE, Kind.CURRENCY):
        return f"{old} → {new}"
    if row["deal_value"] is None:
        return str(row["customer"] or "no value")
    return f"{row['deal_value']:,} {row['currency'] or ''}".strip()


class Way(NamedTuple):
    """How a user gets the digest.

    Attributes:
        words: for the user.
        is_possible: false if something is missing.
    """

    words: str
    is_possible: bool


def way_to(settings: Settings, account: DictRow) -> Way | None:
    """Return how a user gets the digest; None: no digest is sent here."""
    if settings.digest_url is None:
        return None
    when = f"Each day from {settings.digest_hour}:00 on ({settings.schedule_timezone})"
    if "{email}" not in settings.digest_url.get_secret_value():
        return Way(f"{when}, if anything has changed.", is_possible=True)
    if not account["email"]:
        return Way("You have no e-mail address here: ask an admin to enter it.", is_possible=False)
    return Way(f"{when}, if anything has changed, to {account['email']}.", is_possible=True)
