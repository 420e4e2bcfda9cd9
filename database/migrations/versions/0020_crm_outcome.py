"""What the CRM says of a deal, whatever codes a customer has: OPEN, WON, LOST or CLOSED."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    """Add `crm_outcome`, the rules that it comes from, and the codes that no rule knows."""
    op.execute(
        """
        create table declared_outcomes (
            section text not null check (section in ('statuses', 'stages')),
            name text not null,
            outcome text not null check (outcome in ('OPEN', 'WON', 'LOST', 'CLOSED')),
            primary key (section, name)
        );
        comment on table declared_outcomes is
            'What crm.yml says of status codes and stages, as the last run read it.';

        create table status_outcomes (
            code text primary key,
            outcome text check (outcome in ('OPEN', 'WON', 'LOST', 'CLOSED')),
            source text not null
                check (source in ('declared', 'crm', 'row', 'predefined', 'unknown'))
        );
        comment on table status_outcomes is
            'Each status code that was declared, listed or seen: its outcome, and who says so.';
        """
    )
    op.execute(
        r"""
        alter table opportunities
            add crm_outcome text check (crm_outcome in ('OPEN', 'WON', 'LOST', 'CLOSED')),
            add unknown_status_code text;
        comment on column opportunities.crm_outcome is
            'What the CRM says of the deal; null: its status is not known, and it counts as open.';
        comment on column opportunities.unknown_status_code is
            'The CRM''s code of the deal while nothing tells what it means.';

        -- The first sync judges all deals. Until then a deal is as closed as it was.
        update opportunities
        set crm_outcome = case
            when workflow_status_before_close is not null then workflow_status else 'OPEN'
        end
        where workflow_status in ('WON', 'LOST', 'CLOSED')
                and workflow_status_before_close is not null
            or workflow_status_before_close is null and status_code ~* '^\s*open\s*$';

        -- Few deals, or none; the codes can be longer than an index entry may be.
        create index opportunities_of_unknown_status_code on opportunities (id)
        where unknown_status_code is not null;
        create index opportunities_without_crm_outcome on opportunities (id)
        where crm_outcome is null and unknown_status_code is null;

        create view unknown_statuses as
        select 'statuses' as section, unknown_status_code as name, count(*) as deals
        from opportunities
        where unknown_status_code is not null and deleted_at is null
        group by unknown_status_code
        union all
        -- Without any code the stage is all there is to go by.
        select 'stages', stage, count(*)
        from opportunities
        where
            crm_outcome is null and unknown_status_code is null
            and stage ~ '\S' and deleted_at is null
        group by stage;
        comment on view unknown_statuses is
            'What crm.yml could explain: status codes, and stages of deals that have no code.';
        """
    )
    op.execute(
        """
        create or replace function record_opportunity_changes() returns trigger
        language plpgsql as $$
        begin
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
                    ('deal_value', old_rows.deal_value::text, new_rows.deal_value::text),
                    ('currency', old_rows.currency, new_rows.currency),
                    ('win_probability',
                        old_rows.win_probability::text, new_rows.win_probability::text),
                    ('close_date', old_rows.close_date::text, new_rows.close_date::text),
                    ('sales_owner', old_rows.sales_owner, new_rows.sales_owner),
                    ('workflow_status', old_rows.workflow_status, new_rows.workflow_status),
                    ('deleted_at', old_rows.deleted_at::text, new_rows.deleted_at::text)
            ) as change (field, old_value, new_value)
            where change.old_value is distinct from change.new_value;
            return null;
        end
        $$;
        """
    )
