-- A value as the CRM sent it, in the type of a field; SQL's null if it is not of this type. Blank
-- text is nothing. Times are UTC, so that they sort as text.
--
-- Most values are in their type already; PostgreSQL puts these cases in place of the call, which
-- takes a tenth of the time. The others need casts, which it would try while it plans, before it
-- asks whether the value is valid: they are in a function of their own.
create or replace function cast_field_value(value jsonb, type text) returns jsonb
language plpgsql stable parallel safe as $$
declare
    kind text := jsonb_typeof(value);
    words text := btrim(value #>> '{}', E' \t\r\n');
begin
    if words is null or words = '' then
        return 'null';
    elsif type = 'text' then
        return case kind when 'string' then value else to_jsonb(value #>> '{}') end;
    elsif type = 'number' then
        if kind = 'number' then
            return value;
        elsif kind = 'string' and words ~ '^[+-]?[0-9.]' and is_valid(words, 'numeric') then
            return to_jsonb(words::numeric);
        end if;
    elsif type = 'boolean' then
        return case
            when lower(words) in ('y', 'yes', 'true', 't', '1') then jsonb 'true'
            when lower(words) in ('n', 'no', 'false', 'f', '0') then jsonb 'false'
        end;
    elsif type = 'date' then
        if words ~ '^\d{4}-\d\d-\d\d' and is_valid(left(words, 10), 'date') then
            return to_jsonb(left(words, 10));
        end if;
    elsif type = 'timestamp' then
        if words ~ '^\d{4}-\d\d-\d\d' and is_valid(words, 'timestamptz') then
            return to_jsonb((to_jsonb(time_in_utc(words)) #>> '{}') || '+00:00');
        end if;
    elsif type = 'list' then
        if kind = 'array' then
            return value;
        elsif words ~ '^\[' and is_valid(words, 'jsonb') then
            return words::jsonb;
        end if;
        -- Up to version 7 of its framework, the CRM joins the choices with commas.
        return to_jsonb(regexp_split_to_array(words, '\s*[,;]\s*'));
    end if;
    return null;
end
$$;
comment on function cast_field_value is 'See field_value.';

create or replace function time_in_utc(words text) returns timestamp
language sql stable parallel safe set timezone to 'UTC' as $$
    select words::timestamptz at time zone 'UTC'
$$;
comment on function time_in_utc is
'A time in UTC, which it is also in if it has no offset, whatever the session''s time zone is.';

create or replace function field_value(value jsonb, type text) returns jsonb
language sql stable parallel safe as $$
    select case
        when value is null or jsonb_typeof(value) = 'null' then jsonb 'null'
        when type = 'text' and jsonb_typeof(value) = 'string'
            and btrim(value #>> '{}', E' \t\r\n') != '' then value
        when type = 'number' and jsonb_typeof(value) = 'number' then value
        when type = 'boolean' and jsonb_typeof(value) = 'boolean' then value
        when type = 'list' and jsonb_typeof(value) = 'array' then value
        when type = 'date' and value::text like '"____-__-__"'
            and is_valid(value #>> '{}', 'date') then value
        -- Hour 24 and second 60 are another time.
        when type = 'timestamp' and value::text like '"____-__-__T__:__:__+00:00"'
            and value::text not like all(array['%T24:%', '%:60+%'])
            and is_valid(value #>> '{}', 'timestamptz') then value
        else cast_field_value(value, type)
    end
$$;
comment on function field_value is
'A value of the CRM in the type of a field; null: it does not fit.';

-- All fields of a deal at once: its attributes are unpacked a single time, however many fields
-- there are. The exact name comes first: one CRM may have GEO_c and Geo_c. The cost lets the
-- planner choose the deals before it calls them.
create or replace function own_values(
    custom jsonb, names text[], attributes text[], types text[]
) returns jsonb
language sql stable parallel safe cost 5000 as $$
    -- What was read before the field was declared has no value, not even null.
    select coalesce(jsonb_object_agg(field.name, field_value(given.value, field.type)), '{}')
    from unnest(names, attributes, types) as field (name, attribute, type)
    inner join jsonb_each(custom) as given (key, value)
        on lower(given.key) = lower(field.attribute)
            and (given.key = field.attribute or not jsonb_exists(custom, field.attribute))
$$;
comment on function own_values is
'The customer''s own fields of a deal by their names; what does not fit is null.';

create or replace function own_error(custom jsonb, attributes text[], types text[]) returns text
language sql stable parallel safe cost 5000 as $$
    select min(field.attribute || ': ' || left(given.value #>> '{}', 60) || ' is no ' || field.type)
        || '; crm.yml can declare it as text'
    from unnest(attributes, types) as field (attribute, type)
    inner join jsonb_each(custom) as given (key, value)
        on lower(given.key) = lower(field.attribute)
            and (given.key = field.attribute or not jsonb_exists(custom, field.attribute))
    where field_value(given.value, field.type) is null
$$;
comment on function own_error is
'Why the own fields of a deal can''t be loaded, by one of them; null if they can.';

create or replace function type_of_json(value jsonb) returns text
language sql immutable parallel safe as $$
    select case jsonb_typeof(value)
        when 'number' then 'number' when 'boolean' then 'boolean' when 'array' then 'list'
        else 'text'
    end
$$;
comment on function type_of_json is 'The type of a field that has this value.';

-- A type that was declared anew and then taken back must be no change either: so both ways.
create or replace function is_same_value(before jsonb, after jsonb) returns boolean
language sql stable parallel safe as $$
    select case
        when before = after then true
        when before = 'null' or after = 'null' then false
        when jsonb_typeof(before) != jsonb_typeof(after) then coalesce(
            field_value(before, type_of_json(after)) = after
            or field_value(after, type_of_json(before)) = before,
            false
        )
        when jsonb_typeof(before) = 'string' then coalesce(
            field_value(before, 'timestamp') = field_value(after, 'timestamp')
            -- Between a time and its day.
            or length(before::text) != length(after::text)
            and 12 in (length(before::text), length(after::text))
            and field_value(before, 'date') = field_value(after, 'date'),
            false
        )
        else false
    end
$$;
comment on function is_same_value is
'Whether only the type of a field has changed, so that it is no change of the deal.';
