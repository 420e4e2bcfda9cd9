{#-
    A customer's own attribute from the raw table's column `custom`, as `type`.

    Case is ignored, since one customer has GEO_c and another Geo_c; the exact name has priority
    (public.custom_attribute). If a value is not of `type`, the result is null, so that the other
    deals are still merged; `attribute_error` gives the reason.
-#}
{% macro attribute(name, type) -%}
    {%- set value = custom_value(name) -%}
    {%- if type == 'text' -%} {{ value }}
    {%- else -%} case when public.is_valid({{ value }}, '{{ type }}') then ({{ value }})::{{ type }} end
    {%- endif -%}
{%- endmacro %}

{#- The reason why a value is not of `type`; null if it is. -#}
{% macro attribute_error(name, type) -%}
    {%- set value = custom_value(name) -%}
    case when not public.is_valid({{ value }}, '{{ type }}')
        then {{ dbt.string_literal(name ~ ': ') }} || left({{ value }}, 60) || ' is no {{ type }}'
    end
{%- endmacro %}

{% macro custom_value(name) -%}
    public.custom_attribute(custom, {{ dbt.string_literal(dbt.escape_single_quotes(name)) }})
{%- endmacro %}
