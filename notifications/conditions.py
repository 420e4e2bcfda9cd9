"""The problems that the database shows now."""

from dataclasses import dataclass
from typing import Any, LiteralString
from uuid import UUID

import psycopg
from psycopg.rows import class_row

from database.environment import DEFAULT_LATE_HOURS, setting

_PAGES = {"rejects": "/sync/rejects", "fields": "/admin/fields", "sign_ins": "/admin/users"}


@dataclass(frozen=True)
class Condition:
    """A problem.

    Attributes:
        kind: a kind of `messages`.
        detail: the problem in words.
        causes: its causes, without values that differ each time.
        size: the number of records, if it matters.
        run_id: the run that shows it, if it is one run.
    """

    kind: str
    detail: str
    causes: list[str]
    size: int | None
    run_id: UUID | None

    @property
    def text(self) -> str:
        """The detail, and the address of the page about it, if API_PUBLIC_URL is set."""
        console = setting("API_PUBLIC_URL")
        page = f"/sync/runs/{self.run_id}" if self.run_id else _PAGES.get(self.kind, "/sync")
        return self.detail + (f"\nSee {console.rstrip('/')}{page}" if console else "")


# The parts of an error that differ each time: values, ids, times. HTTP status codes are kept.
_VARYING = r'"[^"]*"|[0-9a-f]{8}-[0-9a-f-]{27}|\m(?![45][0-9][0-9]\M)[0-9][0-9.,:]*'
_CONDITIONS: LiteralString = """
with
-- The last run of each kind that was not cancelled.
completed as (
    select last.*
    from (values ('sync'), ('reconcile')) as kinds (kind)
    cross join lateral (
        select *
        from run_logs
        where kind = kinds.kind and status != 'RUNNING' and end_reason != 'cancelled'
        order by id desc
        limit 1
    ) as last
),
first_run as (
    select min(started_at) as at from sync_logs
),
success as (
    select (
        select completed_at from sync_logs where status = 'SUCCESS' order by id desc limit 1
    ) as at
),
-- A job that a live scheduler runs or will retry has not failed yet. But an open incident stays
-- open until the job succeeds.
undecided as (
    select *
    from schedules
    where last_run_at is not null and last_succeeded is null
),
open_ones as (
    select kind from incidents where closed_at is null
),
-- Airflow sends its own alert when all attempts of a task failed. A reconcile of the scheduler
-- belongs to `schedule`.
failed as (
    select
        case kind when 'sync' then 'failed' else 'reconcile' end as kind,
        coalesce(error_message, 'No reason is known.') as detail,
        run_id,
        trigger = 'airflow' or (kind = 'reconcile' and trigger = 'schedule') or exists (
            select from undecided
            where job = completed.kind and heartbeat_at > now() - interval '3 minutes'
        ) as is_for_others
    from completed
    where status = 'FAILED'
),
unknown_codes as (
    select
        left(name, 200) as code,
        deals,
        row_number() over (order by deals desc, name) as place
    from unknown_statuses
    where section = 'statuses'
)
select
    kind,
    detail,
    array[left(regexp_replace(detail, %(varying)s, '…', 'g'), 300)] as causes,
    null::bigint as size,
    run_id
from failed
where is_for_others is not true or kind in (select kind from open_ones)
union all
select
    'schedule',
    string_agg(name || ' (meltano run ' || job || ')' || coalesce(': ' || reason, ''), '; '
        order by name),
    array_agg(name order by name),
    null,
    null
from (
    select name, job, reason
    from schedules
    join schedule_outcomes using (name)
    -- Who pauses one that failed knows of it.
    where outcome = 'FAILED' and paused_at is null
    union all
    select name, job, null from undecided where 'schedule' in (select kind from open_ones)
) as failed_ones
-- Syncs have a kind of their own.
where job != 'sync'
having count(*) > 0
union all
select
    'late',
    case
        when success.at is null then 'No sync has succeeded yet.'
        else 'The last sync that succeeded ended at ' || to_char(success.at, 'YYYY-MM-DD HH24:MI')
            || ' UTC.'
    end,
    array[]::text[],
    null,
    null
from success, first_run
where coalesce(success.at, first_run.at) < now() - make_interval(hours => %(late_hours)s)
union all
select
    'empty',
    'It read everything and found no opportunity: look at the account''s record set.',
    array[]::text[],
    null,
    run_id
from completed
where kind = 'sync' and end_reason = 'done' and sync_type = 'FULL' and total_fetched = 0
union all
select
    'rejects',
    count(*) || ' records are waiting, the last because of: '
    || left((array_agg(reason order by last_seen_at desc))[1], 500),
    (array_agg(distinct left(regexp_replace(reason, %(varying)s, '…', 'g'), 200)))[1:100],
    count(*),
    null
from rejected_records
where resolved_at is null
having count(*) > 0
union all
select
    'status',
    'Deals with status codes that nothing explains: '
    || string_agg(to_json(code)::text || ': ' || deals, ', ' order by place)
        filter (where place <= 20)
    || case when count(*) > 20 then ' and ' || count(*) - 20 || ' more' else '' end
    || '. They stay as they are, and new ones count as open. Write into crm.yml under statuses '
    || 'what each means, such as ' || (array_agg(to_json(code)::text order by place))[1]
    || ': OPEN (or WON, LOST, CLOSED).',
    (array_agg(code order by code))[1:100],
    null,
    null
from unknown_codes
having count(*) > 0
union all
select
    'fields',
    string_agg(detail || coalesce(' (' || advice || ')', ''), '; ' order by kind, attribute)
        filter (where place <= 20)
    || case when count(*) > 20 then ' and ' || count(*) - 20 || ' more' else '' end,
    (array_agg(concat_ws(' ', kind, attribute, type) order by kind, attribute))[1:500],
    null,
    null
from (
    select *, row_number() over (order by kind, attribute) as place from field_news
    -- What people have changed in crm.yml themselves is not told to them.
    where kind in ('new', 'gone', 'type')
) as news
having count(*) > 0
union all
select
    'sign_ins',
    count(*) || ' sign-ins failed within 15 minutes: of ' || count(distinct name)
    || ' names, from ' || count(distinct client) || ' addresses. Somebody may be guessing: see '
    || 'Users in the console. If all came from one address, that may be a proxy that '
    || 'FORWARDED_ALLOW_IPS does not name.',
    array[]::text[],
    count(*),
    null
from sign_in_attempts
where at > now() - interval '15 minutes' and not is_forgiven
having count(*) >= 20
"""


def late_hours() -> int:
    """Return NOTIFY_LATE_HOURS.

    Raises:
        ValueError: it is no whole number.
    """
    text = setting("NOTIFY_LATE_HOURS") or str(DEFAULT_LATE_HOURS)
    if not text.isdecimal():
        raise ValueError("NOTIFY_LATE_HOURS must be a whole number of hours")
    return int(text)


def holding(connection: psycopg.Connection[Any], late_hours: int) -> list[Condition]:
    """Return the problems.

    Args:
        connection: to the database, with the time zone UTC.
        late_hours: hours without a successful sync after which it is late.
    """
    parameters = {"late_hours": late_hours, "varying": _VARYING}
    with connection.cursor(row_factory=class_row(Condition)) as cursor:
        return cursor.execute(_CONDITIONS, parameters).fetchall()
