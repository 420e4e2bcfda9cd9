-- The CRM may still send what was erased here. Triggers on the raw tables leave it out. They are
-- there only if somebody was erased, so that nobody else pays for them.

create or replace function hash_of_text(value text) returns bytea language sql immutable as $$
    select sha256(convert_to(lower(btrim(value)), 'UTF8'))
$$;

create or replace function without_erased_owners(record jsonb) returns jsonb
language plpgsql stable as $$
declare
    -- The person whose names a record of the CRM carries, by its stream's key.
    owner text := coalesce(
        record ->> 'OwnerResourcePartyId', record ->> 'ResourceId', record ->> 'PartyId'
    );
    is_erased boolean := exists (select from erased_owners where remote_id = owner);
begin
    if jsonb_typeof(record) = 'array' then
        return coalesce(
            (
                select jsonb_agg(without_erased_owners(value) order by place)
                from jsonb_array_elements(record) with ordinality as item (value, place)
            ),
            record
        );
    elsif jsonb_typeof(record) != 'object' then  -- a reject may be anything
        return without_erased_owners(jsonb_build_object('', record)) -> '';
    end if;
    return coalesce(
        (
            select jsonb_object_agg(
                key,
                case
                    when
                        is_erased
                        and key in ('EmailAddress', 'PartyName', 'PartyName1')
                        then 'null'
                    when
                        jsonb_typeof(value) in ('object', 'array')
                        then without_erased_owners(value)
                    when jsonb_typeof(value) = 'string' then coalesce(
                        (
                            select to_jsonb('erased owner ' || remote_id)
                            from erased_owners
                            where hash_of_text(value #>> '{}') = any(email_hashes)
                            limit 1
                        ),
                        value
                    )
                    else value
                end
            )
            from jsonb_each(record)
        ),
        record
    );
end
$$;
comment on function without_erased_owners is
'A record of the CRM, without the names and e-mails of owners who were erased.';

-- With the rights of its owner: the loader need not read whom it leaves out.
create or replace function leave_out_in_row() returns trigger
language plpgsql security definer set search_path to public, pg_temp as $$
begin
    if tg_table_name = 'rejected_records' then
        new.payload := without_erased_owners(new.payload::jsonb)::text;
    else
        new := jsonb_populate_record(new, without_erased_owners(to_jsonb(new)));
    end if;
    return new;
end
$$;

create or replace function leave_out_erased_owners() returns void language plpgsql as $$
declare
    name text;
begin
    foreach name in array array[
        'opportunities', 'rejected_records', 'accounts', 'resources', 'revenue_lines',
        'opportunity_team'
    ] loop
        execute format(
            'create or replace trigger leave_out_erased_owners before insert or update on raw.%I
                for each row execute function public.leave_out_in_row()',
            name
        );
    end loop;
end
$$;
comment on function leave_out_erased_owners is
'Makes the triggers that leave out of the raw tables what was erased.';

do $do$
begin
    if exists (select from erased_owners) then
        perform leave_out_erased_owners();
    end if;
end
$do$;
