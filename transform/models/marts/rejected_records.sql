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

keyed as (

    select
        record_key,
        stream,
        remote_id::bigint as remote_key
    from unresolved
    where
        remote_id ~ '^[0-9]{1,18}$'
        or (remote_id ~ '^[0-9]{19}$' and remote_id <= '9223372036854775807')

),

arrived as (

    -- By primary key, so that it costs what is unresolved and not what exists.
    select
        keyed.record_key,
        opportunities.extracted_at
    from keyed
    inner join opportunities on keyed.remote_key = opportunities.opty_id
    where
        -- A child's reject that names its deal says that the deal's could not be read: with the
        -- deal they are read again.
        keyed.stream in ('opportunities', 'revenue_lines', 'opportunity_team')
        and (opportunities.reject_reason is null or keyed.stream != 'opportunities')
        and opportunities.opty_id = any(array(select wanted.remote_key from keyed as wanted))

    union all

    select
        stream || ':' || remote_key as record_key,
        extracted_at
    from {{ ref('stg_further_streams') }}
    where
        remote_key = any(array(
            select keyed.remote_key from keyed
            where keyed.stream != 'opportunities'
        ))

),

arrived_good as (

    select
        record_key,
        max(extracted_at) as extracted_at
    from arrived
    group by record_key

),

read_in_full as (

    select
        started_at,
        completed_at
    from {{ source('application', 'sync_logs') }}
    -- One that the run-time limit stopped succeeds with a word on it.
    where sync_type = 'FULL' and status = 'SUCCESS' and error_message is null
    order by started_at desc
    limit 1

)

select
    unresolved.record_key,
    unresolved.stream,
    unresolved.remote_id,
    unresolved.reason,
    unresolved.payload,
    unresolved.last_seen_at,
    unresolved._quarantined and before.record_key is null as _quarantined,
    coalesce(arrived_good.extracted_at, read_in_full.completed_at, before.resolved_at) as resolved_at
from unresolved
-- The newest raw rows are read again with each merge: what was known of them stays.
left join {{ this }} as before
    on
        unresolved.record_key = before.record_key
        and unresolved.last_seen_at <= before.last_seen_at
left join arrived_good
    on
        unresolved.record_key = arrived_good.record_key
        and unresolved.last_seen_at < arrived_good.extracted_at
-- What has no usable key can't be looked for: what a full read did not see again is gone.
left join read_in_full
    on
        unresolved.stream = 'opportunities'
        and unresolved.record_key not in (select keyed.record_key from keyed)
        and unresolved.last_seen_at < read_in_full.started_at
