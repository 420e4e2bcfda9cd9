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

-- The CRM does not report deletes: a deal is gone if a complete read did not find it. A deal that
-- was gone and comes back exists again, even if it can't be loaded.
with rejected as (

    select
        remote_id,
        payload ->> 'OptyNumber' as opty_number
    from {{ ref('rejected_records') }}
    where stream = 'opportunities' and resolved_at is null

),

marked as (

    select
        remote_id,
        opty_number
    from {{ ref('opportunities') }}
    where deleted_at is not null

)

select
    absent.remote_id,
    now() as deleted_at
from {{ ref('stg_absent_opportunities') }} as absent
where {{ proves_absence() }}

union all

select
    marked.remote_id,
    null as deleted_at
from marked
where
    exists (
        select 1 from rejected
        where rejected.remote_id = marked.remote_id
    )
    or exists (
        select 1 from rejected
        where rejected.opty_number = marked.opty_number
    )
