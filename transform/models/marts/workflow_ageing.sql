with open_deals as (

    select * from {{ ref('opportunities') }}
    where deleted_at is null and coalesce(crm_outcome, 'OPEN') = 'OPEN'

),

last_moves as (

    select
        opportunity_id,
        max(changed_at) as moved_at
    from {{ source('application', 'opportunity_changes') }}
    where field = 'workflow_status'
    group by opportunity_id

),

decisions as (

    select content
    from {{ source('application', 'declarations') }}
    where section = 'decisions'
    order by id desc
    limit 1

),

limits as (

    select
        states.key as workflow_status,
        (states.value ->> 'days')::integer as limit_days
    from decisions
    cross join lateral json_each(decisions.content -> 'states') as states

),

aged as (

    select
        open_deals.workflow_status,
        extract(
            epoch from now() - coalesce(last_moves.moved_at, open_deals.first_synced_at)
        ) / 86400 as days
    from open_deals
    left join last_moves on open_deals.id = last_moves.opportunity_id

)

select
    aged.workflow_status,
    count(*) as deals,
    round(percentile_cont(0.5) within group (order by aged.days)::numeric, 1) as median_days,
    round(max(aged.days), 1) as oldest_days,
    limits.limit_days,
    count(*) filter (where aged.days > limits.limit_days) as over_limit
from aged
left join limits on aged.workflow_status = limits.workflow_status
group by aged.workflow_status, limits.limit_days
