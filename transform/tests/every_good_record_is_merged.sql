-- Each raw record is merged in its newest version. Exceptions: rejects, deals that were gone
-- before their first merge, and records that were loaded after the last merge.
with merged_until as (

    select merged_until as loaded_in
    from {{ source('application', 'merge_marks') }}
    where model = 'opportunities'

)

select
    loaded.remote_id,
    loaded.remote_updated_at,
    opportunities.remote_updated_at as merged_remote_updated_at
from {{ ref('stg_opportunities') }} as loaded
cross join merged_until
left join {{ ref('opportunities') }} as opportunities
    on loaded.remote_id = opportunities.remote_id
where
    loaded.reject_reason is null
    and loaded.loaded_in <= merged_until.loaded_in
    and (
        (opportunities.remote_id is null and not loaded.is_deleted)
        or loaded.remote_updated_at is distinct from opportunities.remote_updated_at
    )
