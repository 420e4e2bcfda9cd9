-- Personal data of one person, erased. Rows that are the person's own go. Other rows stay, with a
-- name that stands for the person. Full name and e-mail are looked for in the texts of all tables.
-- `app.erasing` lets these functions change what nothing else may: see keep_audit_log.sql.

create or replace function pattern_of(texts text[]) returns text language sql immutable as $$
    -- As they stand in a text, and in JSON. A longer word, or a longer address, is another one.
    select string_agg(
        case
            when position('@' in form) > 0
                then '(?<![[:alnum:]._%+-])' || form || '(?![[:alnum:]-]|\.[[:alnum:]])'
            else '(?<![[:alnum:]])' || form || '(?![[:alnum:]])'
        end,
        '|'
    )
    from (
        select distinct regexp_replace(written, '([][\\.*+?^${}()|])', '\\\1', 'g') as form
        from unnest(texts) as plain
        -- An accent may be a character of its own.
        cross join lateral (
            values (plain), (normalize(plain, nfc)), (normalize(plain, nfd))
        ) as spellings (spelling)
        cross join lateral (
            values (spelling), (regexp_replace(to_json(spelling)::text, '^"|"$', '', 'g'))
        ) as ways (written)
    ) as forms
$$;
comment on function pattern_of is 'A regular expression that finds any of these texts.';

create or replace function replace_in_all_texts(texts text[], substitute text)
returns table (place text, changed bigint) language plpgsql as $$
declare
    pattern text := pattern_of(texts);
    statement text;
begin
    for place, statement in
        select
            nspname || '.' || relname,
            format(
                'update %I.%I set %s where (%s)%s',
                nspname, relname,
                string_agg(
                    format(
                        '%1$I = regexp_replace(%1$I::text, %2$L, %3$L, ''gi'')::%4$s',
                        attname, pattern, substitute, format_type(atttypid, null)
                    ),
                    ', '
                ),
                string_agg(format('%I::text ~* %L', attname, pattern), ' or '),
                -- Another user may have the same full name.
                case when relname = 'audit_log' then ' and subject != ''user''' end
            )
        from pg_class
        inner join pg_namespace on pg_class.relnamespace = pg_namespace.oid
        inner join pg_attribute on pg_class.oid = pg_attribute.attrelid
        where
            nspname in ('public', 'raw', 'meltano', 'legacy')
            and relkind = 'r'
            and attnum > 0
            and not attisdropped
            and attgenerated = ''
            and format_type(atttypid, null) in (
                'text', 'character varying', 'text[]', 'json', 'jsonb'
            )
            -- These say by a key whose the names in them are.
            and nspname || '.' || relname not in (
                'public.users', 'public.sales_owners', 'raw.resources', 'raw.opportunity_team'
            )
            and attname != 'PartyName1'
        group by nspname, relname
        order by nspname, relname
    loop
        if pattern is not null then
            execute statement;
            get diagnostics changed = row_count;
            return next;
        end if;
    end loop;
end
$$;
comment on function replace_in_all_texts is
'Replaces texts in each table, and returns the tables and the numbers of rows.';

create or replace function without_user(state jsonb, person users, is_about_person boolean)
returns jsonb language sql stable as $$
    select coalesce(
        jsonb_object_agg(
            key,
            case
                when
                    key in ('name', 'of', 'person', 'tried')
                    and lower(value #>> '{}') = lower(person.name)
                    then to_jsonb('erased user ' || person.id)
                when
                    is_about_person
                    and key in ('address', 'browser', 'email', 'full_name', 'oidc_subject')
                    then 'null'
                else value
            end
        ),
        state
    )
    from jsonb_each(state)
$$;
comment on function without_user is 'What the audit trail keeps of a thing, without a person.';

create or replace function erase_user(person_id bigint)
returns table (place text, changed bigint)
language plpgsql security definer set search_path to public, pg_temp as $$
declare
    person users;
    substitute text := 'erased user ' || person_id;
    statement text;
begin
    select * into strict person from users where id = person_id and erased_at is null for update;
    perform set_config('app.erasing', 'on', true);

    place := 'public.audit_log';
    update audit_log as entry
    set
        user_name = case when user_id = person_id then substitute else user_name end,
        address = case when user_id = person_id or subject = 'name' then null else address end,
        subject_id = case when subject = 'name' then substitute else subject_id end,
        before = without_user(before, person, entries.is_about_person),
        after = without_user(after, person, entries.is_about_person)
    from (
        select
            id,
            subject = 'user' and subject_id = person_id::text
            or subject in ('session', 'token') and subject_id in (
                select tokens.id::text from tokens where user_id = person_id
            ) as is_about_person
        from audit_log
    ) as entries
    where
        entries.id = entry.id
        and (
            entries.is_about_person
            or user_id = person_id
            or subject = 'name' and lower(subject_id) = lower(person.name)
            or position(lower(person.name) in lower(concat(before, after))) > 0
            and (
                before is distinct from without_user(before, person, false)
                or after is distinct from without_user(after, person, false)
            )
        );
    get diagnostics changed = row_count;
    return next;

    -- The person's own, by the tables' own rule for when a user is deleted.
    for place, statement in
        select
            'public.' || relname,
            format('delete from %I where %I = $1', relname, attname)
        from pg_constraint
        inner join pg_class on pg_constraint.conrelid = pg_class.oid
        inner join pg_attribute
            on pg_class.oid = pg_attribute.attrelid and pg_constraint.conkey[1] = attnum
        where confrelid = 'public.users'::regclass and confdeltype = 'c'
        order by relname
    loop
        execute statement using person_id;
        get diagnostics changed = row_count;
        return next;
    end loop;

    place := 'public.sign_in_attempts';
    delete from sign_in_attempts where name = lower(person.name);
    get diagnostics changed = row_count;
    return next;

    place := 'public.opportunity_changes';
    update opportunity_changes
    set
        changed_by = case when changed_by = person.name then substitute else changed_by end,
        old_value = case when old_value = person.name then substitute else old_value end,
        new_value = case when new_value = person.name then substitute else new_value end
    where
        changed_by = person.name
        -- What the bid team changes may have users as its values.
        or person.name in (old_value, new_value)
        and (
            field = 'assigned_to'
            or field not in (
                select attname from pg_attribute
                where attrelid = 'public.opportunities'::regclass
            )
        );
    get diagnostics changed = row_count;
    return next;

    place := 'public.sync_runs';
    update sync_runs
    set
        requested_by = case when requested_by = person.name then substitute else requested_by end,
        cancelled_by = case when cancelled_by = person.name then substitute else cancelled_by end
    where person.name in (requested_by, cancelled_by);
    get diagnostics changed = row_count;
    return next;

    place := 'public.users';
    update users
    set
        name = substitute, full_name = null, email = null, password_hash = null,
        oidc_issuer = null, oidc_subject = null, is_break_glass = false, active = false,
        updated_at = now(), erased_at = now()
    where id = person_id;
    get diagnostics changed = row_count;
    return next;

    return query select * from replace_in_all_texts(
        array_remove(
            array[
                person.email,
                -- A single word could be any word.
                case when person.full_name ~ '\s' then person.full_name end
            ],
            null
        ),
        substitute
    );
    perform set_config('app.erasing', '', true);
end
$$;
comment on function erase_user is
'Erases a user, and returns the tables and the numbers of rows: `no_data_found` if there is none.';
revoke execute on function erase_user from public;

create or replace function erase_sales_owner(owner text)
returns table (place text, changed bigint)
language plpgsql security definer set search_path to public, pg_temp as $$
declare
    owner_key bigint := case when owner ~ '^[0-9]{1,18}$' then owner::bigint end;
    texts text[];
begin
    -- A merge under way may have read the names already: wait until it has written them.
    lock table
        raw.opportunities, raw.opportunity_team, raw.rejected_records, raw.resources
    in access exclusive mode;
    perform set_config('app.erasing', 'on', true);
    select array_agg(distinct btrim(text_of_person))
    into texts
    from (
        select unnest(array[name, email]) as text_of_person from sales_owners where remote_id = owner
        union all
        select unnest(array["PartyName", "EmailAddress"]) from raw.resources
        where "PartyId" = owner_key
        union all
        select unnest(array["PartyName", "EmailAddress"]) from raw.opportunity_team
        where "ResourceId" = owner_key
        union all
        select "PartyName1" from raw.opportunities where "OwnerResourcePartyId" = owner_key
    ) as named
    where btrim(text_of_person) ~ '[\s@]';  -- a single word could be any word

    place := 'public.erased_owners';
    insert into erased_owners (remote_id, email_hashes)
    select owner, coalesce(array_agg(hash_of_text(one)), '{}')
    from unnest(texts) as one
    where position('@' in one) > 0
    on conflict (remote_id) do update
    set email_hashes = erased_owners.email_hashes || excluded.email_hashes;
    get diagnostics changed = row_count;
    return next;
    perform leave_out_erased_owners();

    place := 'public.sales_owners';
    update sales_owners set name = null, email = null
    where remote_id = owner and num_nonnulls(name, email) > 0;
    get diagnostics changed = row_count;
    return next;

    place := 'raw.resources';
    update raw.resources set "PartyName" = null, "EmailAddress" = null
    where "PartyId" = owner_key and num_nonnulls("PartyName", "EmailAddress") > 0;
    get diagnostics changed = row_count;
    return next;

    place := 'raw.opportunity_team';
    update raw.opportunity_team set "PartyName" = null, "EmailAddress" = null
    where "ResourceId" = owner_key and num_nonnulls("PartyName", "EmailAddress") > 0;
    get diagnostics changed = row_count;
    return next;

    place := 'raw.opportunities';
    update raw.opportunities set "PartyName1" = null
    where "OwnerResourcePartyId" = owner_key and "PartyName1" is not null;
    get diagnostics changed = row_count;
    return next;

    return query select * from replace_in_all_texts(texts, 'erased owner ' || owner);
    perform set_config('app.erasing', '', true);
end
$$;
comment on function erase_sales_owner is
'Erases names and e-mails of an owner of deals, now and in later syncs; returns as erase_user.';
revoke execute on function erase_sales_owner from public;
