create or replace function forget_owners(days integer) returns bigint
language plpgsql security definer set search_path to public, pg_temp as $$
declare
    forgettable text[];
    omitted constant text[] := array[
        'PartyName1', 'PartyName', 'EmailAddress', 'CreatedBy', 'LastUpdatedBy'
    ];
    target record;
    changed bigint;
    forgotten bigint := 0;
begin
    perform set_config('app.erasing', 'on', true);
    if days is not null then
        select coalesce(array_agg(sales_owner), '{}')
        into forgettable
        from (
            select sales_owner
            from opportunities
            group by sales_owner
            having not bool_or(
                deleted_at is null and coalesce(crm_outcome, 'OPEN') = 'OPEN'
                or greatest(remote_updated_at, first_synced_at, deleted_at)
                > now() - make_interval(days => days)
            )
        ) as owners;
    end if;

    update sales_owners set name = null, email = null
    where
        num_nonnulls(name, email) > 0
        and (
            days is null
            or remote_id = any(forgettable)
            -- Most people in the CRM own no deal, yet.
            or last_synced_at < now() - make_interval(days => days)
            and not exists (select from opportunities where sales_owner = sales_owners.remote_id)
        );
    get diagnostics changed = row_count;
    forgotten := forgotten + changed;

    for target in
        select
            format('%I.%I', nspname, relname) as place,
            case relname
                when 'opportunities' then '"OwnerResourcePartyId"'
                when 'resources' then '"PartyId"'
                when 'opportunity_team' then '"ResourceId"'
            end as owner,
            array_agg(format('%I', attname)) as names
        from pg_attribute
        inner join pg_class on pg_attribute.attrelid = pg_class.oid
        inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
        where nspname = 'raw' and relkind = 'r' and attname = any(omitted)
        group by nspname, relname
    loop
        if days is not null and target.owner is null then
            continue;
        end if;
        execute format(
            'update %s set %s where num_nonnulls(%s) > 0 and (
                $1 is null
                or %4$s::text = any($1)
                or _sdc_extracted_at < now() - make_interval(days => $2)
                and not exists (select from opportunities where sales_owner = %4$s::text)
            )',
            target.place,
            array_to_string(array(select name || ' = null' from unnest(target.names) as name), ', '),
            array_to_string(target.names, ', '),
            coalesce(target.owner, 'null')
        ) using forgettable, days;
        get diagnostics changed = row_count;
        forgotten := forgotten + changed;
    end loop;

    if days is null then
        update rejected_records set payload = payload - omitted where payload ?| omitted;
        get diagnostics changed = row_count;
        forgotten := forgotten + changed;
        update raw.rejected_records set payload = (payload::jsonb - omitted)::text
        where payload::jsonb ?| omitted;
        get diagnostics changed = row_count;
        forgotten := forgotten + changed;
    end if;
    perform set_config('app.erasing', '', true);
    return forgotten;
end
$$;
comment on function forget_owners is
'Deletes the names and e-mails of owners whose deals have not changed for days; null: of all.';
revoke execute on function forget_owners from public;
