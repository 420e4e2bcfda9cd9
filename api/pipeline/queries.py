"""The SQL of the pipeline over time.

What a deal was like at a moment is what it is like now, but for the fields that have changed since:
of these it is the old value of the first change after the moment.
"""

from typing import LiteralString

KEPT_SINCE: LiteralString = "select greatest(complete_since, pruned_at) as at from change_feed"
# Nobody knows what there was before the first deals came.
FIRST_DEAL: LiteralString = "select min(first_synced_at) as at from opportunities"
RATES: LiteralString = "select currency as reporting, rates::text as rates from reporting_currency"

_FIELDS: LiteralString = """
('crm_outcome', 'currency', 'deal_value', 'close_date', 'stage', 'deleted_at')
"""


def _state(state: LiteralString, at: LiteralString, suffix: LiteralString) -> LiteralString:
    """Return the columns of what a deal was like at a moment; amounts are 0 where there is none."""

    def was(field: LiteralString, type_: LiteralString = "text") -> LiteralString:
        return (
            f"case when {state} ? '{field}' then ({state} ->> '{field}')::{type_}"
            f" else opportunities.{field} end"
        )

    return f"""
    case
        when opportunities.first_synced_at > %({at})s then 'absent'
        when {was("deleted_at", "timestamptz")} is not null then 'deleted'
        else lower(coalesce({was("crm_outcome")}, 'OPEN'))
    end as outcome_{suffix},
    nullif({was("currency")}, '') as currency_{suffix},
    coalesce({was("deal_value", "numeric")}, 0) as value_{suffix},
    -- Filters compare this much of a text.
    left(nullif({was("stage")}, ''), 200) as stage_{suffix},
    {was("close_date", "date")} as closes_{suffix}
    """


def _convert(side: LiteralString) -> LiteralString:
    """Return a deal's value on a day in the reporting currency, by the rates of now.

    The deal's own rate in the CRM is that of the currency that it has now.
    """
    return f"""
    in_reporting_currency(
        value_{side},
        currency_{side},
        case when currency_{side} = nullif(currency, '') then crm_rate end,
        crm_rate_currency,
        %(reporting)s::text,
        %(rates)s::jsonb
    )
    """


def _risen(value: LiteralString, suffix: LiteralString = "") -> LiteralString:
    """Return the sums of the values that rose, and of those that fell."""
    before, after = f"{value}_before", f"{value}_after"
    return f"""
    count(*) filter (where {after} > {before}) as deals_up{suffix},
    coalesce(sum({after} - {before}) filter (where {after} > {before}), 0) as value_up{suffix},
    count(*) filter (where {after} < {before}) as deals_down{suffix},
    coalesce(sum({after} - {before}) filter (where {after} < {before}), 0) as value_down{suffix}
    """


DEALS: LiteralString = f"""
with changes as materialized (
    select id, opportunity_id, field, old_value, changed_at > %(closing)s as is_later
    from opportunity_changes
    where changed_at > %(opening)s and field in {_FIELDS}
),
openings as (
    select opportunity_id, jsonb_object_agg(field, old_value) as opening
    from (
        select distinct on (opportunity_id, field) opportunity_id, field, old_value
        from changes
        order by opportunity_id, field, id
    ) as first
    group by opportunity_id
),
closings as (
    select opportunity_id, jsonb_object_agg(field, old_value) as closing
    from (
        select distinct on (opportunity_id, field) opportunity_id, field, old_value
        from changes
        where is_later
        order by opportunity_id, field, id
    ) as first
    group by opportunity_id
),
states as (
    select
        opportunities.id,
        opportunities.currency,
        opportunities.crm_rate,
        opportunities.crm_rate_currency,
        {_state("opening", "opening", "before")},
        {_state("closing", "closing", "after")}
    from opportunities
    left join openings on openings.opportunity_id = opportunities.id
    left join closings on closings.opportunity_id = opportunities.id
    where opportunities.first_synced_at <= %(closing)s
),
converted as (
    select
        *,
        value_before != 0 and exact_before is null or value_after != 0 and exact_after is null
            as lacks_rate,
        coalesce(exact_before, 0) as converted_before,
        coalesce(exact_after, 0) as converted_after
    from (
        select *, {_convert("before")} as exact_before, {_convert("after")} as exact_after
        from states
        where outcome_before = 'open' or outcome_after = 'open'
    ) as open
),
deals as (
    select
        *,
        currency_before is not distinct from currency_after as is_same_currency,
        case
            when outcome_before != 'open' or outcome_after != 'open'
                or closes_before is not distinct from closes_after then null
            when closes_before is null then 'set'
            when closes_after is null then 'removed'
            when closes_after < closes_before then 'earlier'
            when closes_after - closes_before <= 30 then 'later_30'
            when closes_after - closes_before <= 90 then 'later_90'
            else 'later'
        end as date_moved
    from converted
)
"""  # noqa: S608 - put together in this file

# Sums of what is alike: few rows, of which each number of the page is made.
CELLS: LiteralString = f"""
{DEALS}
select
    outcome_before, currency_before, stage_before, outcome_after, currency_after, stage_after,
    date_moved,
    count(*) as deals,
    sum(value_before) as value_before,
    sum(value_after) as value_after,
    {_risen("value")},
    sum(converted_before) as value_before_converted,
    sum(converted_after) as value_after_converted,
    {_risen("converted", "_converted")},
    count(*) filter (where lacks_rate) as without_rate,
    coalesce(sum(closes_after - closes_before), 0)::bigint as days_moved
from deals
group by
    outcome_before, currency_before, stage_before, outcome_after, currency_after, stage_after,
    date_moved
"""  # noqa: S608 - put together in this file

_WAS_HERE: LiteralString = (
    "outcome_before = 'open'"
    " and (%(converted)s or currency_before is not distinct from %(currency)s)"
)
_IS_HERE: LiteralString = (
    "outcome_after = 'open' and (%(converted)s or currency_after is not distinct from %(currency)s)"
)
# To whom all are converted, no deal goes from one currency to another.
_STAYS: LiteralString = "(%(converted)s or is_same_currency)"
_RISES: LiteralString = """
case when %(converted)s then converted_after - converted_before else value_after - value_before end
"""

# Which deals each number counts.
STEPS: dict[str, LiteralString] = {
    "opening": _WAS_HERE,
    "new": f"{_IS_HERE} and outcome_before = 'absent'",
    "reopened": f"{_IS_HERE} and outcome_before in ('won', 'lost', 'closed')",
    "returned": f"{_IS_HERE} and outcome_before = 'deleted'",
    "value_up": f"{_WAS_HERE} and {_STAYS} and {_RISES} > 0",
    "value_down": f"{_WAS_HERE} and {_STAYS} and {_RISES} < 0",
    "currency_in": f"{_IS_HERE} and outcome_before = 'open' and not {_STAYS}",
    "currency_out": f"{_WAS_HERE} and outcome_after = 'open' and not {_STAYS}",
    **{
        outcome: f"{_WAS_HERE} and outcome_after = '{outcome}'"
        for outcome in ("won", "lost", "closed", "deleted")
    },
    "closing": _IS_HERE,
    "kept": f"{_WAS_HERE} and {_IS_HERE}",
}
_FILTERS: dict[str, LiteralString] = {
    "stage_before": "stage_before = %(stage_before)s",
    "stage_after": "stage_after = %(stage_after)s",
    "missing_stage_before": "stage_before is null",
    "missing_stage_after": "stage_after is null",
    "close_date": "date_moved = %(close_date)s",
}


def rows(step: str, filters: list[str]) -> LiteralString:
    """Return the query of the deals that a number counts, those of the greatest amounts first.

    Args:
        step: one of STEPS.
        filters: names of others.
    """
    where: LiteralString = " and ".join([STEPS[step], *(_FILTERS[name] for name in filters)])
    return f"""
    {DEALS}
    select
        deals.*, remote_id, name, customer, count(*) over () as total
    from deals
    join opportunities using (id)
    where {where}
    order by
        case when %(converted)s then greatest(converted_before, converted_after)
            else greatest(value_before, value_after) end desc,
        id
    limit %(limit)s offset %(offset)s
    """  # noqa: S608 - put together from what stands above


def _before(field: LiteralString) -> LiteralString:
    return f"""
    (coalesce(
        (
            select array[later.old_value]
            from opportunity_changes as later
            where later.opportunity_id = events.opportunity_id
                and later.id >= events.id
                and later.field = '{field}'
            order by later.id
            limit 1
        ),
        array[opportunities.{field}::text]
    ))[1] as {field}
    """  # noqa: S608 - a name of this file


# Of each stay in a stage that has ended: how long it was. What changed in one transaction is one
# event, and the state before it is the old value of the first change from it on. A stay whose
# begin is not in the history is left out.
STAYS: LiteralString = f"""
with events as (
    select distinct on (opportunity_id, changed_at) opportunity_id, changed_at, id
    from opportunity_changes
    where changed_at > %(opening)s and changed_at <= %(closing)s
        and (
            field = 'stage'
            or (field = 'crm_outcome' and new_value in ('WON', 'LOST', 'CLOSED'))
            or (field = 'deleted_at' and new_value is not null)
        )
    order by opportunity_id, changed_at, id
),
before as (
    select
        events.*,
        opportunities.remote_created_at,
        {_before("stage")},
        {_before("crm_outcome")},
        {_before("deleted_at")}
    from events
    join opportunities on opportunities.id = events.opportunity_id
),
stays as (
    select
        before.stage,
        before.changed_at as ended_at,
        coalesce(
            (
                select earlier.changed_at
                from opportunity_changes as earlier
                where earlier.opportunity_id = before.opportunity_id
                    and earlier.id < before.id
                    and earlier.changed_at < before.changed_at
                    and earlier.field in ('stage', 'crm_outcome', 'deleted_at')
                order by earlier.id desc
                limit 1
            ),
            case when remote_created_at >= %(begin)s then remote_created_at end
        ) as began_at
    from before
    where coalesce(crm_outcome, 'OPEN') = 'OPEN' and deleted_at is null
)

select
    left(nullif(stage, ''), 200) as stage,
    count(*) as stays,
    round((
        percentile_cont(0.5) within group (order by extract(epoch from ended_at - began_at)) / 86400
    )::numeric, 1) as median_days,
    round((max(extract(epoch from ended_at - began_at)) / 86400)::numeric, 1) as most_days
from stays
where began_at < ended_at
group by 1
order by 1
"""  # noqa: S608 - put together in this file
