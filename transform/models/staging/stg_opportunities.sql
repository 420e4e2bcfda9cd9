-- depends_on: {{ ref('crm_attributes') }}
-- depends_on: {{ source('oracle_crm', 'accounts') }}
-- One select, without names for its parts: PostgreSQL then looks up single deals by their keys.
select
    -- keys
    "OptyId" as opty_id,
    "OptyId"::text as remote_id,
    "OptyNumber" as opty_number,

    -- the deal
    "Name" as name,
    "TargetPartyName" as customer,
    "Revenue" as deal_value,
    "CurrencyCode" as currency,
    "CrmConversionRate" as crm_rate,
    "CrmCurcyCode" as crm_rate_currency,
    "WinProb" as win_probability,
    "OwnerResourcePartyId"::text as sales_owner,

    -- where it stands
    "SalesStage" as stage,
    "StatusCode" as status_code,
    "StageStatusCd" as stage_status_code,
    "LookupCategory" as status_category,
    "EffectiveDate" as close_date,

    -- custom fields: each customer has other names
    {{ attribute(env_var('ORACLE_PRACTICE_FIELD')) }} as practice,
    {{ attribute(env_var('ORACLE_GEO_FIELD')) }} as geo,
    {{ attribute(env_var('ORACLE_REGION_FIELD')) }} as region,
    {{ attribute(env_var('ORACLE_SECTOR_FIELD')) }} as sector,
    {{ own_values('source') }} as custom,
    {{ own_error('source') }} as custom_error,

    -- times
    "CreationDate" as remote_created_at,
    "LastUpdateDate" as remote_updated_at,
    _sdc_extracted_at as extracted_at,

    -- its last batch, and whether the last complete read did not find it
    _loaded_in as loaded_in,
    _sdc_deleted_at is not null as is_deleted,

    -- for the rejects: the record as it was loaded
    to_jsonb(source) as payload,

    case
        when "WinProb" not between 0 and 100
            then 'WinProb: ' || "WinProb" || ' is not between 0 and 100'
        when "EffectiveDate" not between '1900-01-01' and '9999-12-31'
            then 'EffectiveDate: ' || "EffectiveDate" || ' is not a date of our times'
        else {{ own_error('source') }}
    end as reject_reason
from {{ source('oracle_crm', 'opportunities') }} as source
