-- The API keeps totals and the dashboard until opportunities change. A sequence tells it: unlike a
-- row, it makes no transaction wait for another one. It says nothing of commits; the API looks at
-- the locks for those.
create sequence if not exists opportunities_version;
comment on sequence opportunities_version is 'Grows before each write to opportunities.';

create or replace function note_write_of_opportunities() returns trigger
language plpgsql security definer set search_path to pg_catalog, pg_temp as $$
begin
    perform nextval('public.opportunities_version');
    return null;
end
$$;

create or replace trigger note_write
before insert or update or delete or truncate on opportunities
for each statement execute function note_write_of_opportunities();
