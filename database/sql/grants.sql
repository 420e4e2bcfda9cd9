-- What the role of each part may do: see database/roles.py. Each migration runs this at its end,
-- if the database has these roles. It starts from nothing: what is not here is not allowed.
--
-- A new table of the application is the API's to read and write; what the pipeline writes is
-- listed.

alter schema raw owner to oracle_crm_load;
alter schema staging owner to oracle_crm_transform;
alter schema meltano owner to oracle_crm_run;

do $do$
declare
    relation record;
begin
    for relation in
        select
            oid::regclass::text as name,
            case relkind when 'S' then 'sequence' else 'table' end as kind,
            relkind = 'r' as is_table
        from pg_class
        where
            relnamespace = 'public'::regnamespace
            and relkind in ('r', 'v', 'S')
            and relowner in ('oracle_crm_migrate'::regrole, current_user::regrole)
    loop
        execute format(
            'revoke all on %s %s
                from oracle_crm_load, oracle_crm_transform, oracle_crm_run, oracle_crm_api',
            relation.kind, relation.name
        );
        if relation.is_table then
            execute format(
                'grant select, insert, update, delete on %s to oracle_crm_api', relation.name
            );
        else
            execute format('grant select on %s to oracle_crm_run, oracle_crm_api', relation.name);
        end if;
    end loop;
    -- What a migration has created in raw.
    for relation in
        select 'table' as kind, oid::regclass::text as name
        from pg_class
        where
            relnamespace = 'raw'::regnamespace and relkind = 'r'
            and relowner::regrole::text != 'oracle_crm_load'
        union all
        select 'function', oid::regprocedure::text
        from pg_proc
        where
            pronamespace = 'raw'::regnamespace
            and proowner::regrole::text != 'oracle_crm_load'
    loop
        execute format('alter %s %s owner to oracle_crm_load', relation.kind, relation.name);
    end loop;
    -- dbt's views.
    for relation in
        select oid::regclass::text as name
        from pg_class
        where
            relnamespace = 'public'::regnamespace and relkind = 'v'
            and relowner::regrole::text = 'oracle_crm_transform'
    loop
        execute format('grant select on %s to oracle_crm_run, oracle_crm_api', relation.name);
    end loop;
end
$do$;

grant usage on schema public
to oracle_crm_load, oracle_crm_transform, oracle_crm_run, oracle_crm_api;

-- The loader owns raw. Of the fence it may raise the number of the batch, and no more.
grant select, update (batch) on public.load_fence to oracle_crm_load;

-- dbt owns staging and its views in public. It merges, and deletes only keys that it has counted.
grant create on schema public to oracle_crm_transform;
grant usage on schema raw to oracle_crm_transform;
grant select on all tables in schema raw to oracle_crm_transform;
grant delete on raw.read_keys to oracle_crm_transform;
alter default privileges for role oracle_crm_load in schema raw
grant select on tables to oracle_crm_transform;
grant select on
public.declarations,
public.declared_fields,
public.declared_outcomes,
public.erased_owners,
public.field_news,
public.fields,
public.load_fence,
public.run_logs,
public.sync_logs,
public.unknown_statuses
to oracle_crm_transform;
grant select, insert, update on
public.crm_attributes,
public.merge_marks,
public.opportunities,
public.reconciliations,
public.rejected_records,
public.sales_owners,
public.status_outcomes,
public.sync_runs
to oracle_crm_transform;
grant select, insert, delete on public.reporting_currency to oracle_crm_transform;
grant select, insert on
public.opportunity_arrivals,
public.opportunity_changes
to oracle_crm_transform;
grant usage on sequence public.sync_runs_id to oracle_crm_transform;
grant execute on function public.analyze_relation to oracle_crm_transform;
alter default privileges for role oracle_crm_transform in schema public
grant select on tables to oracle_crm_run, oracle_crm_api;

-- A run, the scheduler and the alerts. Meltano's own tables are in the schema that the role owns.
grant select on
public.alembic_version,
public.merge_marks,
public.opportunities,
public.reconciliations,
public.rejected_records,
public.reporting_currency,
public.sales_owners,
public.sign_in_attempts,
public.status_outcomes
to oracle_crm_run;
grant select, insert, update on
public.crm_attributes,
public.declarations,
public.declared_fields,
public.incidents,
public.notifications,
public.sync_runs
to oracle_crm_run;
grant select, insert, update, delete on
public.crm_calls,
public.declared_outcomes,
public.schedules
to oracle_crm_run;
grant select, update on public.load_fence to oracle_crm_run;
-- `make check` asks what the next sync would change, in a transaction that it takes back.
grant usage on schema raw, staging to oracle_crm_run;
grant select on all tables in schema raw, staging to oracle_crm_run;
alter default privileges for role oracle_crm_load in schema raw
grant select on tables to oracle_crm_run;
alter default privileges for role oracle_crm_transform in schema staging
grant select on tables to oracle_crm_run;
grant insert, update, delete on public.status_outcomes to oracle_crm_run;
grant usage on sequence public.run_numbers, public.sync_runs_id to oracle_crm_run;

-- The API reads what the pipeline writes. Of a deal it writes what is the bid team's; it cannot
-- change or delete what was done.
revoke insert, update, delete on
public.alembic_version,
public.change_feed,
public.crm_attributes,
public.crm_calls,
public.declarations,
public.declared_fields,
public.declared_outcomes,
public.deferred_indexes,
public.incidents,
public.erased_owners,
public.load_fence,
public.merge_marks,
public.notifications,
public.opportunities,
public.opportunity_arrivals,
public.opportunity_totals,
public.reconciliations,
public.rejected_records,
public.reporting_currency,
public.sales_owners,
public.schedules,
public.status_outcomes,
public.sync_runs
from oracle_crm_api;
revoke update, delete on
public.audit_log,
public.opportunity_changes
from oracle_crm_api;
grant update (workflow_status, assigned_to) on public.opportunities to oracle_crm_api;
-- An administrator's orders to the scheduler.
grant update (paused_at, paused_by, wanted_by) on public.schedules to oracle_crm_api;
-- It notes that the process of a run is gone.
grant update (ended_at, died, error_message) on public.sync_runs to oracle_crm_api;
-- An administrator erases a person in the console.
grant execute on function public.erase_user, public.erase_sales_owner to oracle_crm_api;
-- A deal's page says where each value comes from.
grant execute on function public.attributes_as_read to oracle_crm_api;
