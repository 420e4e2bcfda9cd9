{#-
    What a model merges: the batches after the last one that it has merged, up to the newest.

    Batches commit in the order of their numbers (raw.begin_batch), so what a merge has seen once
    never has to be looked at again, and no clock is asked. Each merging model has a mark of its
    own: it makes no difference whether one process of dbt runs them all or each has its own.
    A full refresh, and rules that have changed, make a model look at everything again.
-#}

{#- Open the window of a model; a part of the transaction that merges, see `merge_into`. -#}
{% macro open_merge_window(model, rules) -%}
    {#- One merge of a model at a time, to the end of its transaction: each sees what is there then. -#}
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

{#-
    Keys that every model has counted are of no more use, unless the load they belong to goes on:
    a complete read compares with them at its end.
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
