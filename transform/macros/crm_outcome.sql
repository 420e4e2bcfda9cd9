{#-
    What the CRM says of a deal: OPEN, WON, LOST or CLOSED, or null where nobody knows.

    Status codes are the customer's: what one means is declared in crm.yml, else listed by the
    CRM with its category, else it is one of the predefined ones. Codes are compared as they are
    spelled: two customers' codes may differ in a hyphen only. Without a code, a stage that is
    declared decides. Words in the names of stages decide nothing: "Won't bid" is not won.
-#}

{#- The code of a deal: the deal's own, else that of its stage; null where both are blank. -#}
{% macro code_of_deal(status_code, stage_status_code) -%}
    case
        when {{ status_code }} ~ '\S' then {{ status_code }}
        when {{ stage_status_code }} ~ '\S' then {{ stage_status_code }}
    end
{%- endmacro %}

{#-
    What a predefined code comes to, in any spelling of it; null for the customer's own codes.
    The CRM's status categories are called like the predefined codes.
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
    The rules that deals are judged by, as one text: when it changes, every deal has to be judged
    anew. Raise the number when the rules of this file change.
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

{#- Say in the run's log which codes and stages nothing explains, and what to do. -#}
{% macro tell_of_unknown_statuses() -%}
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
