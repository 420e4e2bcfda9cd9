{#-
    Stop a reconcile that would mark a large share of the deals as deleted: an account whose
    access was narrowed looks just like that. SYNC_MAX_DELETED_SHARE is the share that is let
    through.
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
                ~ limit ~ ' that SYNC_MAX_DELETED_SHARE allows. Check that the CRM account still sees all deals; '
                ~ 'if they are gone indeed, raise it for one run.'
            ) }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}
