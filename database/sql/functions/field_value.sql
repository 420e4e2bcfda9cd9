-- A value as the CRM sent it, in the type of a field; SQL's null if it is not of this type. Blank
-- text is nothing. Times are UTC, so that they sort as text.
--
-- Not in SQL: PostgreSQL would cast the value while it plans, before it asks whether it is valid.
create or replace function field_value(value jsonb, type text) returns jsonb
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
            -- UTC, if it has no offset.
            words := regexp_replace(
                words, '^([0-9-]+([T ]\d\d:\d\d(:\d\d(\.\d+)?)?)?)$', '\1 UTC'
            );
            words := to_char(
                words::timestamptz at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US'
            );
            return to_jsonb(regexp_replace(words, '\.?0+$', '') || '+00:00');
        end if;
    elsif type = 'list' then
        if kind = 'array' then
            return value;
        elsif words ~ '^\[' and is_valid(words, 'jsonb') then
            return words::jsonb;
        end if;
        return to_jsonb(regexp_split_to_array(words, '\s*;\s*'));
    end if;
    return null;
end
$$;
comment on function field_value is
'A value of the CRM in the type of a field; null: it does not fit.';

create or replace function attribute_value(attributes jsonb, name text) returns jsonb
language sql immutable parallel safe as $$
    -- The exact name comes first: one CRM may have GEO_c and Geo_c.
    select case
        when jsonb_exists(attributes, name) then attributes -> name
        else (
            select value from jsonb_each(attributes)
            where lower(key) = lower(name) order by key limit 1
        )
    end
$$;
comment on function attribute_value is 'An attribute by its name in any case, as jsonb.';

create or replace function is_same_value(before jsonb, after jsonb) returns boolean
language sql stable parallel safe as $$
    select case
        when before = after then true
        when before = 'null' or after = 'null' then false
        when jsonb_typeof(before) != jsonb_typeof(after) then field_value(
            before,
            case jsonb_typeof(after)
                when 'number' then 'number' when 'boolean' then 'boolean' when 'array' then 'list'
                else 'text'
            end
        ) is not distinct from after
        when jsonb_typeof(before) = 'string' then coalesce(
            field_value(before, 'timestamp') = field_value(after, 'timestamp'), false
        )
        else false
    end
$$;
comment on function is_same_value is
'Whether only the type of a field has changed, so that it is no change of the deal.';
