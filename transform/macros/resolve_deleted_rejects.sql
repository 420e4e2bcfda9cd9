{#- Resolve the rejects of deals that a complete pass over the keys did not find: they are gone. -#}
{% macro resolve_deleted_rejects(rejects, keys) -%}
    update {{ rejects }} as rejected
    set resolved_at = now()
    from (select min(pass_began_at) - interval '2 seconds' as began_at from {{ keys }}) as pass
    where
        rejected.stream = 'opportunities'
        and rejected.resolved_at is null
        and rejected.remote_id ~ '^[0-9]+$'
        and rejected.last_seen_at < pass.began_at
        and not exists (select 1 from {{ keys }} as keys where keys.remote_id = rejected.remote_id)
{%- endmacro %}
