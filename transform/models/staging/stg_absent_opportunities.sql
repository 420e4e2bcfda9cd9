-- The loader has marked the raw rows that the last complete read did not find. A rejected record
-- still exists in the CRM: find it by its key, or by its number if the key is bad.
with opportunities as (

    select * from {{ ref('opportunities') }}

),

loaded as (

    select * from {{ ref('stg_opportunities') }}

),

rejected as (

    select
        remote_id,
        payload ->> 'OptyNumber' as opty_number
    from {{ ref('rejected_records') }}
    where stream = 'opportunities' and resolved_at is null

)

select opportunities.remote_id
from opportunities
left join loaded on opportunities.remote_id = loaded.remote_id
where
    opportunities.deleted_at is null
    and (loaded.remote_id is null or loaded.is_deleted)
    and not exists (
        select 1 from rejected
        where rejected.remote_id = opportunities.remote_id
    )
    and not exists (
        select 1 from rejected
        where rejected.opty_number = opportunities.opty_number
    )
