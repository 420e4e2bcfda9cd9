{#-
    Say how many deals a pass found that never came: the account may see them only since lately,
    and syncs ask for what changed. Some are normal, since new deals wait for the next sync.
-#}
{% macro tell_of_missing_deals(opportunities, rejects, keys) -%}
    {%- if execute and flags.WHICH in ('run', 'build') -%}
        {%- set missing = run_query(
            'select count(*) from ' ~ keys ~ ' as keys
            where
                not exists (
                    select from ' ~ opportunities ~ ' as known where known.remote_id = keys.remote_id
                )
                and not exists (
                    select from ' ~ rejects ~ " as rejected
                    where
                        rejected.stream = 'opportunities' and rejected.resolved_at is null
                        and rejected.remote_id = keys.remote_id
                )"
        ).columns[0].values()[0] | int -%}
        {%- if missing -%}
            {%- do log(
                missing ~ ' of the deals that the CRM shows are not here yet. New ones come with the next sync. If it '
                ~ 'does not bring them, the account sees them only since lately, or start_date leaves them out: for '
                ~ 'the former, run .venv/bin/meltano run --full-refresh tap-oracle-crm target-postgres '
                ~ 'dbt-postgres:run',
                info=True
            ) -%}
        {%- endif -%}
    {%- endif -%}
{%- endmacro %}
