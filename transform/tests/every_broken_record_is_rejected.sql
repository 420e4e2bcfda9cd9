-- A raw record that breaks a rule is among the rejects, unresolved unless its deal is gone.
with merged_until as (

    select max(loaded_until) as loaded_at
    from {{ source('application', 'sync_runs') }}
    where transform_succeeded

),

keys as (

    select remote_id from {{ ref('stg_opportunity_keys') }}

)

select
    broken.remote_id,
    broken.reject_reason
from {{ ref('stg_opportunities') }} as broken
cross join merged_until
left join {{ ref('rejected_records') }} as known
    on known.record_key = 'opportunities:' || broken.remote_id
where
    broken.reject_reason is not null
    and broken.loaded_at <= merged_until.loaded_at
    and (
        known.record_key is null
        or (
            known.resolved_at is not null
            and (broken.remote_id in (select keys.remote_id from keys) or not exists (select 1 from keys))
        )
    )
