"""Notifications: one when something is wrong with the syncs, one when it is well again.

An incident opens when its condition holds and closes when it does not: nobody is told twice of
the same. What no service took is tried again. Several processes of the API may look at once:
a row lock lets one of them send.
"""

import logging
from collections.abc import Awaitable, Callable
from typing import LiteralString

from apprise import Apprise, NotifyType
from psycopg.rows import DictRow

from api.database import Pool

log = logging.getLogger(__name__)

Send = Callable[[str, str, NotifyType], Awaitable[None]]

TITLES = {
    "failed": ("The sync failed", "The sync works again"),
    "late": ("The sync is late", "The sync is on time again"),
    "empty": ("The sync is empty", "The sync reads opportunities again"),
    "rejects": ("Records could not be loaded", "All records are loaded"),
    "status": ("Nothing explains a status code of the CRM", "A status code is explained"),
    "schedule": ("A scheduled job failed", "The scheduled jobs work again"),
}
# Each condition that holds now, in words.
CONDITIONS: LiteralString = """
with
completed as (
    select *
    from sync_logs
    where status != 'RUNNING' and end_reason != 'cancelled'
    order by id desc
    limit 1
),
first_run as (
    select min(started_at) as at from sync_logs
),
success as (
    select (
        select completed_at from sync_logs where status = 'SUCCESS' order by id desc limit 1
    ) as at
),
-- What a live scheduler has at work, or will try again, has not failed yet; but what people were
-- told of is not well before it has succeeded.
undecided as (
    select *
    from schedules
    where last_run_at is not null and last_succeeded is null
),
open_ones as (
    select kind from incidents where closed_at is null
)
select 'failed' as kind, coalesce(error_message, 'No reason is known.') as detail
from completed
where
    status = 'FAILED'
    and (
        'failed' in (select kind from open_ones)
        or not exists (
            select from undecided
            where job = 'sync' and heartbeat_at > now() - interval '3 minutes'
        )
    )
union all
select 'schedule', string_agg(name || ' (meltano run ' || job || ')', ', ' order by name)
from (
    select name, job
    from schedules
    where last_succeeded = false
        and 'cancelled' is distinct from (
            select end_reason from run_logs where kind = schedules.job order by id desc limit 1
        )
    union all
    select name, job from undecided where 'schedule' in (select kind from open_ones)
) as failed
-- Of syncs, there is more to say.
where job != 'sync'
having count(*) > 0
union all
select 'late', case
    when success.at is null then 'No sync has succeeded yet.'
    else 'The last sync that succeeded ended at ' || to_char(success.at, 'YYYY-MM-DD HH24:MI')
        || ' UTC.'
end
from success, first_run
where coalesce(success.at, first_run.at) < now() - make_interval(hours => %(late_hours)s)
union all
select 'empty',
    'It read everything and found no opportunity: look at the account''s record set.'
from completed
where
    end_reason = 'done' and sync_type = 'FULL' and total_fetched = 0
union all
select 'rejects', count(*) || ' records are waiting, the last because of: '
    || left((array_agg(reason order by last_seen_at desc))[1], 500)
from rejected_records
where resolved_at is null
having count(*) > 0
union all
-- Each code is told of for itself: new ones come up while others are still open.
(
    select
        'status ' || left(name, 200),
        'Deals with the status code ' || to_json(left(name, 200))::text || ': ' || deals
            || '. They stay as they are, and new ones count as open. Write into crm.yml under '
            || 'statuses what it means: ' || to_json(left(name, 200))::text
            || ': OPEN (or WON, LOST, CLOSED).'
    from unknown_statuses
    where section = 'statuses'
    order by name
    limit 50
)
"""
OPEN: LiteralString = """
insert into incidents (kind, detail) values (%s, %s)
on conflict (kind) where closed_at is null do nothing
"""
CLOSE: LiteralString = """
update incidents set closed_at = clock_timestamp()
where closed_at is null and not kind = any(%s)
"""
# No message for an incident that ended before its first message was sent.
UNSENT: LiteralString = """
select id, kind, detail, closed_at is not null as is_over
from incidents
where id > %s
    and (
        (closed_at is null and opening_notified_at is null)
        or (
            closed_at is not null and opening_notified_at is not null
            and closing_notified_at is null
        )
    )
order by id
limit 1
for update skip locked
"""
SENT: LiteralString = """
update incidents
set
    opening_notified_at = coalesce(opening_notified_at, clock_timestamp()),
    closing_notified_at = case when closed_at is not null then clock_timestamp() end
where id = %s
"""


def sender(urls: list[str]) -> Send:
    """Return a sender to the services of Apprise URLs.

    Sent is what one of them took at least: the others must not hear it again and again for the
    sake of one that is dead.

    Raises:
        ValueError: a URL is none that Apprise knows.
    """
    services = []
    for number, url in enumerate(urls, 1):
        service = Apprise()
        if not service.add(url):
            raise ValueError(f"NOTIFY_URLS: Apprise does not know the {number}. of them")
        services.append(service)

    async def send(title: str, body: str, kind: NotifyType) -> None:
        missed = [
            number
            for number, service in enumerate(services, 1)
            if not await service.async_notify(title=title, body=body, notify_type=kind)
        ]
        if missed:
            log.error("a notification was not taken", extra={"numbers_in_notify_urls": missed})
        if len(missed) == len(services):
            raise ConnectionError("a notification was taken by no service")

    return send


async def notify(pool: Pool, send: Send, late_hours: int) -> None:
    """Open and close incidents by what holds now, and tell of those nobody was told of."""
    async with pool.connection() as connection, connection.transaction():
        holding = await (
            await connection.execute(CONDITIONS, {"late_hours": late_hours})
        ).fetchall()
        for condition in holding:
            await connection.execute(OPEN, [condition["kind"], condition["detail"]])
        await connection.execute(CLOSE, [[condition["kind"] for condition in holding]])
    failures, last = [], 0
    while True:
        async with pool.connection() as connection, connection.transaction():
            incident = await (await connection.execute(UNSENT, [last])).fetchone()
            if incident is None:
                break
            last = incident["id"]
            try:
                await send(*_message(incident))
            except ConnectionError as error:
                failures.append(error)
            else:
                await connection.execute(SENT, [incident["id"]])
    if failures:
        raise failures[0]


def _message(incident: DictRow) -> tuple[str, str, NotifyType]:
    kind, _, _ = incident["kind"].partition(" ")
    opening, closing = TITLES[kind]
    if incident["is_over"]:
        return closing, f"It was: {incident['detail']}", NotifyType.SUCCESS
    return opening, incident["detail"], NotifyType.FAILURE
