-- A first load puts all deals into an empty table. To build an index of all rows at once takes a
-- third of the work that it takes to extend it by each row. The functions belong to the migrations,
-- since a merge may not change the table. Each is a transaction of its own: readers wait for the
-- first one for a moment, and the run's row is not locked while the second one works.

create or replace function defer_indexes() returns void
language plpgsql security definer set search_path to pg_catalog, pg_temp as $$
declare
    secondary record;
begin
    -- A few rows are not worth it.
    if exists (select from public.opportunities)
        or (select count(*) from (select from raw.opportunities limit 10000) as loaded) < 10000
    then
        return;
    end if;
    -- Somebody who reads is not waited for: then the merge extends the indexes.
    lock table public.opportunities in access exclusive mode nowait;
    if exists (select from public.opportunities) then
        return;
    end if;
    for secondary in
        select indexrelid::regclass as name, pg_get_indexdef(indexrelid) as definition
        from pg_index
        where indrelid = 'public.opportunities'::regclass and not indisunique
    loop
        insert into public.deferred_indexes (name, definition)
        values (secondary.name, secondary.definition)
        on conflict (name) do update set definition = excluded.definition;
        execute format('drop index %s', secondary.name);
    end loop;
exception when lock_not_available then
    return;
end
$$;
comment on function defer_indexes is
'Drops the indexes of opportunities that are not unique, if a first load is about to be merged.';

create or replace function build_deferred_indexes() returns void
language plpgsql security definer
set search_path to pg_catalog, pg_temp set default_statistics_target to 50 as $$
declare
    deferred record;
begin
    for deferred in delete from public.deferred_indexes returning definition loop
        execute regexp_replace(deferred.definition, '^CREATE INDEX ', 'CREATE INDEX IF NOT EXISTS ');
    end loop;
    if found then
        analyze public.opportunities;  -- of the expressions, too
    end if;
    -- Else each search would read all that the merge has written, until a vacuum.
    perform gin_clean_pending_list(indexrelid)
    from pg_index
    where indexrelid = to_regclass('public.opportunities_search');
end
$$;
comment on function build_deferred_indexes is
'Builds the indexes that defer_indexes has dropped, and tidies up that of the search.';

-- After a merge that was killed, if none comes.
select build_deferred_indexes();
