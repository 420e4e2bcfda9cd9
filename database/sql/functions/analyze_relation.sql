-- Only the owner of a table can gather the planner's statistics: others get a warning, and no more.
create or replace function analyze_relation(relation regclass) returns void
language plpgsql security definer set search_path to pg_catalog, pg_temp as $$
begin
    execute format('analyze %s', relation);
end
$$;
comment on function analyze_relation is
'Gathers the planner''s statistics of a table, with the rights of the owner of this function.';
revoke execute on function analyze_relation from public;
