{{
    config(
        materialized='merge_into',
        windowed=true,
        into='opportunities',
        unique_key='remote_id',
        tags='reconcile',
        pre_hook="{{ refuse_mass_deletion(ref('opportunities'), ref('stg_absent_opportunities')) }}",
        log="{{ log_deletions() }}",
    )
}}

-- Deletes leave no trace in the CRM: a deal that a complete read did not bring is gone.
select
    absent.remote_id,
    now() as deleted_at
from {{ ref('stg_absent_opportunities') }} as absent
where {{ proves_absence() }}
