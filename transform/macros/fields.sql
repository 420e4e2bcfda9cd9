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

{#- All own fields of a deal as a JSON object. -#}
{% macro own_values(column) -%}
    {%- set fields = own_fields() -%}
    {%- if fields -%}
        public.own_values({{ column }}, {{ names_of(fields, 'name') }}, {{ names_of(fields, 'attribute') }}, {{ names_of(fields, 'type') }})
    {%- else -%} jsonb '{}'
    {%- endif -%}
{%- endmacro %}

{#- The reason why a deal's own fields can't be loaded; null if they can. -#}
{% macro own_error(column) -%}
    {%- set fields = own_fields() | rejectattr('type', 'in', ['text', 'list']) | list -%}
    {%- if fields -%}
        public.own_error({{ column }}, {{ names_of(fields, 'attribute') }}, {{ names_of(fields, 'type') }})
    {%- else -%} null::text
    {%- endif -%}
{%- endmacro %}

{#- One thing of each field, as an array. -#}
{% macro names_of(fields, key) -%}
    {{ dbt.string_literal('{' ~ fields | map(attribute=key) | join(',') ~ '}') }}::text[]
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

{#- Say in the run's log what has changed in crm.yml and the CRM since the last sync, and what to do. -#}
{% macro tell_field_news() -%}
    {%- if execute and flags.WHICH in ('run', 'build') -%}
        {%- for news in run_query(
            'select detail, advice from public.field_news
            where since > coalesce(
                (
                    select max(transform_completed_at) from public.sync_runs
                    where transform_succeeded and kind = \'sync\'
                ),
                \'-infinity\'
            )
            order by kind, attribute limit 50'
        ).rows -%}
            {%- do log('NEWS: ' ~ news['detail'] ~ ('. In crm.yml, ' ~ news['advice'] if news['advice'] else ''), info=True) -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro %}
