{{
    config(
        materialized='merge_into',
        windowed=true,
        unique_key='record_key',
        on_insert={'first_seen_at': 'source.last_seen_at'},
        log="{{ log_rejects() }}",
    )
}}

with {{ fetched_records(further=true) }},

-- Valid records that break a rule: to judge one takes long if there are many own fields.
broken as (

    select
        remote_id,
        reject_reason,
        payload,
        extracted_at,
        loaded_in
    from {{ ref('stg_opportunities') }}
    where reject_reason is not null and not is_deleted and ({{ deal_in_merge_window('opty_id', 'loaded_in') }})

    union all

    -- read again without a change
    select
        again.remote_id,
        again.reject_reason,
        again.payload,
        again.extracted_at,
        again.loaded_in
    from {{ source('oracle_crm', 'read_keys') }} as keys
    inner join {{ ref('stg_opportunities') }} as again on {{ deal_of('keys') }} = again.opty_id
    where
        {{ not_yet_counted('keys.loaded_in') }}
        and not ({{ deal_in_merge_window('again.opty_id', 'again.loaded_in') }})
        and again.reject_reason is not null
        and not again.is_deleted

),

rejected as (

    -- records that the tap rejected
    select
        record_key,
        stream,
        remote_id,
        reason,
        payload,
        rejected_at as last_seen_at,
        loaded_in
    from {{ ref('stg_rejected_records') }}
    where {{ in_merge_window('loaded_in') }}

    union all

    select
        'opportunities:' || broken.remote_id as record_key,
        'opportunities' as stream,
        broken.remote_id,
        broken.reject_reason as reason,
        broken.payload,
        coalesce(broken.extracted_at, now()) as last_seen_at,
        coalesce(fetched.loaded_in, broken.loaded_in) as loaded_in
    from broken
    left join fetched
        on fetched.stream = 'opportunities' and broken.remote_id = fetched.record_key

),

newest as (

    select distinct on (record_key) *
    from rejected
    order by record_key asc, loaded_in desc

),

arrived as (

    select
        fetched.stream || ':' || fetched.record_key as record_key,
        fetched.loaded_in
    from fetched
    where
        fetched.stream != 'opportunities'
        or not exists (
            select 1 from rejected
            where
                rejected.stream = 'opportunities'
                and rejected.remote_id = fetched.record_key
                and rejected.loaded_in >= fetched.loaded_in
        )

),

seen as (

    select
        newest.record_key,
        newest.stream,
        newest.remote_id,
        newest.reason,
        newest.payload,
        newest.last_seen_at,
        newest.loaded_in as rejected_in,
        case
            when arrived.loaded_in > newest.loaded_in then now()
            -- A known reject is only merged again: it stays as it was.
            when newest.loaded_in <= before.rejected_in then before.resolved_at
        end as resolved_at,
        case
            when {{ not_yet_counted('newest.loaded_in') }} then {{ merging_run() }}
            else before.last_run_id
        end as last_run_id,
        newest.stream = 'opportunities'
        and arrived.record_key is null
        and ({{ not_yet_counted('newest.loaded_in') }}) as _is_failed
    from newest
    left join arrived on newest.record_key = arrived.record_key
    left join {{ this }} as before on newest.record_key = before.record_key

),

-- Rejected deals that became valid without a read: crm.yml or an account has changed. A version that the tap
-- rejected is not loaded, so an older one proves nothing.
mended as (

    select known.record_key
    from {{ this }} as known
    inner join {{ ref('stg_opportunities') }} as deal
        on deal.opty_id = case when known.remote_id ~ '^\d{1,18}$' then known.remote_id::bigint end
    where
        known.stream = 'opportunities'
        and known.resolved_at is null
        and deal.reject_reason is null
        and not deal.is_deleted
        and not exists (
            select 1 from {{ ref('stg_rejected_records') }} as refused
            where refused.record_key = known.record_key and refused.loaded_in > deal.loaded_in
        )

),

-- Records that were rejected before and not now: are they valid now, or gone?
unseen as (

    select
        known.record_key,
        known.stream,
        known.remote_id,
        known.reason,
        known.payload,
        known.last_seen_at,
        known.rejected_in,
        case
            when
                arrived.record_key is not null
                or mended.record_key is not null
                -- If a child's reject has the key of its deal, all children of that deal could
                -- not be read. They are read again with the deal, or are gone with it.
                or (deal_arrived.record_key is not null and {{ reads_children() }})
                or (
                    known.stream = 'opportunities'
                    and {{ proves_absence() }}
                )
                or (
                    known.stream in ('revenue_lines', 'opportunity_team')
                    and {{ proves_absence() }}
                    and exists (
                        select 1 from {{ ref('stg_opportunities') }} as deal
                        where deal.remote_id = known.remote_id and deal.is_deleted
                    )
                    and not exists (
                        select 1 from newest
                        where newest.record_key = 'opportunities:' || known.remote_id
                    )
                )
                then now()
        end as resolved_at,
        known.last_run_id,
        false as _is_failed
    from {{ this }} as known
    left join arrived on known.record_key = arrived.record_key
    left join mended on known.record_key = mended.record_key
    left join arrived as deal_arrived
        on
            known.stream in ('revenue_lines', 'opportunity_team')
            and deal_arrived.record_key = 'opportunities:' || known.remote_id
    where
        known.resolved_at is null
        and not exists (
            select 1 from newest
            where newest.record_key = known.record_key
        )

),

all_rejects as (

    select * from seen
    union all
    select * from unseen

)

-- The last column is for tests: they do not know the time of a resolution.
select
    *,
    resolved_at is not null as _is_resolved
from all_rejects
