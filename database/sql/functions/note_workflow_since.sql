-- How long a deal has its status, without a look at its history.
create or replace function note_workflow_since() returns trigger
language plpgsql set search_path to pg_catalog, pg_temp as $$
begin
    new.workflow_since := now();
    return new;
end
$$;

create or replace trigger note_workflow_since before update of workflow_status on opportunities
for each row when (old.workflow_status is distinct from new.workflow_status)
execute function note_workflow_since();
