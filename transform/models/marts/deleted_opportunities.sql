{{
    config(
        materialized='merge_into',
        into='opportunities',
        unique_key='remote_id',
        tags='reconcile',
        pre_hook="{{ refuse_mass_deletion(ref('opportunities'), ref('stg_opportunity_keys')) }}",
    )
}}

-- Deletes leave no trace in the CRM: a deal that a complete pass over its keys did not find,
-- and that was known before the pass began, is gone. One that is found again is not.
with keys as (

    select * from {{ ref('stg_opportunity_keys') }}

),

pass as (

    -- Rows loaded while the pass began may be newer than its first page.
    select min(found_at) - interval '1 minute' as began_at from keys

)

select
    known.remote_id,
    case
        when keys.remote_id is null
            then case
                    when known.last_synced_at < pass.began_at
                        then coalesce(known.deleted_at, now())
                    else known.deleted_at
                end
    end as deleted_at
from {{ ref('opportunities') }} as known
cross join pass
left join keys on known.remote_id = keys.remote_id
where pass.began_at is not null
