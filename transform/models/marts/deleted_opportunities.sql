{{
    config(
        materialized='merge_into',
        into='opportunities',
        unique_key='remote_id',
        tags='reconcile',
        pre_hook=[
            "{{ refuse_mass_deletion(ref('opportunities'), ref('stg_opportunity_keys')) }}",
            "{{ tell_of_missing_deals(ref('opportunities'), ref('rejected_records'), ref('stg_opportunity_keys')) }}",
        ],
        post_hook="{{ resolve_deleted_rejects(ref('rejected_records'), ref('stg_opportunity_keys'), ref('opportunities')) }}",
    )
}}

-- Deletes leave no trace in the CRM: a deal that a complete pass over its keys did not find,
-- and that was known before the pass began, is gone. One that is found again is not.
with keys as (

    select * from {{ ref('stg_opportunity_keys') }}

),

pass as (

    -- Both times are of a tap's clock. The margin is for taps that run on several machines.
    select min(pass_began_at) - interval '2 seconds' as began_at from keys

),

-- Not materialized: an index finds the few that are asked for.
extracted as not materialized (

    select
        "OptyId" as opty_id,
        _sdc_extracted_at at time zone 'UTC' as extracted_at
    from {{
        optional_source(source('oracle_crm', 'opportunities'), {
            'OptyId': 'bigint',
            '_sdc_extracted_at': 'timestamp',
        })
    }}

)

select
    known.remote_id,
    case
        when keys.remote_id is null
            then case
                    -- Of rows that are no longer in raw, the merge is all that is known.
                    when pass.began_at > coalesce(
                            (
                                select extracted.extracted_at from extracted
                                where extracted.opty_id = known.remote_id::bigint
                            ),
                            known.last_synced_at
                        )
                        then coalesce(known.deleted_at, now())
                    else known.deleted_at
                end
    end as deleted_at
from {{ ref('opportunities') }} as known
cross join pass
left join keys on known.remote_id = keys.remote_id
where pass.began_at is not null
