"""The SQL of syncs."""

from typing import Any, LiteralString

from psycopg import AsyncConnection
from psycopg.abc import Params
from psycopg.rows import DictRow

from runs.registry import DIED, UNDER_WAY, died, has_died

# Not by time: a run that began while a clock was ahead would stay the last one.
LATEST = "select * from sync_logs order by status = 'RUNNING' desc, id desc limit 1"
HISTORY = """
select * from sync_logs
where (%(status)s::text is null or status = %(status)s)
    and (%(since)s::timestamptz is null or started_at >= %(since)s)
    and (%(before)s::bigint is null or id < %(before)s)
order by id desc
limit %(limit)s
"""
LOADING = """
select * from run_logs where status = 'RUNNING' and kind != 'other' order by id desc limit 1
"""
DEAL: LiteralString = """
select id, remote_id from opportunities where id = %(id)s or remote_id = %(remote_id)s
"""
ANY_RUN = "select * from run_logs where run_id = %s"
PROGRESS = """
select
    run_logs.*,
    case
        when status != 'RUNNING' then 'ENDED'
        when transform_started_at is not null then 'MERGING'
        when records_claimed is not null then 'LOADING'
        else 'STARTING'
    end as phase,
    records_claimed,
    case when records_claimed > 0
        then least(100, round(100.0 * total_fetched / records_claimed, 1))
    end as percent,
    round(
        total_fetched / nullif(extract(epoch from observed_at - run_logs.started_at), 0), 1
    ) as records_per_second,
    is_counted,
    host,
    transform_started_at,
    transform_completed_at
from run_logs
left join (
    select
        run_id, host, records_claimed, observed_at, transform_started_at, transform_completed_at,
        new_records is not null as is_counted
    from sync_runs
) as seen
    using (run_id)
where run_id = %s
"""
LAST_SUCCESS = """
select completed_at from sync_logs where status = 'SUCCESS' order by id desc limit 1
"""
SUCCESS_SINCE: LiteralString = """
select run_id from run_logs
where status = 'SUCCESS'
    and id > %s
    and kind = %s
order by id
limit 1
"""
RECONCILIATION: LiteralString = """
select reconciliation_in_words(found) as words, found.missed
from reconciliations as found
where run_id = %s
"""
NEW_DEALS: LiteralString = """
select coalesce(sum(deals), 0)::bigint as total
from opportunity_arrivals
where arrived_at between %(started_at)s and coalesce(%(completed_at)s, now())
    and run_id = %(run_id)s
"""
# By the times, which have an index. Sorted by what no index has, since the way back by the key to
# an old run passes all that came later.
RUN_CHANGES: LiteralString = """
select
    changes.opportunity_id, changes.field, changes.old_value, changes.new_value,
    opportunities.name, opportunities.currency
from (
    select * from opportunity_changes
    where changed_at between %(started_at)s and coalesce(%(completed_at)s, now())
        and run_id = %(run_id)s
    order by changed_at, opportunity_id, id
    limit %(limit)s offset %(offset)s
) as changes
join opportunities on opportunities.id = changes.opportunity_id
order by changes.changed_at, changes.opportunity_id, changes.id
"""
# The last run that has met a reject has it.
RUN_REJECTS: LiteralString = """
select
    stream,
    reason,
    count(*) as records,
    count(*) filter (where resolved_at is null) as unresolved,
    coalesce((array_agg(distinct remote_id) filter (where remote_id is not null))[:5], '{}')
        as remote_ids
from rejected_records
where last_run_id = %(run_id)s
group by stream, reason
order by count(*) desc, stream, reason
limit 50
"""
LAST_RECONCILIATION = """
select
    reconciliation_in_words(found) as words, found.missed, run_logs.completed_at, run_logs.run_id
from reconciliations as found
join run_logs using (run_id)
where run_logs.status = 'SUCCESS'
order by run_logs.id desc
limit 1
"""
OTHERS = "select * from run_logs where kind != 'sync' order by id desc limit %s"
SCHEDULES = """
select schedules.*, outcome, heartbeat_at > now() - interval '3 minutes' as is_alive
from schedules
join schedule_outcomes using (name)
order by next_run_at nulls last, name
"""
LOCK_SCHEDULE: LiteralString = "select * from schedules where name = %s for update"
CHANGE_SCHEDULE: LiteralString = """
with changed as (
    update schedules
    set
        paused_at = case when %(paused)s then coalesce(paused_at, now()) end,
        paused_by = case when %(paused)s then coalesce(paused_by, %(by)s) end
    where name = %(name)s
    returning *
)
select changed.*, outcome
from changed
join schedule_outcomes using (name)
"""
WANT_SCHEDULE: LiteralString = """
with wanted as (
    update schedules set wanted_by = %(by)s
    where name = %(name)s
    returning *
)
select wanted.*, outcome, heartbeat_at > now() - interval '3 minutes' as is_alive
from wanted
join schedule_outcomes using (name)
"""
REJECTS = """
select
    id, stream, remote_id, reason, coalesce(payload, 'null')::text as payload, first_seen_at,
    last_seen_at, last_run_id, resolved_at
from rejected_records
where (%(stream)s::text is null or stream = %(stream)s)
    and (%(run_id)s::uuid is null or last_run_id = %(run_id)s)
    and (%(remote_id)s::text is null or remote_id = %(remote_id)s)
    and (%(resolved)s or resolved_at is null)
    and (%(before)s::bigint is null or id < %(before)s)
order by id desc
limit %(limit)s
"""
COUNT_REJECTS = """
select count(*)
from rejected_records
where (%(stream)s::text is null or stream = %(stream)s)
    and (%(run_id)s::uuid is null or last_run_id = %(run_id)s)
    and (%(remote_id)s::text is null or remote_id = %(remote_id)s)
    and (%(resolved)s or resolved_at is null)
"""
UNKNOWN_STATUSES = """
select section, name, deals, to_json(name)::text as quoted
from unknown_statuses
order by section desc, deals desc, name
limit 50
"""


async def fetch(
    connection: AsyncConnection[DictRow], query: Any, parameters: Params | None = None
) -> list[DictRow]:
    """Return the rows of a query over the runs, those that have just died among them."""
    for run in await (await connection.execute(UNDER_WAY)).fetchall():
        if has_died(run):
            await connection.execute(DIED, died(run["run_id"]))
    return await (await connection.execute(query, parameters)).fetchall()
