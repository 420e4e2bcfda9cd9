{#-
    Materialization `view`, instead of dbt's: it does not touch unchanged views.

    dbt's own renames, recreates and drops every view in every run. That needs an exclusive lock.
    So a sync would wait for each reader of a view (a long report, a backup), and all other
    readers would wait for the sync. It also drops the views that others built on ours.
-#}
{% materialization view, adapter='postgres' -%}
    {%- set target_relation = this.incorporate(type='view') -%}
    {%- set candidate = make_intermediate_relation(target_relation) -%}

    {{ run_hooks(pre_hooks, inside_transaction=False) }}
    {{ run_hooks(pre_hooks, inside_transaction=True) }}

    {% call statement('main') -%}
        {{ get_create_view_as_sql(candidate, sql) }}
    {%- endcall %}

    {%- set unchanged = run_query(
        "select pg_get_viewdef('" ~ candidate ~ "'::regclass)
            is not distinct from pg_get_viewdef(to_regclass('" ~ target_relation ~ "'))"
    ).columns[0].values()[0] -%}

    {% call statement('replace') -%}
        {%- if unchanged %}
        drop view {{ candidate }};
        {%- else %}
        drop view if exists {{ target_relation }} cascade;
        alter view {{ candidate }} rename to {{ adapter.quote(target_relation.identifier) }};
        {%- endif %}
    {%- endcall %}

    {{ run_hooks(post_hooks, inside_transaction=True) }}
    {{ adapter.commit() }}
    {{ run_hooks(post_hooks, inside_transaction=False) }}

    {{ return({'relations': [target_relation]}) }}
{%- endmaterialization %}
