{{
    config(
        materialized='merge_into',
        unique_key='record_key',
        on_insert={'first_seen_at': 'source.last_seen_at'},
        log="{{ log_quarantine() }}",
    )
}}

-- Not materialized: it is read twice, and either time an index finds the few rows.
with opportunities as not materialized (

    select * from {{ ref('stg_opportunities') }}

),

rejected as (

    -- what the tap could not make a valid record of
    select
        record_key,
        stream,
        remote_id,
        reason,
        payload,
        rejected_at as last_seen_at,
        false as _quarantined
    from {{ ref('stg_rejected_records') }}
    where loaded_at >= {{ loaded_since() }}

    union all

    -- what is a valid record and breaks a rule
    select
        'opportunities:' || remote_id as record_key,
        'opportunities' as stream,
        remote_id,
        reject_reason as reason,
        payload,
        extracted_at as last_seen_at,
        true as _quarantined
    from opportunities
    where loaded_at >= {{ loaded_since() }} and reject_reason is not null

),

newest as (

    select distinct on (record_key) *
    from rejected
    order by record_key asc, last_seen_at desc

),

unresolved as (

    select * from newest

    union all

    select
        known.record_key,
        known.stream,
        known.remote_id,
        known.reason,
        known.payload,
        known.last_seen_at,
        false as _quarantined
    from {{ this }} as known
    where known.resolved_at is null and not exists (
            select 1 from newest
            where newest.record_key = known.record_key
        )

),

arrived_good as (

    -- By primary key, so that it costs what is unresolved and not what exists.
    select
        remote_id,
        extracted_at
    from opportunities
    where
        reject_reason is null
        and opty_id = any(array(
            select unresolved.remote_id::bigint
            from unresolved
            where unresolved.stream = 'opportunities' and unresolved.remote_id ~ '^[0-9]{1,18}$'
        ))

)

select
    unresolved.*,
    arrived_good.extracted_at as resolved_at
from unresolved
left join arrived_good
    on
        unresolved.stream = 'opportunities'
        and unresolved.remote_id = arrived_good.remote_id
        and unresolved.last_seen_at < arrived_good.extracted_at
