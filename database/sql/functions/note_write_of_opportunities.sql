-- The API keeps totals and the dashboard until opportunities change. A sequence tells it: unlike a
-- row, it makes no transaction wait for another one. It says nothing of commits; the API looks at
-- the locks for those. A second one is of values alone, which no edit of the bid team's changes.
create sequence if not exists opportunities_version;
comment on sequence opportunities_version is 'Grows before each write to opportunities.';
create sequence if not exists opportunity_values_version;
comment on sequence opportunity_values_version is
'Grows before each write of what decides which opportunities are outliers.';

create or replace function note_write_of_opportunities() returns trigger
language plpgsql security definer set search_path to pg_catalog, pg_temp as $$
begin
    perform nextval('public.opportunities_version');
    return null;
end
$$;

create or replace function note_write_of_opportunity_values() returns trigger
language plpgsql security definer set search_path to pg_catalog, pg_temp as $$
begin
    perform nextval('public.opportunity_values_version');
    return null;
end
$$;

create or replace trigger note_write
before insert or update or delete or truncate on opportunities
for each statement execute function note_write_of_opportunities();

create or replace trigger note_write_of_values
before insert or delete or truncate
or update of deal_value, currency, reporting_value, crm_outcome, deleted_at on opportunities
for each statement execute function note_write_of_opportunity_values();
