{%- set outcome = 'source._crm_outcome' -%}
{%- set current = 'target.workflow_status' -%}
{%- set before = 'target.workflow_status_before_close' -%}
{{
    config(
        materialized='merge_into',
        windowed=true,
        rules="{{ merge_rules() }}",
        unique_key='remote_id',
        stamp='last_synced_at',
        on_update={
            'crm_outcome': 'coalesce(' ~ outcome ~ ', target.crm_outcome)',
            'workflow_status': workflow_status(outcome, current, before),
            'workflow_status_before_close': workflow_status_before_close(outcome, current, before),
            'custom': 'target.custom || source.custom',
            'deleted_at': 'case when source._is_deleted then target.deleted_at end',
        },
        on_insert={
            'crm_outcome': outcome,
            'workflow_status': workflow_status(outcome, 'null', 'null'),
            'workflow_status_before_close': workflow_status_before_close(outcome, 'null', 'null'),
        },
        log="{{ log_merge() }}",
        before="
            select public.convert_deals();
            select public.analyze_relation('{{ source('oracle_crm', 'opportunities') }}');
            select public.defer_indexes()
        ",
        after="{{ log_corrections() }}",
        post_hook=[
            {'sql': 'select public.build_deferred_indexes()', 'transaction': false},
            {'sql': '{{ warn_about_unknown_statuses() }}', 'transaction': false},
            {'sql': '{{ tell_field_news() }}', 'transaction': false},
        ],
    )
}}

-- depends_on: {{ ref('stg_opportunities') }}
-- depends_on: {{ ref('stg_rejected_records') }}
-- depends_on: {{ source('oracle_crm', 'accounts') }}
with loaded as (

    select * from {{ ref('opportunity_outcomes') }}
    where reject_reason is null and {{ deal_in_merge_window('opty_id', 'loaded_in') }}

)

select
    loaded.remote_id,
    loaded.opty_number,
    loaded.name,
    loaded.customer,
    loaded.practice,
    loaded.geo,
    loaded.region,
    loaded.sector,
    loaded.custom,
    loaded.deal_value,
    loaded.currency,
    loaded.crm_rate,
    loaded.crm_rate_currency,
    public.in_reporting_currency(
        loaded.deal_value, loaded.currency, loaded.crm_rate, loaded.crm_rate_currency,
        reporting.currency, reporting.rates
    ) as reporting_value,
    loaded.win_probability,
    loaded.sales_owner,
    loaded.stage,
    loaded.status_code,
    loaded.close_date,
    loaded.remote_created_at,
    loaded.remote_updated_at,
    loaded.unknown_status_code,
    loaded.crm_outcome as _crm_outcome,
    loaded.is_deleted as _is_deleted,
    known.remote_updated_at as _known_updated_at
from loaded
cross join {{ source('application', 'reporting_currency') }} as reporting
left join {{ this }} as known on loaded.remote_id = known.remote_id
-- If a complete read did not find a deal that was never merged, the deal is gone or a reject.
where known.remote_id is not null or not loaded.is_deleted
