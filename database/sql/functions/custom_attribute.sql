create or replace function custom_attribute(attributes jsonb, name text) returns text
language sql immutable parallel safe as $$
    -- The exact name comes first: one CRM may have GEO_c and Geo_c.
    select case
        when jsonb_exists(attributes, name) then attributes ->> name
        else (
            select value from jsonb_each_text(attributes)
            where lower(key) = lower(name) order by key limit 1
        )
    end
$$;
comment on function custom_attribute is
'An attribute of the customer''s own, by its name in whatever case.';
