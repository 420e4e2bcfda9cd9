{#-
    dbt writes its results to `public.sync_runs`; the views `run_logs` and `sync_logs` read it.

    Meltano sets the id of the run. A dbt that was started without Meltano counts for the newest
    run with a successful load: it merges the records of that run or of an older one.
-#}
{% macro sync_run_id() -%}
    (
        select coalesce(
            (
                select run_id from public.sync_runs
                where run_id = {{ meltano_run_id() }} and kind in ('sync', 'reconcile', 'refresh')
            ),
            (
                select run_id from public.sync_runs
                where kind in ('sync', 'reconcile') and load_succeeded
                order by id desc
                limit 1
            ),
            {{ meltano_run_id() }}
        )
    )
{%- endmacro %}

{#- Not while dbt parses: it would parse the models that ask for it again in each run. -#}
{% macro meltano_run_id() -%}
    '{{ env_var("MELTANO_RUN_ID", invocation_id) if execute else "" }}'::uuid
{%- endmacro %}

{#- Whether deals that this run did not see are gone. -#}
{% macro proves_absence() -%}
    public.proves_absence({{ sync_run_id() }})
{%- endmacro %}

{#- The settings and rules that decide how deals are merged; if they change, all are merged again. -#}
{% macro merge_rules() -%}
    {{ dbt.string_literal(dbt.escape_single_quotes([
        env_var('ORACLE_PRACTICE_FIELD'), env_var('ORACLE_GEO_FIELD'),
        env_var('ORACLE_REGION_FIELD'), env_var('ORACLE_SECTOR_FIELD'),
    ] | join(' '))) }}
    || ' ' || {{ rules_fingerprint() }} || ' ' || {{ fields_fingerprint() }}
{%- endmacro %}

{#- Whether this run reads the children of its deals, too: a reconcile does not. -#}
{% macro reads_children() -%}
    exists (select 1 from public.sync_runs where run_id = {{ sync_run_id() }} and kind = 'sync')
{%- endmacro %}

{#- Tests and runs of other models are not a part of a sync. -#}
{% macro merges_opportunities() -%}
    {{ return(
        flags.WHICH in ('run', 'build')
        and is_pipelines_target()
        and 'model.oracle_crm.opportunities' in selected_resources
    ) }}
{%- endmacro %}

{% macro log_transform_start() -%}
    {%- if merges_opportunities() %}
    {{ wait_for_locks_at_most() }}
    insert into public.sync_runs (run_id, transform_started_at)
    values ({{ sync_run_id() }}, clock_timestamp())
    on conflict (run_id) do update set transform_started_at = excluded.transform_started_at
    where sync_runs.transform_succeeded is not true
    {%- endif %}
{%- endmacro %}

{#-
    The records in the batches that this model has not merged yet, each once: `fetched` (stream,
    record_key, loaded_in). Some loaders do not write `read_keys`; they write every record that
    they read, changed or not, so their records are counted from the raw tables.

    further: include the other streams, too.
-#}
{% macro fetched_records(further) -%}
    noted as (

        select
            stream,
            record_key,
            loaded_in
        from {{ source('oracle_crm', 'read_keys') }}

        union all

        select
            'opportunities' as stream,
            remote_id as record_key,
            loaded_in
        from {{ ref('stg_opportunities') }}
        where not is_deleted
        {%- if further %}

        union all

        select
            stream,
            remote_key::text as record_key,
            loaded_in
        from {{ ref('stg_further_streams') }}
        {%- endif %}

    ),

    fetched as (

        select
            stream,
            record_key,
            max(loaded_in) as loaded_in
        from noted
        where {{ not_yet_counted('loaded_in') }}
        group by stream, record_key

    )
{%- endmacro %}

{#- The key of the deal that a record of `fetched` is; null: it is none. -#}
{% macro deal_of(fetched) -%}
    case when {{ fetched }}.stream = 'opportunities' then {{ fetched }}.record_key::bigint end
{%- endmacro %}

{#- For the merge of the opportunities: save its counts, in the same statement. -#}
{% macro log_merge() -%}
    ,

    {{ fetched_records(further=false) }},

    failing as (

        -- What is merged was judged already.
        select broken.remote_id
        from fetched
        inner join {{ ref('stg_opportunities') }} as broken on {{ deal_of('fetched') }} = broken.opty_id
        where
            broken.reject_reason is not null
            and not exists (select 1 from source where source.remote_id = fetched.record_key)

        union

        select rejected.remote_id
        from {{ ref('stg_rejected_records') }} as rejected
        inner join fetched
            on fetched.stream = 'opportunities' and fetched.record_key = rejected.remote_id
        where rejected.stream = 'opportunities' and rejected.loaded_in > fetched.loaded_in

    ),

    good as (

        select fetched.record_key as remote_id from fetched
        where
            fetched.stream = 'opportunities'
            and not exists (select 1 from failing where failing.remote_id = fetched.record_key)

    ),

    -- If the rules changed, deals are merged that were not fetched: they do not count. A deal
    -- whose newest version failed counts as failed, even if an older version is merged.
    counts as materialized (

        select
            (
                select count(*) from inserted
                where inserted.remote_id in (select good.remote_id from good)
            ) as new_records,
            (
                select count(*) from updated
                where updated.remote_id in (select good.remote_id from good)
            ) as updated_records,
            (select count(*) from good) as good_records

    )

    insert into public.sync_runs (run_id, new_records, updated_records, unchanged_records)
    select
        {{ sync_run_id() }},
        counts.new_records,
        counts.updated_records,
        counts.good_records - counts.new_records - counts.updated_records
    from counts
    on conflict (run_id) do update
    set
        new_records = coalesce(sync_runs.new_records, 0) + excluded.new_records,
        updated_records = coalesce(sync_runs.updated_records, 0) + excluded.updated_records,
        unchanged_records = coalesce(sync_runs.unchanged_records, 0) + excluded.unchanged_records
    returning new_records, updated_records, unchanged_records
{%- endmacro %}

{#- For the merge of the rejects: save the number of deals that could not be loaded. -#}
{% macro log_rejects() -%}
    insert into public.sync_runs (run_id, failed_records)
    select {{ sync_run_id() }}, count(*) filter (where source._is_failed)
    from source
    on conflict (run_id) do update
    set failed_records = coalesce(sync_runs.failed_records, 0) + excluded.failed_records
    returning failed_records
{%- endmacro %}

{% macro log_transform_end(results) -%}
    {%- if merges_opportunities() %}
        {%- set failed = results | selectattr('status', 'in', ['error', 'fail', 'runtime error']) | list %}
        {%- set reason = 'null' %}
        {%- if failed %}
            {#- The first line names the kind of error and the file, the second gives the cause. -#}
            {%- set lines = (failed[0].message ~ '\n').splitlines() %}
            {%- set cause = (lines[1] if lines | length > 1 and lines[1] | trim else lines[0]) | trim %}
            {%- set reason = dbt.string_literal(dbt.escape_single_quotes('dbt: ' ~ failed[0].node.name ~ ': ' ~ cause)) %}
        {%- endif %}
        {%- if not failed and 'model.oracle_crm.deleted_opportunities' in selected_resources -%}
            {%- do print_reconciliation() -%}
        {%- endif %}
    {{ wait_for_locks_at_most() }}
    update public.sync_runs
    set
        transform_completed_at = clock_timestamp(),
        transform_succeeded = {{ not failed }},
        error_message = coalesce({{ reason }}, error_message)
    where run_id = {{ sync_run_id() }} and transform_succeeded is not true
    {%- endif %}
{%- endmacro %}
