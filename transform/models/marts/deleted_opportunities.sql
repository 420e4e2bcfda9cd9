{{
    config(
        materialized='merge_into',
        windowed=true,
        into='opportunities',
        unique_key='remote_id',
        tags='reconcile',
        pre_hook="{{ refuse_mass_deletion(ref('opportunities'), source('oracle_crm', 'opportunities')) }}",
        log="{{ log_deletions() }}",
    )
}}

-- Deletes leave no trace in the CRM: a deal that a complete read did not bring is gone. The
-- loader has marked the raw rows that the read did not have.
select
    known.remote_id,
    now() as deleted_at
from {{ ref('opportunities') }} as known
left join {{ source('oracle_crm', 'opportunities') }} as loaded
    on known.remote_id = loaded."OptyId"::text
where
    known.deleted_at is null
    and (loaded."OptyId" is null or loaded._sdc_deleted_at is not null)
    and {{ proves_absence() }}
