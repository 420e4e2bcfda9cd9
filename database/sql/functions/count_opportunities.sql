-- The totals of the dashboard, so that it reads no deals. Each statement adds what it changed, in
-- its own transaction: who sees the deals sees the totals. It joins what it adds with the rows that
-- the group has, and leaves those which another transaction has: so no writer waits for another.
create or replace function count_opportunities() returns trigger
language plpgsql security definer set search_path to pg_catalog, pg_temp as $$
begin
    if tg_op = 'TRUNCATE' then
        delete from public.opportunity_totals;
        return null;
    end if;
    execute format(
        $sql$
        with changed as (
            select
                outcome,
                nullif(currency, '') as currency,
                case when outcome = 'OPEN' then nullif(stage, '') end as stage,
                case
                    when outcome = 'OPEN' then date_trunc('month', close_date::timestamp)::date
                end as close_month,
                case when outcome != 'OPEN' then nullif(practice, '') end as practice,
                sum(number) as deals,
                coalesce(sum(number * deal_value), 0) as deal_value,
                coalesce(sum(number * deal_value * win_probability), 0) as weighted_value,
                coalesce(sum(number) filter (where deal_value > 0), 0) as valued,
                coalesce(sum(number * reporting_value), 0) as reporting_value,
                coalesce(
                    sum(number * reporting_value * win_probability), 0
                ) as weighted_reporting_value,
                coalesce(sum(number) filter (where reporting_value > 0), 0) as reporting_valued,
                coalesce(
                    sum(number) filter (where deal_value is not null and reporting_value is null), 0
                ) as without_rate
            from (%s) as deals
            cross join lateral coalesce(crm_outcome, 'OPEN') as outcome
            where deleted_at is null and outcome in ('OPEN', 'WON', 'LOST')
            group by 1, 2, 3, 4, 5
        ),
        before as (
            delete from public.opportunity_totals
            where ctid in (
                select totals.ctid
                from public.opportunity_totals as totals
                inner join changed on
                    totals.outcome = changed.outcome
                    and coalesce(totals.currency, '') = coalesce(changed.currency, '')
                    and coalesce(totals.stage, '') = coalesce(changed.stage, '')
                    and coalesce(totals.practice, '') = coalesce(changed.practice, '')
                    and totals.close_month is not distinct from changed.close_month
                where
                    (
                        changed.deals, changed.deal_value, changed.weighted_value, changed.valued,
                        changed.reporting_value, changed.weighted_reporting_value,
                        changed.reporting_valued, changed.without_rate
                    ) != (0, 0, 0, 0, 0, 0, 0, 0)
                for update of totals skip locked
            )
            returning *
        )
        insert into public.opportunity_totals
        select
            outcome, currency, stage, close_month, practice,
            sum(deals), sum(deal_value), sum(weighted_value), sum(valued),
            sum(reporting_value), sum(weighted_reporting_value), sum(reporting_valued),
            sum(without_rate)
        from (select * from changed union all select * from before) as rows
        group by 1, 2, 3, 4, 5
        having
            (
                sum(deals), sum(deal_value), sum(weighted_value), sum(valued),
                sum(reporting_value), sum(weighted_reporting_value), sum(reporting_valued),
                sum(without_rate)
            ) != (0, 0, 0, 0, 0, 0, 0, 0)
        $sql$,
        concat_ws(
            ' union all ',
            case when tg_op != 'INSERT' then 'select -1 as number, * from old_rows' end,
            case when tg_op != 'DELETE' then 'select 1 as number, * from new_rows' end
        )
    );
    return null;
end
$$;

create or replace trigger count_inserted after insert on opportunities
referencing new table as new_rows
for each statement execute function count_opportunities();
create or replace trigger count_updated after update on opportunities
referencing old table as old_rows new table as new_rows
for each statement execute function count_opportunities();
create or replace trigger count_deleted after delete on opportunities
referencing old table as old_rows
for each statement execute function count_opportunities();
create or replace trigger count_truncated after truncate on opportunities
for each statement execute function count_opportunities();
