{#- What both materializations need. -#}

{#- Wait for a lock of another session for so long; a part of the transaction that waits. -#}
{% macro wait_for_locks_at_most() -%}
    set local lock_timeout = '{{ env_var("SYNC_LOCK_TIMEOUT") }}s';
{%- endmacro %}

{#-
    Whether this is the pipeline's own target. A developer's has a schema of its own: it builds views
    there, which read the tables of the application, and merges nothing.
-#}
{% macro is_pipelines_target() -%}
    {{ return(target.schema == 'staging') }}
{%- endmacro %}

{#-
    Apply the configs `grants` and `persist_docs`. What others have granted by hand stays, unlike
    with dbt's own materializations.
-#}
{% macro grant_and_document(relation) -%}
    {%- if config.get('grants') -%}
        {%- set granted = adapter.standardize_grants_dict(run_query(get_show_grant_sql(relation))) -%}
        {%- set statements = get_dcl_statement_list(
            relation, diff_of_two_dicts(config.get('grants'), granted), get_grant_sql
        ) -%}
        {%- if statements -%} {%- do call_dcl_statements(statements) -%} {%- endif -%}
    {%- endif -%}
    {#- Not by a model that merges into another one's table. -#}
    {%- if relation.identifier == model.name -%} {%- do persist_docs(relation, model) -%} {%- endif -%}
{%- endmacro %}
