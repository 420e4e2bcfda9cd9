-- The planner's statistics, at once where autovacuum would gather them in a minute: after a large
-- merge, the next statement needs them. Only the owner of a table can do it: others get a warning,
-- and no more. Half of the usual sample is enough to choose between plans.
create or replace function analyze_relation(relation regclass) returns void
language plpgsql security definer
set search_path to pg_catalog, pg_temp set default_statistics_target to 50 as $$
declare
    written constant bigint := coalesce(pg_stat_get_mod_since_analyze(relation), 0)
        + pg_stat_get_xact_tuples_inserted(relation)
        + pg_stat_get_xact_tuples_updated(relation)
        + pg_stat_get_xact_tuples_deleted(relation);
begin
    if written >= 10000
        and written > (select reltuples from pg_class where oid = relation) / 10
        -- build_deferred_indexes does it after the merge, with the expressions of the indexes.
        and not (
            relation = 'public.opportunities'::regclass
            and exists (select from public.deferred_indexes)
        )
    then
        execute format('analyze %s', relation);
    end if;
end
$$;
comment on function analyze_relation is
'Gathers the planner''s statistics of a table, if much of it was written since the last time.';
revoke execute on function analyze_relation from public;
