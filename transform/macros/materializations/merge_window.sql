{#-
    The window of a model: the batches after the last one that it has merged, up to the newest.

    Batches commit in the order of their numbers (raw.begin_batch). So a merge reads each batch
    only once, and needs no clock. Each merging model has its own mark, so all models may run in
    one dbt process or each in its own. After a full refresh or a change of the rules, a model
    merges all batches again.
-#}

{#- Open the window of a model, in the transaction of the merge, see `merge_into`. -#}
{% macro open_merge_window(model, rules) -%}
    {#- Until the transaction ends, no other merge of this model starts: the next sees its result. -#}
    select pg_advisory_xact_lock(hashtextextended('oracle_crm_sync.merge.{{ model }}', 0));
    {%- if env_var('ORACLE_CRM_RUN_NUMBER', '') %}
    select public.check_run({{ env_var('ORACLE_CRM_RUN_NUMBER') }});
    {%- endif %}
    select set_config('app.run_id', {{ sync_run_id() }}::text, true);
    insert into public.merge_marks (model, merging_until, rules)
    select '{{ model }}', load_fence.batch, {{ rules }}
    from public.load_fence
    on conflict (model) do update
    set
        merging_until = excluded.merging_until,
        merging_from = case
            when {{ flags.FULL_REFRESH }} or merge_marks.rules is distinct from excluded.rules then 0
            else merge_marks.merged_until
        end,
        rules = excluded.rules
{%- endmacro %}

{#- The id of the run that merges, as `open_merge_window` sets it. -#}
{% macro merging_run() -%}
    nullif(current_setting('app.run_id', true), '')::uuid
{%- endmacro %}

{#-
    Close the window, and delete the keys that every model has counted. Keys of a running load
    stay: a complete read compares with them at its end.
-#}
{% macro close_merge_window(model) -%}
    update public.merge_marks set merged_until = merging_until where model = '{{ model }}';
    delete from {{ source('oracle_crm', 'read_keys') }}
    where
        loaded_in <= (
            select min(marks.merged_until) from public.merge_marks as marks
            where marks.model in ('opportunities', 'rejected_records')
            having count(*) = 2
        )
        and (
            loaded_in <= (select load_fence.began_after from public.load_fence)
            or not exists (
                select 1 from public.sync_runs as loading
                inner join public.load_fence on loading.run_number = load_fence.run_number
                where loading.load_succeeded is null and public.sync_run_is_alive(loading)
            )
        )
{%- endmacro %}

{#- Whether a batch is in the window of this model. -#}
{% macro in_merge_window(batch) -%}
    {{ batch }} > (
        select marks.merging_from from {{ source('application', 'merge_marks') }} as marks
        where marks.model = '{{ model.name }}'
    )
    and {{ not_above_merge_window(batch) }}
{%- endmacro %}

{#- Whether a batch is in the window for the first time. -#}
{% macro not_yet_counted(batch) -%}
    {{ batch }} > (
        select marks.merged_until from {{ source('application', 'merge_marks') }} as marks
        where marks.model = '{{ model.name }}'
    )
    and {{ not_above_merge_window(batch) }}
{%- endmacro %}

{% macro not_above_merge_window(batch) -%}
    {{ batch }} <= (
        select marks.merging_until from {{ source('application', 'merge_marks') }} as marks
        where marks.model = '{{ model.name }}'
    )
{%- endmacro %}
