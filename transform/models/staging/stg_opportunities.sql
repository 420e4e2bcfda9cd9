{%- set raw = source('oracle_crm', 'opportunities') -%}

with source as (

    select * from {{ raw }}

),

renamed as (

    select
        -- keys
        "OptyId" as opty_id,
        "OptyId"::text as remote_id,
        {{ attribute(raw, 'OptyNumber', 'text') }} as opty_number,

        -- the deal
        {{ attribute(raw, 'Name', 'text') }} as name,
        {{ attribute(raw, 'TargetPartyName', 'text') }} as customer,
        {{ attribute(raw, 'Revenue', 'numeric') }} as deal_value,
        {{ attribute(raw, 'CurrencyCode', 'text') }} as currency,
        {{ attribute(raw, 'WinProb', 'numeric') }} as win_probability,
        {{ attribute(raw, 'OwnerResourcePartyId', 'text') }} as sales_owner,

        -- where it stands
        {{ attribute(raw, 'SalesStage', 'text') }} as stage,
        {{ attribute(raw, 'StatusCode', 'text') }} as status_code,
        {{ attribute(raw, 'StageStatusCd', 'text') }} as stage_status_code,
        {{ attribute(raw, 'LookupCategory', 'text') }} as status_category,
        {{ attribute(raw, 'EffectiveDate', 'date') }} as close_date,

        -- custom fields: their names differ from one customer to the next
        {{ attribute(raw, env_var('ORACLE_PRACTICE_FIELD', 'Practice_c'), 'text') }} as practice,
        {{ attribute(raw, env_var('ORACLE_GEO_FIELD', 'GEO_c'), 'text') }} as geo,
        {{ attribute(raw, env_var('ORACLE_REGION_FIELD', 'Region_c'), 'text') }} as region,
        {{ attribute(raw, env_var('ORACLE_SECTOR_FIELD', 'Sector_c'), 'text') }} as sector,

        -- times
        {{ attribute(raw, 'CreationDate', 'timestamptz') }} as remote_created_at,
        {{ attribute(raw, 'LastUpdateDate', 'timestamptz') }} as remote_updated_at,
        _sdc_extracted_at at time zone 'UTC' as extracted_at,
        _sdc_batched_at at time zone 'UTC' as loaded_at,

        -- for the rejects: the record as it was loaded
        to_jsonb(source) as payload

    from source

),

judged as (

    select
        *,
        case
            when win_probability not between 0 and 100
                then 'WinProb: ' || win_probability || ' is not between 0 and 100'
            when close_date not between '1900-01-01' and '9999-12-31'
                then 'EffectiveDate: ' || close_date || ' is not a date of our times'
        end as reject_reason
    from renamed

)

select * from judged
