{{
    config(
        materialized='merge_into',
        windowed=true,
        unique_key='code',
    )
}}

-- Each status code that was ever declared, listed or seen, with its outcome and the source of it.
-- Codes are never deleted.
with declared as (

    select
        name as code,
        outcome
    from {{ source('application', 'declared_outcomes') }}
    where section = 'statuses'

),

listed as (

    select
        code,
        {{ predefined_outcome('category') }} as outcome
    from {{ ref('stg_opportunity_statuses') }}

),

-- Many deals have few codes: what takes long is done once for each.
loaded as (

    select
        status_code,
        stage_status_code,
        status_category,
        max(opty_id) as opty_id
    from {{ ref('stg_opportunities') }}
    where reject_reason is null and {{ in_merge_window('loaded_in') }}
    group by status_code, stage_status_code, status_category

),

read as (

    select
        {{ code_of_deal('status_code', 'stage_status_code') }} as code,
        case when status_code ~ '\S' then {{ predefined_outcome('status_category') }} end as outcome,
        opty_id
    from loaded

),

seen as (

    select distinct on (code)
        code,
        outcome
    from read
    -- A longer text is not a code, and does not fit into the table's key.
    where length(code) <= 200
    order by code asc, outcome is null asc, opty_id desc

),

known as (

    select * from {{ this }}

),

codes as (

    select code from declared
    union distinct
    select code from listed
    union distinct
    select code from seen
    union distinct
    select code from known

),

judged as (

    select
        codes.code,
        declared.outcome as declared_outcome,
        listed.outcome as listed_outcome,
        coalesce(seen.outcome, case when known.source = 'row' then known.outcome end) as row_outcome,
        {{ predefined_outcome('codes.code') }} as predefined_outcome
    from codes
    left join declared on codes.code = declared.code
    left join listed on codes.code = listed.code
    left join seen on codes.code = seen.code
    left join known on codes.code = known.code

)

select
    code,
    coalesce(declared_outcome, listed_outcome, row_outcome, predefined_outcome) as outcome,
    case
        when declared_outcome is not null then 'declared'
        when listed_outcome is not null then 'crm'
        when row_outcome is not null then 'row'
        when predefined_outcome is not null then 'predefined'
        else 'unknown'
    end as source
from judged
