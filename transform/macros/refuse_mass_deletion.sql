{#-
    Stop a reconcile that would mark too many deals as deleted: perhaps the CRM account just lost
    access to them. SYNC_MAX_DELETED_SHARE is the largest share that is allowed.
-#}
{% macro refuse_mass_deletion(opportunities, absent) -%}
    {%- if execute and flags.WHICH in ('run', 'build') -%}
        {%- set limit = env_var('SYNC_MAX_DELETED_SHARE') | float -%}
        {%- set counted = run_query(
            'select
                (select count(*) from ' ~ opportunities ~ ' where deleted_at is null) as known,
                (select count(*) from ' ~ absent ~ ') as gone
            where ' ~ proves_absence()
        ).rows -%}
        {%- set known, gone = (counted[0][0] | int, counted[0][1] | int) if counted else (0, 0) -%}
        {%- if gone > limit * known -%}
            {{ exceptions.raise_compiler_error(
                'Refused to mark ' ~ gone ~ ' of ' ~ known ~ ' opportunities as deleted: more than the share of '
                ~ limit ~ ' that SYNC_MAX_DELETED_SHARE allows. Check that the CRM account still sees all deals. '
                ~ 'If they are really gone, raise the share for one run.'
            ) }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}
