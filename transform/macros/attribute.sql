{#-
    An attribute of the CRM as the raw table holds it, cast to `type`.

    The raw table has a column for each attribute that was selected and that this customer's
    instance has; an absent one gives null. Spelling is matched without regard to case, since
    custom fields are called GEO_c here and Geo_c there; of two the newer column counts.
-#}
{% macro attribute(relation, name, type) -%}
    {%- set found = namespace(column=none) -%}
    {%- if execute -%}
        {%- if relation.is_cte -%}
            {#- A unit test's stand-in, which has the columns of the raw table itself. -#}
            {%- set relation = api.Relation.create(schema='raw', identifier=relation.identifier.split('__') | last) -%}
        {%- endif -%}
        {%- for column in adapter.get_columns_in_relation(relation) -%}
            {%- if column.name | lower == name | lower -%}
                {%- set found.column = column.name -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endif -%}
    {%- if not found.column -%} null::{{ type }}
    {%- elif type == 'timestamptz' -%} {{ adapter.quote(found.column) }}::timestamp at time zone 'UTC'
    {%- else -%} {{ adapter.quote(found.column) }}::{{ type }}
    {%- endif -%}
{%- endmacro %}
