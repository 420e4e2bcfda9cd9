create or replace function keep_audit_log() returns trigger language plpgsql as $$
begin
    if tg_op = 'DELETE' and current_setting('app.audit_retention', true) = 'on' then
        return old;
    end if;
    if tg_op = 'UPDATE' and current_setting('app.erasing', true) = 'on' then
        return new;
    end if;
    raise exception 'Entries of the audit trail can''t be changed or deleted.'
        using errcode = '42501',
        hint = 'Housekeeping deletes old ones: see AUDIT_RETENTION_DAYS. '
            '`make erase` erases a person from them.';
end
$$;
create or replace trigger keep_audit_log before update or delete on audit_log
for each row execute function keep_audit_log();
create or replace trigger keep_all_of_audit_log before truncate on audit_log
for each statement execute function keep_audit_log();

-- With the rights of its owner, so that nobody else needs to be able to delete entries.
create or replace function remove_audit_entries(days integer, batch integer) returns bigint
language plpgsql security definer set search_path to pg_catalog, pg_temp as $$
declare
    removed bigint;
begin
    perform set_config('app.audit_retention', 'on', true);
    delete from public.audit_log where id in (
        select id
        from public.audit_log
        where at < now() - make_interval(days => days)
        order by id
        limit batch
    );
    get diagnostics removed = row_count;
    perform set_config('app.audit_retention', '', true);
    return removed;
end
$$;
comment on function remove_audit_entries is
'Deletes a batch of the entries that are older than a number of days, and returns their number.';
revoke execute on function remove_audit_entries from public;

create or replace function remove_audit_addresses(days integer, batch integer) returns bigint
language plpgsql security definer set search_path to pg_catalog, pg_temp as $$
declare
    removed bigint;
begin
    perform set_config('app.erasing', 'on', true);
    update public.audit_log set
        address = null,
        before = before - array['address', 'browser'],
        after = after - array['address', 'browser']
    where id in (
        select id
        from public.audit_log
        where
            at < now() - make_interval(days => days)
            and (
                address is not null
                or before ?| array['address', 'browser']
                or after ?| array['address', 'browser']
            )
        limit batch
    );
    get diagnostics removed = row_count;
    perform set_config('app.erasing', '', true);
    return removed;
end
$$;
comment on function remove_audit_addresses is
'Deletes where users were from a batch of entries that are older than a number of days.';
revoke execute on function remove_audit_addresses from public;
