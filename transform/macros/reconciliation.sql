{#-
    Write the result of a reconcile to `public.reconciliations`, during its merge.

    The next sync would have read a deal that was changed since the last sync. All other
    differences are corrections: deals whose change time is the same (an account or a stage was
    renamed, a formula changed), and deals that a sync missed.
-#}
{% macro log_corrections() -%}
    insert into public.reconciliations (
        run_id, compared, corrected, corrected_fields, changed, missed, new, gone, failed,
        proves_absence
    )
    with usual as (
        -- Syncs look back five minutes, so this comparison does it, too.
        select max(bookmark) - interval '5 minutes' as bookmark
        from public.sync_runs
        where kind = 'sync' and transform_succeeded and state_id_suffix is null
    ),

    differences as (
        select distinct
            source.remote_id,
            case
                when source.remote_updated_at is not distinct from source._known_updated_at then 'silent'
                when source.remote_updated_at <= usual.bookmark then 'missed'
                else 'changed'
            end as kind,
            changes.field
        from {{ staged_relation() }} as source
        inner join {{ this }} as deals on source.remote_id = deals.remote_id
        inner join {{ source('application', 'opportunity_changes') }} as changes
            on deals.id = changes.opportunity_id
        cross join usual
        where
            changes.run_id = {{ sync_run_id() }}
            and changes.field not in ('workflow_status', 'crm_outcome', 'deleted_at')
    )

    select
        {{ sync_run_id() }},
        0,
        count(distinct remote_id) filter (where kind != 'changed'),
        coalesce(
            (
                select jsonb_object_agg(fields.field, fields.deals)
                from (
                    select field, count(distinct remote_id) as deals
                    from differences
                    where kind != 'changed'
                    group by field
                ) as fields
            ),
            '{}'
        ),
        count(distinct remote_id) filter (where kind = 'changed'),
        count(distinct remote_id) filter (where kind = 'missed'),
        (select coalesce(new_records, 0) from public.sync_runs where run_id = {{ sync_run_id() }}),
        0,
        0,
        {{ proves_absence() }}
    from differences
    where exists (
        select 1 from public.sync_runs where run_id = {{ sync_run_id() }} and kind = 'reconcile'
    )
    having exists (
        select 1 from public.sync_runs where run_id = {{ sync_run_id() }} and kind = 'reconcile'
    )
    on conflict (run_id) do nothing
{%- endmacro %}

{#- For the merge of the deletions: add their number. -#}
{% macro log_deletions() -%}
    update public.reconciliations
    set gone = gone + (
        select count(*) from updated
        inner join source on updated.remote_id = source.remote_id
        where source.deleted_at is not null
    )
    where run_id = {{ sync_run_id() }}
    returning gone
{%- endmacro %}

{#- Print the result of the reconcile as one line. -#}
{% macro print_reconciliation() -%}
    {%- set found = run_query(
        "update public.reconciliations
        set
            compared = runs.new_records + runs.updated_records + runs.unchanged_records
                + coalesce(runs.failed_records, 0),
            failed = coalesce(runs.failed_records, 0),
            completed_at = clock_timestamp()
        from public.sync_runs as runs
        where runs.run_id = reconciliations.run_id and runs.run_id = " ~ sync_run_id() ~ "
        returning public.reconciliation_in_words(reconciliations)"
    ) -%}
    {%- for row in found.rows -%} {%- do log('Reconcile: ' ~ row[0], info=True) -%} {%- endfor -%}
{%- endmacro %}
