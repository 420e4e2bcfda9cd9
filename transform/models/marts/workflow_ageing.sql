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
    workflow_status,
    count(*) as deals,
    round(percentile_cont(0.5) within group (order by days)::numeric, 1) as median_days,
    round(max(days), 1) as oldest_days
from aged
group by workflow_status
