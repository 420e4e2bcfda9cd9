{#-
    The workflow rule of the bid team, in one place.

    1. A new deal gets 'NEW'.
    2. While the CRM shows a deal open, a sync leaves the bid team's status alone.
    3. When the CRM shows it closed, it becomes 'WON', 'LOST' or 'CLOSED', also on a deal
       that is first seen closed.
    4. When the CRM reopens it, it gets back the status that it had before.
    5. While nobody knows what the CRM says of it (`outcome` is null), all stays as it is.

    `before_close` is where the status waits while a deal is closed: it is set if, and only
    if, the present status came from the CRM. The arguments are SQL expressions; on update
    they name the target row's own columns, so that the rule sees the row as it is at the
    moment of the merge, and an edit made meanwhile is never lost.
-#}

{% macro workflow_status(outcome, current, before_close) -%}
    case
        when {{ outcome }} in ('WON', 'LOST', 'CLOSED') then {{ outcome }}
        when {{ outcome }} = 'OPEN' then coalesce({{ before_close }}, {{ current }}, 'NEW')
        else coalesce({{ current }}, 'NEW')
    end
{%- endmacro %}

{% macro workflow_status_before_close(outcome, current, before_close) -%}
    case
        when {{ outcome }} in ('WON', 'LOST', 'CLOSED') then coalesce({{ before_close }}, {{ current }}, 'NEW')
        when {{ outcome }} is null then {{ before_close }}
    end
{%- endmacro %}
