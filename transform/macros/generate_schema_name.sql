{#-
    Use a model's schema as declared, without the target's schema as a prefix. A developer's target
    puts all its models into its own schema; only the application's tables stay where they are.
-#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- set own = is_pipelines_target() or node.config.materialized == 'merge_into' -%}
    {{ custom_schema_name | trim if custom_schema_name and own else target.schema }}
{%- endmacro %}
