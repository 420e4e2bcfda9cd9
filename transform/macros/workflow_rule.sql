{#-
    The workflow rule of the bid team, in one place.

    1. A new deal gets 'NEW'.
    2. While the CRM shows a deal open, a sync leaves the bid team's status alone.
    3. When the CRM shows it closed, it becomes 'WON', 'LOST' or 'CLOSED', also on a deal
       that is first seen closed.
    4. When the CRM reopens it, it gets back the status that it had before.

    `before_close` is where the status waits while a deal is closed: it is set if, and only
    if, the present status came from the CRM. The arguments are SQL expressions; on update
    they name the target row's own columns, so that the rule sees the row as it is at the
    moment of the merge, and an edit made meanwhile is never lost.
-#}

{#- What the CRM says of a deal: WON, LOST or CLOSED, or null while it is open. -#}
{% macro crm_outcome(status_code, stage) -%}
    case
        when btrim({{ status_code }}) <> ''
            then case upper(btrim({{ status_code }}))
                when 'WON' then 'WON'
                when 'LOST' then 'LOST'
                when 'NO_SALE' then 'CLOSED'
                when 'CLOSED' then 'CLOSED'
            end
        when {{ stage }} ~* '\m(lost|not[ _-]?won)\M' then 'LOST'
        when {{ stage }} ~* '\mwon\M' then 'WON'
        when {{ stage }} ~* '\m(closed|no[ _-]?sale)\M' then 'CLOSED'
    end
{%- endmacro %}

{% macro workflow_status(outcome, current, before_close) -%}
    coalesce({{ outcome }}, {{ before_close }}, {{ current }}, 'NEW')
{%- endmacro %}

{% macro workflow_status_before_close(outcome, current, before_close) -%}
    case when {{ outcome }} is not null then coalesce({{ before_close }}, {{ current }}, 'NEW') end
{%- endmacro %}
