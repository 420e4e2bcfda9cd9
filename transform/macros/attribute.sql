{#-
    A customer's own attribute from the raw table's column `custom`, as text.

    Case is ignored, since one customer has GEO_c and another Geo_c; the exact name has priority
    (public.custom_attribute). Without a name, it is null.
-#}
{% macro attribute(name) -%}
    {%- if name -%} public.custom_attribute(custom, {{ dbt.string_literal(dbt.escape_single_quotes(name)) }})
    {%- else -%} null::text
    {%- endif -%}
{%- endmacro %}
