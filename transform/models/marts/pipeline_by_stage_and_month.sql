-- A deal with an unknown outcome counts as open.
with open_deals as (

    select * from {{ ref('opportunities') }}
    where deleted_at is null and coalesce(crm_outcome, 'OPEN') = 'OPEN'

)

select
    stage,
    currency,
    close_date - extract(day from close_date)::integer + 1 as close_month,
    count(*) as deals,
    coalesce(sum(deal_value), 0) as deal_value,
    round(coalesce(sum(deal_value * win_probability * 0.01), 0), 2) as weighted_value,
    coalesce(sum(reporting_value), 0) as reporting_value,
    round(coalesce(sum(reporting_value * win_probability * 0.01), 0), 2) as weighted_reporting_value
from open_deals
group by stage, currency, close_month
