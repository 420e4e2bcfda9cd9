create or replace function proves_absence(run uuid) returns boolean language sql stable as $$
    select exists (
        select from sync_runs as reader
        left join lateral (
            select earlier.scope
            from sync_runs as earlier
            where earlier.kind = 'sync' and earlier.state_id_suffix is null
                and earlier.coverage in ('complete', 'changes')
                and earlier.transform_succeeded and earlier.id < reader.id
            order by earlier.id desc
            limit 1
        ) as usual on true
        where reader.run_id = run
            and reader.kind in ('sync', 'reconcile') and reader.state_id_suffix is null
            and reader.coverage = 'complete'
            and reader.scope is not distinct from coalesce(usual.scope, reader.scope)
    )
$$;
comment on function proves_absence is
'Whether what a run did not see is gone: it read all that the syncs'' own scope shows.';
