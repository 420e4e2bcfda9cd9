{#-
    The customer's own fields, from the view `fields`, as JSON objects and as reasons to reject.

    The statements are made anew in each run, since the fields are data.
-#}

{#- The fields without a column: name, attribute and type of each. -#}
{% macro own_fields() -%}
    {%- if execute -%}
        {{ return(run_query('select name, attribute, type from public.fields where "column" is null order by position').rows) }}
    {%- endif -%}
    {{ return([]) }}
{%- endmacro %}

{#- All own fields of a deal as a JSON object. A function takes at most 100 arguments. -#}
{% macro own_values(column) -%}
    {%- for part in own_fields() | batch(40) -%}
        {{ ' || ' if not loop.first }}jsonb_build_object(
        {%- for field in part %}
            {{ dbt.string_literal(field['name']) }}, {{ own_value(column, field) }}{{ ',' if not loop.last }}
        {%- endfor %}
        )
    {%- else -%} jsonb '{}'
    {%- endfor -%}
{%- endmacro %}

{#- The reason why a deal's own fields can't be loaded; null if they can. -#}
{% macro own_error(column) -%}
    {%- set typed = own_fields() | rejectattr('type', 'in', ['text', 'list']) | list -%}
    {%- if not typed -%} null::text
    {%- else -%}
        coalesce(
        {%- for field in typed %}
            case when {{ own_value(column, field) }} is null then
                {{ dbt.string_literal(field['attribute'] ~ ': ') }}
                || left(public.attribute_value({{ column }}, {{ dbt.string_literal(field['attribute']) }}) #>> '{}', 60)
                || {{ dbt.string_literal(' is no ' ~ field['type'] ~ '; crm.yml can declare it as text') }}
            end{{ ',' if not loop.last }}
        {%- endfor %}
        )
    {%- endif -%}
{%- endmacro %}

{% macro own_value(column, field) -%}
    public.field_value(public.attribute_value({{ column }}, {{ dbt.string_literal(field['attribute']) }}), '{{ field['type'] }}')
{%- endmacro %}

{#- A hash of what decides about `custom`: if it changes, every deal is merged again. -#}
{% macro fields_fingerprint() -%}
    (
        select md5(coalesce(
            json_agg(json_build_array(name, attribute, type) order by position)::text, ''
        ))
        from public.fields
        where "column" is null
    )
{%- endmacro %}
