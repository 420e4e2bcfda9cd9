-- PostgreSQL writes the rule of a view anew each time that it creates or replaces the view.
create or replace function state_of_views() returns text
language sql stable set search_path to pg_catalog, pg_temp as $$
select md5(
    string_agg(
        concat_ws(' ', pg_class.relname, pg_class.oid, pg_rewrite.xmin), ',' order by pg_class.oid
    )
)
from pg_class
inner join pg_rewrite on pg_class.oid = pg_rewrite.ev_class
inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
where pg_class.relkind = 'v' and pg_namespace.nspname in ('public', 'staging')
$$;
comment on function state_of_views is
'A text that differs as soon as a view of the project is created, replaced, renamed or dropped.';
