-- A first load brings a million deals: their ids are one range, and so one row.
create or replace function record_opportunity_arrivals() returns trigger
language plpgsql as $$
begin
    insert into opportunity_arrivals (ids, deals)
    select
        case
            when max(id) - min(id) + 1 = count(*)
                then int8multirange(int8range(min(id), max(id), '[]'))
            else (select range_agg(int8range(id, id, '[]') order by id) from new_rows)
        end,
        count(*)
    from new_rows
    having count(*) > 0;
    return null;
end
$$;

create or replace trigger record_arrivals after insert on opportunities
referencing new table as new_rows
for each statement execute function record_opportunity_arrivals();
