-- A value in the reporting currency. The CRM's own rate comes first, if it is into this currency:
-- it is the one of the deal. Else the declared rate counts.
create or replace function in_reporting_currency(
    deal_value numeric,
    currency text,
    crm_rate numeric,
    crm_rate_currency text,
    reporting text,
    rates jsonb
) returns numeric
language sql immutable parallel safe as $$
    select case
        when currency = reporting then deal_value
        when crm_rate_currency = reporting and crm_rate > 0 then round(deal_value * crm_rate, 2)
        when reporting is not null then round(deal_value * (rates ->> currency)::numeric, 2)
    end
$$;
comment on function in_reporting_currency is
'A value in the reporting currency; null: there is none, or no rate.';

-- Which of them that is, for those who ask why.
create or replace function source_of_rate(
    currency text,
    crm_rate numeric,
    crm_rate_currency text,
    reporting text,
    rates jsonb
) returns text
language sql immutable parallel safe as $$
    select case
        when currency = reporting then 'same'
        when crm_rate_currency = reporting and crm_rate > 0 then 'crm'
        when reporting is not null and rates ? currency then 'declared'
    end
$$;
comment on function source_of_rate is
'same: the currency is the reporting one; crm: the deal''s own; declared: in crm.yml; null: none.';

-- Each merge calls this first. It converts every deal, also those that the merge does not touch,
-- but only if other rates are declared now. The history has no row of it.
create or replace function convert_deals() returns void
language plpgsql as $$
declare
    declared jsonb := coalesce(
        (
            select content::jsonb from declarations
            where section = 'currency' order by id desc limit 1
        ),
        '{"rates": {}}'
    );
begin
    if exists (
        select from reporting_currency
        where currency is not distinct from declared ->> 'reporting'
            and rates = declared -> 'rates'
    ) then
        return;
    end if;
    -- A merge that is under way may insert deals that this transaction does not see.
    perform pg_advisory_xact_lock(hashtextextended('oracle_crm_sync.merge.opportunities', 0));
    delete from reporting_currency;
    insert into reporting_currency (currency, rates)
    values (declared ->> 'reporting', declared -> 'rates');
    update opportunities as deal
    set reporting_value = in_reporting_currency(
        deal.deal_value, deal.currency, deal.crm_rate, deal.crm_rate_currency,
        reporting.currency, reporting.rates
    )
    from reporting_currency as reporting
    where deal.reporting_value is distinct from in_reporting_currency(
        deal.deal_value, deal.currency, deal.crm_rate, deal.crm_rate_currency,
        reporting.currency, reporting.rates
    );
end
$$;
comment on function convert_deals is
'Converts all deals anew, if crm.yml declares another reporting currency or other rates.';
