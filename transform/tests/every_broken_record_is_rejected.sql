-- Each raw record that breaks a rule is a reject, unresolved unless its deal is gone.
with merged_until as (

    select merged_until as loaded_in
    from {{ source('application', 'merge_marks') }}
    where model = 'rejected_records'

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
    and broken.loaded_in <= merged_until.loaded_in
    and (
        known.record_key is null
        or (known.resolved_at is not null and not broken.is_deleted)
    )
