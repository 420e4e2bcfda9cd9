{#-
    What dbt tells `public.sync_runs`, from which the view `public.sync_logs` is made.

    Meltano gives the run its id. A `dbt run` outside Meltano belongs to the newest run of the
    pipeline if that was loaded and not yet merged, else to none that the log shows.
-#}
{% macro sync_run_id() -%}
    (
        select coalesce(
            (select run_id from public.sync_loads where run_id = {{ meltano_run_id() }} limit 1),
            (
                select newest.run_id
                from (select * from public.sync_loads order by id desc limit 1) as newest
                left join public.sync_runs using (run_id)
                where newest.state = 'SUCCESS' and sync_runs.transform_succeeded is not true
            ),
            {{ meltano_run_id() }}
        )
    )
{%- endmacro %}

{% macro meltano_run_id() -%}
    '{{ env_var("MELTANO_RUN_ID", invocation_id) }}'::uuid
{%- endmacro %}

{#- Tests, and runs of other models alone, are no part of a sync. -#}
{% macro merges_opportunities() -%}
    {{ return(flags.WHICH in ('run', 'build') and 'model.oracle_crm.opportunities' in selected_resources) }}
{%- endmacro %}

{% macro log_transform_start() -%}
    {%- if merges_opportunities() %}
    insert into public.sync_runs (run_id, transform_started_at)
    values ({{ sync_run_id() }}, clock_timestamp())
    on conflict (run_id) do update set transform_started_at = excluded.transform_started_at
    {%- endif %}
{%- endmacro %}

{#- For the merge of the opportunities: its counts, in the statement that merges. -#}
{% macro log_merge() -%}
    insert into public.sync_runs (run_id, new_records, updated_records, loaded_until)
    select
        {{ sync_run_id() }},
        counted.new_records,
        counted.updated_records,
        (select max(source._loaded_at) from source)
    from counted
    on conflict (run_id) do update
    set
        new_records = coalesce(sync_runs.new_records, 0) + excluded.new_records,
        updated_records = coalesce(sync_runs.updated_records, 0) + excluded.updated_records,
        loaded_until = coalesce(excluded.loaded_until, sync_runs.loaded_until)
    returning new_records, updated_records
{%- endmacro %}

{#- For the merge of the rejects: how many got as far as here. -#}
{% macro log_quarantine() -%}
    update public.sync_runs
    set quarantined_records = (select count(*) from source where source._quarantined)
    where sync_runs.run_id = {{ sync_run_id() }}
    returning quarantined_records
{%- endmacro %}

{% macro log_transform_end(results) -%}
    {%- if merges_opportunities() %}
        {%- set failed = results | selectattr('status', 'in', ['error', 'fail', 'runtime error']) | list %}
        {%- set reason = 'null' %}
        {%- if failed %}
            {#- The first line names the kind of error and the file, the second says what is wrong. -#}
            {%- set lines = (failed[0].message ~ '\n').splitlines() %}
            {%- set said = (lines[1] if lines | length > 1 and lines[1] | trim else lines[0]) | trim %}
            {%- set reason = dbt.string_literal(dbt.escape_single_quotes('dbt: ' ~ failed[0].node.name ~ ': ' ~ said)) %}
        {%- endif %}
    update public.sync_runs
    set
        transform_completed_at = clock_timestamp(),
        transform_succeeded = {{ not failed }},
        error_message = coalesce({{ reason }}, error_message)
    where run_id = {{ sync_run_id() }}
    {%- endif %}
{%- endmacro %}

{#- From when on raw rows were loaded that no merge has seen; a full refresh reads them all. -#}
{% macro loaded_since() -%}
    {%- set since = none -%}
    {%- if execute and flags.WHICH in ('run', 'build') and not flags.FULL_REFRESH -%}
        {#- What this run loaded is taken in any case, even if this machine's clock is behind. -#}
        {%- set since = run_query(
            "select case when max(sync_runs.loaded_until) is not null then least(
                max(sync_runs.loaded_until),
                (select started_at from public.sync_loads where run_id = " ~ sync_run_id() ~ " limit 1)
            ) end
            from public.sync_runs
            where sync_runs.transform_succeeded and sync_runs.run_id != " ~ sync_run_id()
        ).columns[0].values()[0] -%}
    {%- endif -%}
    '{{ since or '-infinity' }}'::timestamptz
{%- endmacro %}
