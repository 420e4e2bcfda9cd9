{#-
    The outcome of a deal in the CRM: OPEN, WON, LOST or CLOSED; null if it is unknown.

    Customers define their own status codes. The meaning of a code comes from crm.yml, else from
    the category in the CRM's list, else from the predefined codes. The spelling must be the same:
    two codes may differ only in a hyphen. If a deal has no code, its stage decides if crm.yml
    declares it. Words in stage names decide nothing: "Won't bid" is not won.
-#}

{#- The code of a deal: its own, else that of its stage; null if both are blank. -#}
{% macro code_of_deal(status_code, stage_status_code) -%}
    case
        when {{ status_code }} ~ '\S' then {{ status_code }}
        when {{ stage_status_code }} ~ '\S' then {{ stage_status_code }}
    end
{%- endmacro %}

{#-
    The outcome of a predefined code, in any spelling; null for the customer's own codes.
    The CRM's status categories have the same names as the predefined codes.
-#}
{% macro predefined_outcome(code) -%}
    case
        when {{ code }} ~* '^\s*open\s*$' then 'OPEN'
        when {{ code }} ~* '^\s*won\s*$' then 'WON'
        when {{ code }} ~* '^\s*lost\s*$' then 'LOST'
        when {{ code }} ~* '^\s*(no[[:space:][:punct:]]*sale|closed)\s*$' then 'CLOSED'
    end
{%- endmacro %}

{#-
    A hash of all rules for outcomes. If it changes, every deal is merged again. Increase the
    number when you change the rules of this file.
-#}
{% macro rules_fingerprint() -%}
    (
        select md5(concat_ws(
            ' ',
            '1',
            (
                select json_agg(json_build_array(code, outcome) order by code)::text
                from public.status_outcomes
                where source in ('declared', 'crm')
            ),
            (
                select json_agg(json_build_array(name, outcome) order by name)::text
                from public.declared_outcomes
                where section = 'stages'
            )
        ))
    )
{%- endmacro %}

{#- Warn in the run's log about unknown codes and stages, and say what to do. -#}
{% macro warn_about_unknown_statuses() -%}
    {%- if execute and flags.WHICH in ('run', 'build') -%}
        {%- for unknown in run_query(
            'select section, to_json(name)::text as name, deals from public.unknown_statuses
            order by section desc, deals desc, name limit 20'
        ).rows -%}
            {%- do log(
                'WARNING: nothing tells what the '
                ~ ('status code ' if unknown['section'] == 'statuses' else 'stage ') ~ unknown['name']
                ~ ' means (deals: ' ~ unknown['deals'] ~ '). They stay as they are, and new ones count as open. '
                ~ 'Write into crm.yml under ' ~ unknown['section'] ~ ': ' ~ unknown['name']
                ~ ': OPEN (or WON, LOST, CLOSED)',
                info=True
            ) -%}
        {%- endfor -%}
    {%- endif -%}
{%- endmacro %}
