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

{#- The values of fields in a raw row as a JSON object. -#}
{% macro _values(relation, row, fields) -%}
    {%- if fields -%}
        public.own_values({{ attributes_of(relation, row, fields) }}, {{ names_of(fields, 'name') }}, {{ names_of(fields, 'attribute') }}, {{ names_of(fields, 'type') }})
    {%- else -%} jsonb '{}'
    {%- endif -%}
{%- endmacro %}

{#- The reason why fields of a raw row can't be loaded; null if they can. -#}
{% macro _error(relation, row, fields) -%}
    {%- set fields = fields | rejectattr('type', 'in', ['text', 'list']) | list -%}
    {%- if fields -%}
        public.own_error({{ attributes_of(relation, row, fields) }}, {{ names_of(fields, 'attribute') }}, {{ names_of(fields, 'type') }})
    {%- else -%} null::text
    {%- endif -%}
{%- endmacro %}

{#- The attributes of a raw row as JSON: those in `custom`, and the columns that fields are of. -#}
{% macro attributes_of(relation, row, fields) -%}
    {%- set wanted = fields | map(attribute='attribute') | map('lower') | list -%}
    {%- set columns = [] -%}
    {%- for column in adapter.get_columns_in_relation(relation) if column.name | lower in wanted -%}
        {%- do columns.append("'" ~ column.name ~ "', " ~ row ~ '.' ~ column.quoted) -%}
    {%- endfor -%}
    {%- if columns -%} coalesce({{ row }}.custom, '{}') || jsonb_build_object({{ columns | join(', ') }})
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
