"""The SQL of changes.

Their order is that of transactions, which are visible below `horizon`: the oldest one that was
under way when it was asked for. What commits later is above it, so a reader who goes on from
there misses nothing. Within a transaction new deals come first, then changes.
"""

from typing import LiteralString

# A cursor in a part that is deleted by now, also in the middle of a transaction, has lost some.
STATE: LiteralString = """
select
    generation,
    pg_snapshot_xmin(pg_current_snapshot())::text as horizon,
    (%(xid)s::xid8, %(at)s::timestamptz) <= (pruned_xid, pruned_at) as is_pruned
from change_feed
"""
# In the index's order for a time long ago, and by the few blocks of the days for a recent one.
START: LiteralString = """
select xid::text, at::text
from (
    (
        select xid, changed_at as at from opportunity_changes
        where changed_at >= %(since)s order by xid, changed_at limit 1
    )
    union all
    (
        select xid, arrived_at from opportunity_arrivals
        where arrived_at >= %(since)s order by xid, arrived_at limit 1
    )
) as first
order by first.xid, first.at
limit 1
"""
# Of a million deals that arrived at once no more are looked up than the page has.
FEED: LiteralString = """
with
begun as (
    select * from opportunity_arrivals
    where xid < %(horizon)s::xid8
        and (xid, arrived_at) = (%(xid)s::xid8, %(at)s::timestamptz)
),
ahead as (
    select * from opportunity_arrivals
    where xid < %(horizon)s::xid8
        and (xid, arrived_at) > (%(xid)s::xid8, %(at)s::timestamptz)
    order by xid, arrived_at
    fetch first %(limit)s rows with ties
),
arrivals as (
    select *, 0 as deals_before, %(deal)s::bigint as after from begun
    union all
    select
        *,
        sum(deals) over (
            order by xid, arrived_at groups between unbounded preceding and 1 preceding
        ),
        0
    from ahead
),
new_deals as (
    select arrivals.xid, arrivals.arrived_at, arrivals.run_id, deal.id, deal.remote_id
    from arrivals
    cross join lateral (
        select opportunities.id, opportunities.remote_id
        from unnest(arrivals.ids) as part (range)
        join opportunities
            on opportunities.id >= lower(part.range) and opportunities.id < upper(part.range)
        where opportunities.id > arrivals.after
        order by opportunities.id
        limit %(limit)s
    ) as deal
    where coalesce(arrivals.deals_before, 0) < %(limit)s
),
changes as (
    select changes.*, opportunities.remote_id
    from (
        select * from opportunity_changes
        where xid < %(horizon)s::xid8
            and (xid, changed_at, id) > (%(xid)s::xid8, %(at)s::timestamptz, %(change)s)
        order by xid, changed_at, id
        limit %(limit)s
    ) as changes
    join opportunities on opportunities.id = opportunity_id
)

select
    xid::text, at::text, deal, change,
    kind, opportunity_id, remote_id, field, old_value, new_value, changed_at, changed_by, run_id
from (
    select
        xid, arrived_at as at, id as deal, 0 as change,
        'new' as kind, id as opportunity_id, remote_id, null as field, null as old_value,
        null as new_value, arrived_at as changed_at, null as changed_by, run_id
    from new_deals
    union all
    select
        xid, changed_at, %(all_deals)s, id,
        case
            when field != 'deleted_at' then 'changed'
            when new_value is null then 'returned'
            else 'deleted'
        end,
        opportunity_id, remote_id, field, old_value, new_value, changed_at, changed_by, run_id
    from changes
) as item
order by item.xid, item.at, item.deal, item.change
limit %(limit)s
"""
# The newest ones, by the indexes of the order.
NEWEST: LiteralString = """
select
    generation,
    horizon::text,
    coalesce(greatest(
        (
            select xid from opportunity_changes
            where xid < horizon order by xid desc, changed_at desc, id desc limit 1
        ),
        (
            select xid from opportunity_arrivals
            where xid < horizon order by xid desc, arrived_at desc, id desc limit 1
        )
    ), '0')::text as newest
from change_feed, pg_snapshot_xmin(pg_current_snapshot()) as horizon
"""
CHANGED_DEALS: LiteralString = """
with
changed as (
    select distinct opportunity_id as id
    from opportunity_changes
    where xid >= %(xid)s::xid8 and xid < %(horizon)s::xid8
        and (%(user)s::text is null or changed_by is distinct from %(user)s)
),
arrivals as (
    select ids, deals from opportunity_arrivals
    where xid >= %(xid)s::xid8 and xid < %(horizon)s::xid8
),
counted as (
    select
        (select count(*) from changed)
            + (select coalesce(sum(deals), 0)::bigint from arrivals) as deals
),
found as (
    select array(
        select id from changed
        union
        select generate_series(lower(range), upper(range) - 1)
        from arrivals, unnest(ids) as part (range)
        order by id
    ) as ids
    from counted
    where deals <= %(most)s
)

select coalesce(cardinality(found.ids), counted.deals) as deals, found.ids as opportunity_ids
from counted
left join found on true
"""
