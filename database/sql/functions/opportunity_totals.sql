-- The totals of the dashboard, so that it reads no deals. Each statement adds what it changed, in
-- its own transaction: who sees the deals sees the totals. It joins what it adds with the rows that
-- the group has, and leaves those which another transaction has: so no writer waits for another.

create table if not exists public.opportunity_totals (
    outcome text not null,
    currency text,
    stage text,
    close_month date,
    practice text,
    deals bigint not null,
    deal_value numeric not null,
    weighted_value numeric not null,
    valued bigint not null,
    reporting_value numeric not null,
    weighted_reporting_value numeric not null,
    reporting_valued bigint not null,
    without_rate bigint not null
);
comment on table public.opportunity_totals is
'Deals that the CRM has, added up: open ones by stage and close_month, decided ones by practice. '
'A group can have several rows, some negative: their sums count.';
comment on column public.opportunity_totals.weighted_value is 'deal_value * win_probability';
comment on column public.opportunity_totals.weighted_reporting_value is
'reporting_value * win_probability';
comment on column public.opportunity_totals.valued is 'Deals with a deal_value above 0.';
comment on column public.opportunity_totals.reporting_valued is
'Deals with a reporting_value above 0.';
comment on column public.opportunity_totals.without_rate is
'Deals with a deal_value and no reporting_value.';

create or replace function query_of_totals(deals text) returns text
language sql immutable parallel safe as $$
    select format(
        $sql$
        select
            outcome,
            nullif(currency, '') as currency,
            case when outcome = 'OPEN' then nullif(stage, '') end as stage,
            case
                when outcome = 'OPEN' then close_date - extract(day from close_date)::integer + 1
            end as close_month,
            case when outcome != 'OPEN' then nullif(practice, '') end as practice,
            sum(number) as deals,
            coalesce(sum(number * value), 0) as deal_value,
            coalesce(sum(number * value * chance), 0) as weighted_value,
            coalesce(sum(number) filter (where value > 0), 0) as valued,
            coalesce(sum(number * converted), 0) as reporting_value,
            coalesce(sum(number * converted * chance), 0) as weighted_reporting_value,
            coalesce(sum(number) filter (where converted > 0), 0) as reporting_valued,
            coalesce(
                sum(number) filter (where deal_value is not null and reporting_value is null), 0
            ) as without_rate
        from (%s) as deals
        cross join lateral coalesce(crm_outcome, 'OPEN') as outcome
        -- What is no finite number could not be subtracted again.
        cross join lateral (
            select
                case
                    when deal_value > '-infinity' and deal_value < 'infinity' then deal_value
                end as value,
                case
                    when reporting_value > '-infinity' and reporting_value < 'infinity'
                        then reporting_value
                end as converted,
                case
                    when win_probability > '-infinity' and win_probability < 'infinity'
                        then win_probability
                end as chance
        ) as finite
        where deleted_at is null and outcome in ('OPEN', 'WON', 'LOST')
        group by 1, 2, 3, 4, 5
        $sql$,
        deals
    )
$$;
comment on function query_of_totals is
'The query that adds up a query of deals, whose column number is -1 for those to be subtracted.';

create or replace function count_opportunities() returns trigger
language plpgsql security definer set search_path to pg_catalog, pg_temp as $$
begin
    if tg_op = 'TRUNCATE' then
        delete from public.opportunity_totals;
        return null;
    end if;
    -- Most edits of the bid team change nothing that is counted.
    if tg_op = 'UPDATE' then
        perform crm_outcome, deleted_at, currency, stage, close_date, practice, deal_value,
            win_probability, reporting_value
        from old_rows
        except all
        select
            crm_outcome, deleted_at, currency, stage, close_date, practice, deal_value,
            win_probability, reporting_value
        from new_rows;
        if not found then
            return null;
        end if;
    end if;
    execute format(
        $sql$
        with changed as (%s),
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
                    -- Under a stricter one, a row that is gone since would be an error.
                    current_setting('transaction_isolation') = 'read committed'
                    and (
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
        public.query_of_totals(
            concat_ws(
                ' union all ',
                case when tg_op != 'INSERT' then 'select -1 as number, * from old_rows' end,
                case when tg_op != 'DELETE' then 'select 1 as number, * from new_rows' end
            )
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

-- What was there before the triggers, and what was written while they were off. The triggers hold
-- a lock: nobody writes meanwhile. The API forgets what it keeps.
select
    nextval('opportunities_version') as of_deals,
    nextval('opportunity_values_version') as of_values;
delete from public.opportunity_totals;
do $$
begin
    execute 'insert into public.opportunity_totals '
        || query_of_totals('select 1 as number, * from public.opportunities');
end
$$;

create or replace function wrong_totals() returns bigint
language plpgsql stable as $$
declare
    found bigint;
begin
    execute format(
        $sql$
        with counted as (%s),
        kept as (
            select
                outcome, currency, stage, close_month, practice,
                sum(deals), sum(deal_value), sum(weighted_value), sum(valued),
                sum(reporting_value), sum(weighted_reporting_value), sum(reporting_valued),
                sum(without_rate)
            from public.opportunity_totals
            group by 1, 2, 3, 4, 5
            having
                (
                    sum(deals), sum(deal_value), sum(weighted_value), sum(valued),
                    sum(reporting_value), sum(weighted_reporting_value), sum(reporting_valued),
                    sum(without_rate)
                ) != (0, 0, 0, 0, 0, 0, 0, 0)
        )
        select count(distinct (outcome, currency, stage, close_month, practice)) from (
            (table counted except table kept) union all (table kept except table counted)
        ) as differing
        $sql$,
        public.query_of_totals('select 1 as number, * from public.opportunities')
    ) into found;
    return found;
end
$$;
comment on function wrong_totals is
'How many groups differ from what the deals add up to: 0, unless triggers were disabled.';
