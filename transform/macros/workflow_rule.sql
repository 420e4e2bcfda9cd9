{#-
    The workflow rule of the bid team, in one place.

    1. A new deal gets 'NEW'.
    2. While the CRM shows a deal open, a sync does not change the bid team's status.
    3. When the CRM shows it closed, it becomes 'WON', 'LOST' or 'CLOSED', also on a deal
       that is first seen closed.
    4. When the CRM reopens it, it gets back its previous status.
    5. While its outcome is unknown (`outcome` is null), nothing changes.

    `before_close` stores the previous status of a closed deal. It is set if, and only if, the
    present status came from the CRM. The arguments are SQL expressions. On update they name
    the target row's own columns, so that the rule reads the row at the moment of the merge,
    and an edit that users make meanwhile is never lost.
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
