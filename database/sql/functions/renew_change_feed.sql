-- Transactions count anew in another server, so a restored order of changes would never be below
-- them. Then all that is restored counts as committed, in the order of time, and readers of the
-- old order begin again.
create or replace function renew_change_feed(is_restored boolean) returns void
language plpgsql as $$
declare
    ahead constant xid8 := pg_snapshot_xmax(pg_current_snapshot());
    own constant xid8 := pg_current_xact_id_if_assigned();
begin
    if
        is_restored
        or exists (
            select from opportunity_changes where xid >= ahead and xid is distinct from own
        )
        or exists (
            select from opportunity_arrivals where xid >= ahead and xid is distinct from own
        )
        or exists (select from visits where seen_xid >= ahead)
    then
        update opportunity_changes set xid = '0' where xid != '0';
        update opportunity_arrivals set xid = '0' where xid != '0';
        update change_feed set generation = generation + 1, pruned_xid = '0';
        delete from visits;
        update digests set seen_xid = '0';
    end if;
end
$$;
