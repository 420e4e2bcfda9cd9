{%- set outcome = 'source._crm_outcome' -%}
{%- set current = 'target.workflow_status' -%}
{%- set before = 'target.workflow_status_before_close' -%}
{{
    config(
        materialized='merge_into',
        unique_key='remote_id',
        stamp='last_synced_at',
        on_update={
            'crm_outcome': 'coalesce(' ~ outcome ~ ', target.crm_outcome)',
            'workflow_status': workflow_status(outcome, current, before),
            'workflow_status_before_close': workflow_status_before_close(outcome, current, before),
            'deleted_at': 'case when target.deleted_at >= source._loaded_at then target.deleted_at end',
        },
        on_insert={
            'crm_outcome': outcome,
            'workflow_status': workflow_status(outcome, 'null', 'null'),
            'workflow_status_before_close': workflow_status_before_close(outcome, 'null', 'null'),
        },
        log="{{ log_merge() }}",
        analyze="{{ source('oracle_crm', 'opportunities') }}",
        pre_hook="create index if not exists opportunities_loaded_at on {{ source('oracle_crm', 'opportunities') }} ((_sdc_batched_at at time zone 'UTC'))",
        post_hook=["{{ save_rules_fingerprint() }}", "{{ tell_of_unknown_statuses() }}"],
    )
}}

with loaded as (

    select * from {{ ref('opportunity_outcomes') }}
    where loaded_at >= {{ judged_since() }} and reject_reason is null

)

select
    remote_id,
    opty_number,
    name,
    customer,
    practice,
    geo,
    region,
    sector,
    deal_value,
    currency,
    win_probability,
    sales_owner,
    stage,
    status_code,
    close_date,
    remote_created_at,
    remote_updated_at,
    unknown_status_code,
    crm_outcome as _crm_outcome,
    loaded_at as _loaded_at
from loaded
