with decided as (

    select * from {{ ref('opportunities') }}
    where deleted_at is null and crm_outcome in ('WON', 'LOST', 'CLOSED')

),

counted as (

    select
        practice,
        currency,
        count(*) filter (where crm_outcome = 'WON') as won,
        count(*) filter (where crm_outcome = 'LOST') as lost,
        count(*) filter (where crm_outcome = 'CLOSED') as closed,
        coalesce(sum(deal_value) filter (where crm_outcome = 'WON'), 0) as won_value,
        coalesce(sum(deal_value) filter (where crm_outcome = 'LOST'), 0) as lost_value,
        coalesce(sum(deal_value) filter (where crm_outcome = 'CLOSED'), 0) as closed_value
    from decided
    group by practice, currency

)

-- A deal that was closed without a decision is neither a win nor a loss.
select
    practice,
    currency,
    won,
    lost,
    closed,
    round(won / nullif(won + lost, 0)::numeric, 4) as win_rate,
    won_value,
    lost_value,
    closed_value,
    round(won_value / nullif(won_value + lost_value, 0), 4) as win_rate_by_value
from counted
