{#- Resolve the rejects of deals that a complete pass over the keys did not find: they are gone. -#}
{% macro resolve_deleted_rejects(rejects, keys, opportunities) -%}
    update {{ rejects }} as rejected
    set resolved_at = now()
    from (select min(pass_began_at) - interval '2 seconds' as began_at from {{ keys }}) as pass
    where
        rejected.resolved_at is null
        and rejected.remote_id ~ '^[0-9]+$'
        and (
            (
                rejected.stream = 'opportunities'
                and rejected.last_seen_at < pass.began_at
                and not exists (select 1 from {{ keys }} as keys where keys.remote_id = rejected.remote_id)
            )
            -- A child's reject that names its deal: the deal's could not be read, and never will be.
            or (
                rejected.stream in ('revenue_lines', 'opportunity_team')
                and exists (
                    select 1 from {{ opportunities }} as deal
                    where deal.remote_id = rejected.remote_id and deal.deleted_at is not null
                )
            )
        )
{%- endmacro %}
