-- The API reads nothing else in raw: only what crm.yml declares, and what decides on the outcome.
create or replace function attributes_as_read(deal text)
returns table (attribute text, as_read text, read_at timestamptz)
language plpgsql stable security definer set search_path to pg_catalog, pg_temp as $$
declare
    loaded jsonb;
begin
    if deal !~ '^[0-9]{1,18}$' then
        return;
    end if;
    select to_jsonb(source) into loaded
    from raw.opportunities as source
    where source."OptyId" = deal::bigint;
    return query
    select
        wanted.name,
        case
            when loaded ? wanted.name then loaded ->> wanted.name
            else public.custom_attribute(loaded -> 'custom', wanted.name)
        end,
        (loaded ->> '_sdc_extracted_at')::timestamptz
    from (
        select declared.attribute
        from public.declared_fields as declared
        where declared.removed_at is null
        union
        values ('OptyId'), ('SalesStage'), ('StatusCode'), ('StageStatusCd'), ('LookupCategory')
    ) as wanted (name)
    where loaded is not null;
end
$$;
comment on function attributes_as_read is
'The attributes of a deal as they were last loaded, as text.';
revoke execute on function attributes_as_read from public;
