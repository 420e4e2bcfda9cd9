{#-
    Stop a reconcile that would mark a large share of the deals as deleted: an account whose
    access was narrowed looks just like that. SYNC_MAX_DELETED_SHARE is the share that is let
    through.
-#}
{% macro refuse_mass_deletion(opportunities, loaded) -%}
    {%- if execute and flags.WHICH in ('run', 'build') -%}
        {%- set limit = env_var('SYNC_MAX_DELETED_SHARE', '0.2') | float -%}
        {%- set counted = run_query(
            'select
                count(*) as known,
                count(*) filter (
                    where loaded."OptyId" is null or loaded._sdc_deleted_at is not null
                ) as gone
            from ' ~ opportunities ~ ' as known
            left join ' ~ loaded ~ ' as loaded on known.remote_id = loaded."OptyId"::text
            where known.deleted_at is null and ' ~ proves_absence()
        ).rows[0] -%}
        {%- set known, gone = counted[0] | int, counted[1] | int -%}
        {%- if gone > limit * known -%}
            {{ exceptions.raise_compiler_error(
                'Refused to mark ' ~ gone ~ ' of ' ~ known ~ ' opportunities as deleted: more than the share of '
                ~ limit ~ ' that SYNC_MAX_DELETED_SHARE allows. Check that the CRM account still sees all deals; '
                ~ 'if they are gone indeed, raise it for one run.'
            ) }}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}
