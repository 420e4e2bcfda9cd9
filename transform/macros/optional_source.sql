{#- A raw table that may not be there yet, as a subquery with the columns it would have. -#}
{% macro optional_source(relation, columns) -%}
    {%- set there = execute and adapter.get_relation(relation.database, relation.schema, relation.identifier) -%}
    {%- if there -%} {{ relation }}
    {%- else -%}
    (
        select
            {%- for name, type in columns.items() %}
            null::{{ type }} as {{ adapter.quote(name) }}{{ ',' if not loop.last }}
            {%- endfor %}
        where false
    ) as absent
    {%- endif -%}
{%- endmacro %}
