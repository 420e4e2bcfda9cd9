{#-
    A customer's own attribute, out of the object that the raw table keeps them in, as `type`.

    Spelling is matched without regard to case, since custom fields are called GEO_c here and
    Geo_c there; the exact name comes first (public.custom_attribute). A value that is no `type`
    is null here, and `attribute_error` says so: it must not stop the other deals.
-#}
{% macro attribute(name, type) -%}
    {%- set value = custom_value(name) -%}
    {%- if type == 'text' -%} {{ value }}
    {%- else -%} case when public.is_valid({{ value }}, '{{ type }}') then ({{ value }})::{{ type }} end
    {%- endif -%}
{%- endmacro %}

{#- Why a value can't be had as `type`; null where it can. -#}
{% macro attribute_error(name, type) -%}
    {%- set value = custom_value(name) -%}
    case when not public.is_valid({{ value }}, '{{ type }}')
        then {{ dbt.string_literal(name ~ ': ') }} || left({{ value }}, 60) || ' is no {{ type }}'
    end
{%- endmacro %}

{% macro custom_value(name) -%}
    public.custom_attribute(custom, {{ dbt.string_literal(dbt.escape_single_quotes(name)) }})
{%- endmacro %}
