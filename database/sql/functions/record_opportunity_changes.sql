create or replace function record_opportunity_changes() returns trigger
language plpgsql as $$
begin
    if current_setting('app.erasing', true) = 'on' then
        return null;  -- the history would keep what is erased
    end if;
    insert into opportunity_changes (
        opportunity_id, field, old_value, new_value, changed_by, run_id
    )
    select
        new_rows.id, change.field, change.old_value, change.new_value,
        nullif(current_setting('app.changed_by', true), ''),
        nullif(current_setting('app.run_id', true), '')::uuid
    from new_rows
    join old_rows on old_rows.id = new_rows.id
    cross join lateral (
        values
            ('opty_number', old_rows.opty_number, new_rows.opty_number),
            ('name', old_rows.name, new_rows.name),
            ('customer', old_rows.customer, new_rows.customer),
            ('practice', old_rows.practice, new_rows.practice),
            ('geo', old_rows.geo, new_rows.geo),
            ('region', old_rows.region, new_rows.region),
            ('sector', old_rows.sector, new_rows.sector),
            ('stage', old_rows.stage, new_rows.stage),
            ('status_code', old_rows.status_code, new_rows.status_code),
            ('crm_outcome', old_rows.crm_outcome, new_rows.crm_outcome),
            ('deal_value', old_rows.deal_value::text, case
                -- The same number in other digits is no change.
                when new_rows.deal_value = old_rows.deal_value then old_rows.deal_value::text
                else new_rows.deal_value::text
            end),
            ('currency', old_rows.currency, new_rows.currency),
            ('win_probability', old_rows.win_probability::text, case
                when new_rows.win_probability = old_rows.win_probability
                    then old_rows.win_probability::text
                else new_rows.win_probability::text
            end),
            ('close_date', old_rows.close_date::text, new_rows.close_date::text),
            ('sales_owner', old_rows.sales_owner, new_rows.sales_owner),
            ('workflow_status', old_rows.workflow_status, new_rows.workflow_status),
            ('deleted_at', old_rows.deleted_at::text, new_rows.deleted_at::text)

        union all

        -- A field that a deal has for the first time, or that has another type, is no change.
        select
            before.key,
            before.value #>> '{}',
            after.value #>> '{}'
        from jsonb_each(
                case when old_rows.custom is distinct from new_rows.custom then old_rows.custom end
            ) as before (key, value)
        inner join jsonb_each(new_rows.custom) as after (key, value) on before.key = after.key
        where
            before.value != after.value
            and not is_same_value(before.value, after.value)
    ) as change (field, old_value, new_value)
    where
        change.old_value is distinct from change.new_value
        -- A deal that was adopted from another system, and that the CRM shows for the first time.
        and not (
            old_rows.deleted_at is not null
            and new_rows.deleted_at is null
            and num_nonnulls(
                old_rows.opty_number, old_rows.status_code, old_rows.remote_created_at,
                old_rows.remote_updated_at
            ) = 0
        );
    return null;
end
$$;

create or replace trigger record_changes after update on opportunities
referencing old table as old_rows new table as new_rows
for each statement execute function record_opportunity_changes();
