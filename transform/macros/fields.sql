{#-
    The customer's own fields, from the view `fields`, as JSON objects and as reasons to reject.

    The statements are made anew in each run, since the fields are data.
-#}

{#-
    The fields without a column, of deals or of their accounts: name, attribute and type of each.
    Attributes of accounts begin with `Account.` in crm.yml, and do not here.
-#}
{% macro own_fields(of_account=false) -%}
    {%- if execute -%}
        {{ return(run_query(
            "select name, regexp_replace(attribute, '^Account[.]', '') as attribute, type
            from public.fields
            where \"column\" is null and (attribute like 'Account.%') = " ~ of_account ~ "
            order by position"
        ).rows) }}
    {%- endif -%}
    {{ return([]) }}
{%- endmacro %}

{#- All own fields of a raw deal as a JSON object. -#}
{% macro own_values(deal) -%}
    {%- set of_account = own_fields(of_account=true) -%}
    {{ _values(source('oracle_crm', 'opportunities'), deal, own_fields()) }}
    {%- if of_account %}
    || coalesce(
        (
            select {{ _values(source('oracle_crm', 'accounts'), 'accounts', of_account) }}
            from {{ source('oracle_crm', 'accounts') }} as accounts
            where accounts."PartyId" = {{ deal }}."TargetPartyId"
        ),
        -- Until accounts have been read, deals have no value of theirs, not even null.
        case
            when exists (select 1 from {{ source('oracle_crm', 'accounts') }})
                then jsonb_object({{ names_of(of_account, 'name') }}, array_fill(null::text, array[{{ of_account | length }}]))
        end,
        '{}'
    )
    {%- endif -%}
{%- endmacro %}

{#- The reason why the own fields of a raw deal can't be loaded; null if they can. -#}
{% macro own_error(deal) -%}
    {%- set of_account = own_fields(of_account=true) -%}
    {%- if of_account -%}
    coalesce(
        {{ _error(source('oracle_crm', 'opportunities'), deal, own_fields()) }},
        (
            select 'Account.' || {{ _error(source('oracle_crm', 'accounts'), 'accounts', of_account) }}
            from {{ source('oracle_crm', 'accounts') }} as accounts
            where accounts."PartyId" = {{ deal }}."TargetPartyId"
        )
    )
    {%- else -%} {{ _error(source('oracle_crm', 'opportunities'), deal, own_fields()) }}
    {%- endif -%}
{%- endmacro %}

{#-
    The values of fields in a raw row as a JSON object.

    Most rows have all attributes by their exact names. For them, PostgreSQL compiles what each field
    needs, which takes a third of the time of the functions. These know the other cases.
-#}
{% macro _values(relation, row, fields) -%}
    {%- if fields -%}
        {%- set columns = _columns_of(relation, fields) -%}
        case
            when {{ _has_all(row, fields, columns) }} then (
                select jsonb_object_agg(field.name, field.value)
                from unnest(
                    {{ names_of(fields, 'name') }},
                    array[{% for field in fields %}{{ _value(row, field, columns) }}{{ ', ' if not loop.last }}{% endfor %}]
                ) as field (name, value)
            )
            else public.own_values({{ _attributes(row, columns) }}, {{ names_of(fields, 'name') }}, {{ names_of(fields, 'attribute') }}, {{ names_of(fields, 'type') }})
        end
    {%- else -%} jsonb '{}'
    {%- endif -%}
{%- endmacro %}

{#- The reason why fields of a raw row can't be loaded; null if they can. -#}
{% macro _error(relation, row, fields) -%}
    {%- set fields = fields | rejectattr('type', 'in', ['text', 'list']) | list -%}
    {%- if fields -%}
        {%- set columns = _columns_of(relation, fields) -%}
        case
            when
                {{ _has_all(row, fields, columns) }}
                {%- for field in fields %}
                and {{ _value(row, field, columns) }} is not null
                {%- endfor %}
                then null
            else public.own_error({{ _attributes(row, columns) }}, {{ names_of(fields, 'attribute') }}, {{ names_of(fields, 'type') }})
        end
    {%- else -%} null::text
    {%- endif -%}
{%- endmacro %}

{#- The columns that fields are of, by the field's attribute. All other fields are in `custom`. -#}
{% macro _columns_of(relation, fields) -%}
    {%- set columns = {} -%}
    {%- for column in adapter.get_columns_in_relation(relation) -%}
        {%- for field in fields if field.attribute | lower == column.name | lower -%}
            {%- do columns.update({field.attribute: column}) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(columns) }}
{%- endmacro %}

{#- Whether `custom` has the attributes of all fields that are in it, by their exact names. -#}
{% macro _has_all(row, fields, columns) -%}
    jsonb_exists_all({{ row }}.custom, {{ names_of(fields | rejectattr('attribute', 'in', columns) | list, 'attribute') }})
{%- endmacro %}

{#- The value of a field, whose attribute the row has. -#}
{% macro _value(row, field, columns) -%}
    {%- if field.attribute in columns -%}
        public.field_value(to_jsonb({{ row }}.{{ columns[field.attribute].quoted }}), '{{ field.type }}')
    {%- else -%}
        public.field_value({{ row }}.custom -> '{{ field.attribute }}', '{{ field.type }}')
    {%- endif -%}
{%- endmacro %}

{#- The attributes of a raw row as JSON: those in `custom`, and the columns that fields are of. -#}
{% macro _attributes(row, columns) -%}
    {%- if columns -%}
        coalesce({{ row }}.custom, '{}') || jsonb_build_object(
            {%- for column in columns.values() -%} '{{ column.name }}', {{ row }}.{{ column.quoted }}{{ ', ' if not loop.last }} {%- endfor -%}
        )
    {%- else -%} {{ row }}.custom
    {%- endif -%}
{%- endmacro %}

{#-
    Whether a deal is in the merge window of this model: it was loaded, or its account, if there are
    fields of accounts.
-#}
{% macro deal_in_merge_window(opty_id, loaded_in) -%}
    {%- if own_fields(of_account=true) -%}
    {{ opty_id }} in (
        select deals."OptyId" from {{ source('oracle_crm', 'opportunities') }} as deals
        where {{ in_merge_window('deals._loaded_in') }}
        union all
        select deals."OptyId" from {{ source('oracle_crm', 'opportunities') }} as deals
        inner join {{ source('oracle_crm', 'accounts') }} as accounts on deals."TargetPartyId" = accounts."PartyId"
        where {{ in_merge_window('accounts._loaded_in') }}
    )
    {%- else -%}
    {{ in_merge_window(loaded_in) }}
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
