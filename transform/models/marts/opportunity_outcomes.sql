{{ config(schema='staging') }}

-- The raw deals, each with its outcome in the CRM.
with deals as (

    select
        *,
        {{ code_of_deal('status_code', 'stage_status_code') }} as code
    from {{ ref('stg_opportunities') }}

),

status_outcomes as (

    select * from {{ ref('status_outcomes') }}

),

declared_stages as (

    select
        name,
        outcome
    from {{ source('application', 'declared_outcomes') }}
    where section = 'stages'

),

judged as (

    select
        deals.*,
        case
            when deals.code is null then declared_stages.outcome
            when status_outcomes.source in ('declared', 'crm') then status_outcomes.outcome
            else coalesce(
                    -- The category belongs to the deal's own code, not to that of its stage.
                    case when deals.code = deals.status_code then {{ predefined_outcome('deals.status_category') }} end,
                    {{ predefined_outcome('deals.code') }}
                )
        end as crm_outcome
    from deals
    left join status_outcomes on deals.code = status_outcomes.code
    left join declared_stages on deals.code is null and deals.stage = declared_stages.name

)

select
    remote_id,
    opty_number,
    name,
    customer,
    practice,
    geo,
    region,
    sector,
    custom,
    deal_value,
    currency,
    crm_rate,
    crm_rate_currency,
    win_probability,
    sales_owner,
    stage,
    status_code,
    code,
    crm_outcome,
    case when crm_outcome is null then code end as unknown_status_code,
    close_date,
    remote_created_at,
    remote_updated_at,
    loaded_in,
    is_deleted,
    reject_reason,
    opty_id
from judged
