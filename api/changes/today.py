"""Today: what became of the deals since a user looked last, in a time, or by a run."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.rows import DictRow
from pydantic import BaseModel, Field

from api.auth import Role, User
from api.database import fetch_one, fetch_or_404
from api.types import Id


class Kind(StrEnum):
    """What became of a deal, from the start of the time to its end; in the page's order."""

    WAITING = "waiting"
    NEW = "new"
    WON = "won"
    LOST = "lost"
    CLOSED = "closed"
    VALUE_UP = "value_up"
    VALUE_DOWN = "value_down"
    CURRENCY = "currency"
    DATE = "date"
    STAGE = "stage"
    DELETED = "deleted"
    RETURNED = "returned"


class Since(StrEnum):
    """From when on."""

    VISIT = "visit"
    DAY = "day"
    WEEK = "week"


BEGINNING, END = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)
LENGTHS = {Since.DAY: timedelta(days=1), Since.WEEK: timedelta(days=7)}


class View(BaseModel):
    """What the page shows."""

    since: Since = Since.VISIT
    run: Id | None = Field(None, description="What a run brought, instead: the id of its row")
    kind: Kind | None = Field(None, description="All of this kind, instead of some of each")
    offset: int = Field(0, ge=0, le=10_000_000)
    until: int | None = Field(
        None, ge=0, lt=2**63, description="Of a list whose next rows are asked for: its end"
    )


@dataclass(frozen=True)
class Window:
    """Which changes count, and since when that is, for people.

    A visit begins where the one before ended in the order of transactions, so that nothing falls
    between two visits. The others are times.
    """

    since_at: datetime
    since_xid: str = "0"
    from_at: datetime = BEGINNING
    to_at: datetime = END
    run_id: str | None = None


# A visit ends when nothing has been looked at for half an hour.
VISIT: LiteralString = """
insert into visits (user_id, seen_xid, since_xid, since_at)
values (%(user)s, %(until)s::xid8, null, null)
on conflict (user_id) do update set
    since_xid = case when visits.seen_at < now() - interval '30 minutes'
        then visits.seen_xid else visits.since_xid end,
    since_at = case when visits.seen_at < now() - interval '30 minutes'
        then visits.seen_at else visits.since_at end,
    seen_xid = excluded.seen_xid,
    seen_at = now()
returning since_xid::text, since_at
"""
SEEN: LiteralString = """
insert into visits (user_id, seen_xid, since_xid, since_at)
select %s, pg_snapshot_xmin(pg_current_snapshot()), pg_snapshot_xmin(pg_current_snapshot()), now()
on conflict (user_id) do update set
    seen_xid = excluded.seen_xid, seen_at = now(), since_xid = excluded.seen_xid, since_at = now()
"""
NOW: LiteralString = "select pg_snapshot_xmin(pg_current_snapshot())::text as until, now() as at"
RUN: LiteralString = """
select id, run_id::text, started_at, coalesce(completed_at, now()) as completed_at
from run_logs
where id = %s
"""
_IN_WINDOW: LiteralString = """
xid < %(until)s::xid8
    and xid >= %(since_xid)s::xid8
    and (%(run_id)s::uuid is null or run_id = %(run_id)s::uuid)
"""
COUNT_NEW: LiteralString = f"""
select coalesce(sum(deals), 0)::bigint as total
from opportunity_arrivals
where arrived_at between %(from_at)s and %(to_at)s and {_IN_WINDOW}
"""  # noqa: S608 - put together in this file
# Of the many of a first load no more are looked up than are shown.
NEW: LiteralString = f"""
with arrivals as (
    select
        *,
        sum(deals) over (order by arrived_at desc, id desc) - deals as deals_before
    from opportunity_arrivals
    where arrived_at between %(from_at)s and %(to_at)s and {_IN_WINDOW}
)

select
    deal.*, arrivals.arrived_at as changed_at, arrivals.run_id,
    null as old_value, null as new_value, null as old_currency, null as changed_by
from arrivals
cross join lateral (
    select
        opportunities.id, name, remote_id, customer, deal_value, currency, stage, close_date,
        deleted_at
    from unnest(arrivals.ids) as part (range)
    join opportunities
        on opportunities.id >= lower(part.range) and opportunities.id < upper(part.range)
    order by opportunities.id desc
    limit %(offset)s + %(limit)s
) as deal
where arrivals.deals_before < %(offset)s + %(limit)s
order by arrivals.arrived_at desc, arrivals.id desc, deal.id desc
limit %(limit)s offset %(offset)s
"""  # noqa: S608 - put together in this file
# From the first value of a field to the last one: what has come and gone meanwhile is none. Who
# changes a deal waits for whoever does, so of one deal the ids are in the order of commits.
CHANGED: LiteralString = f"""
with net as (
    select
        opportunity_id,
        field,
        (array_agg(old_value order by id))[1] as old_value,
        (array_agg(new_value order by id))[count(*)] as new_value,
        (array_agg(changed_by order by id))[count(*)] as changed_by,
        (array_agg(run_id order by id))[count(*)] as run_id,
        max(changed_at) as changed_at
    from opportunity_changes
    where changed_at between %(from_at)s and %(to_at)s
        and {_IN_WINDOW}
        and field in (
            'crm_outcome', 'deal_value', 'currency', 'close_date', 'stage', 'deleted_at'
        )
    group by opportunity_id, field
),
changed as (
    select
        net.*,
        money.old_value as old_currency,
        money.field is not null as has_other_currency
    from net
    left join net as money
        on money.opportunity_id = net.opportunity_id
        and money.field = 'currency'
        and net.field = 'deal_value'
        and money.old_value is distinct from money.new_value
    where net.old_value is distinct from net.new_value
),
of_kind as (
    select
        changed.*,
        case field
            when 'crm_outcome' then case when new_value in ('WON', 'LOST', 'CLOSED')
                then lower(new_value) end
            -- What is more in another currency, nobody knows here.
            when 'deal_value' then case
                when has_other_currency then null
                -- 100.00, then 101, then 100: the number that it was.
                when new_value::numeric = old_value::numeric then null
                when new_value is null or new_value::numeric < old_value::numeric then 'value_down'
                else 'value_up'
            end
            when 'currency' then 'currency'
            when 'close_date' then 'date'
            when 'stage' then 'stage'
            when 'deleted_at' then case when new_value is null then 'returned' else 'deleted' end
        end as kind
    from changed
),
placed as (
    select
        *,
        row_number() over (partition by kind order by changed_at desc, opportunity_id) as place,
        count(*) over (partition by kind) as total
    from of_kind
    where kind is not null
)

select
    kind, place, total, changed_at, changed_by, run_id, old_value, new_value, old_currency,
    opportunities.id, name, remote_id, customer, deal_value, currency, stage, close_date, deleted_at
from placed
join opportunities on opportunities.id = opportunity_id
where place = 1
    or (place > %(offset)s and place <= %(offset)s + %(limit)s
        and (%(kind)s::text is null or kind = %(kind)s))
order by kind, place
"""  # noqa: S608 - put together in this file
_WAITS: LiteralString = """
from opportunities
where deleted_at is null
    and coalesce(crm_outcome, 'OPEN') = 'OPEN'
    and (
        (
            workflow_status in ('NEW', 'ASSIGNED', 'UNDER_ASSESSMENT')
            and (
                assigned_to = %(user)s
                or id in (select opportunity_id from opportunity_parts where user_id = %(user)s)
            )
        )
        or id in (select opportunity_id from open_votes where user_id = %(user)s)
        -- No assessment was submitted, so a manager moves it by hand.
        or (
            %(decides)s
            and workflow_status = 'PENDING_REVIEW'
            and not exists (
                select from assessments
                where opportunity_id = opportunities.id and status = 'SUBMITTED'
            )
        )
    )
"""
COUNT_WAITING: LiteralString = f"select count(*) as total {_WAITS}"
# All deals are looked at to find them, so they are counted at the same time.
WAITING: LiteralString = f"""
with waiting as materialized (select id, close_date {_WAITS}),
shown as (
    select id from waiting order by close_date nulls last, id
    limit %(limit)s offset %(offset)s
)

select
    id, name, remote_id, customer, deal_value, currency, stage, close_date, deleted_at,
    workflow_status, null as changed_at, null as old_value, null as new_value,
    null as old_currency, null as changed_by, null as run_id,
    (select count(*) from waiting) as total
from shown
join opportunities using (id)
order by close_date nulls last, id
"""  # noqa: S608 - put together in this file


async def read(
    connection: AsyncConnection[DictRow], user: User, wanted: View, some: int, many: int
) -> dict[str, Any]:
    """Return what the page shows; to look at it counts as a visit.

    Args:
        connection: To the database.
        user: Who looks.
        wanted: The time, and the kind of change if only one is wanted.
        some: How many rows of each kind are wanted if all kinds are.
        many: How many if one kind is.

    Returns:
        `totals` and `rows`, by kind; `window`, `run` and `until`, the end in the order of
        transactions, for the next rows of the same list.

    Raises:
        ProblemError: 404, there is no such run.
    """
    user.must_be(Role.VIEWER)
    moment = await fetch_one(connection, NOW)
    until = str(moment["until"] if wanted.until is None else wanted.until)
    visit = await fetch_one(connection, VISIT, {"user": user.id, "until": moment["until"]})
    run = None
    if wanted.run is not None:
        run = await fetch_or_404(connection, RUN, [wanted.run], f"There is no run {wanted.run}.")
        window = Window(
            run["started_at"],
            from_at=run["started_at"],
            to_at=run["completed_at"],
            run_id=run["run_id"],
        )
    elif wanted.since is Since.VISIT and visit["since_at"] is not None:
        window = Window(visit["since_at"], since_xid=visit["since_xid"])
    else:
        start = moment["at"] - LENGTHS.get(wanted.since, LENGTHS[Since.DAY])
        window = Window(start, from_at=start)
    size = some if wanted.kind is None else many
    totals, rows = await find(
        connection, user, window, until, size, kind=wanted.kind, offset=wanted.offset
    )
    return {"totals": totals, "rows": rows, "window": window, "run": run, "until": until}


async def find(
    connection: AsyncConnection[DictRow],
    user: User,
    window: Window,
    until: str,
    limit: int,
    *,
    kind: Kind | None = None,
    offset: int = 0,
) -> tuple[dict[Kind, int], dict[Kind, list[DictRow]]]:
    """Return how many deals there are of each kind, and some of them: of one kind, or of each.

    Args:
        connection: To the database.
        user: For whom they wait.
        window: Which changes count.
        until: The transaction at which they end.
        limit: How many rows of a kind are wanted.
        kind: The one of which rows are wanted; None: all.
        offset: How many rows of it are left out.
    """
    parameters = {
        "until": until,
        "since_xid": window.since_xid,
        "from_at": window.from_at,
        "to_at": window.to_at,
        "run_id": window.run_id,
        "kind": kind,
        "offset": offset,
        "limit": limit,
        "user": user.id,
        "decides": user.role.includes(Role.MANAGER),
    }
    totals: dict[Kind, int] = {}
    rows: dict[Kind, list[DictRow]] = {}
    for one, count, query in (
        (Kind.WAITING, COUNT_WAITING, WAITING),
        (Kind.NEW, COUNT_NEW, NEW),
    ):
        if kind in (None, one):
            rows[one] = await (await connection.execute(query, parameters)).fetchall()
        if rows.get(one) and "total" in rows[one][0]:
            totals[one] = rows[one][0]["total"]
        else:
            totals[one] = (await fetch_one(connection, count, parameters))["total"]
    for row in await (await connection.execute(CHANGED, parameters)).fetchall():
        one = Kind(row["kind"])
        totals[one] = row["total"]
        if kind in (None, one) and row["place"] > offset:
            rows.setdefault(one, []).append(row)
    return totals, rows


async def mark_seen(connection: AsyncConnection[DictRow], user: User) -> None:
    """Let a user's next look begin now."""
    user.must_be(Role.VIEWER)
    await connection.execute(SEEN, [user.id])
