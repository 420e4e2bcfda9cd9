"""What the dashboard shows, kept by each write: totals, and since when deals have their status."""

from alembic import op

revision = "0043"
down_revision = "0042"


def upgrade() -> None:
    """Create `opportunity_totals` and `opportunities.workflow_since`, and fill them."""
    op.execute(
        """
        -- What is written from here on, the triggers note: they come in the same transaction.
        lock table opportunities in share row exclusive mode;

        alter table opportunities add workflow_since timestamptz;
        comment on column opportunities.workflow_since is
            'When workflow_status changed last; null: it is the one of the first sync.';
        update opportunities
        set workflow_since = moved.at
        from (
            select opportunity_id, max(changed_at) as at
            from opportunity_changes
            where field = 'workflow_status'
            group by opportunity_id
        ) as moved
        where opportunities.id = moved.opportunity_id;

        create table opportunity_totals (
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
        comment on table opportunity_totals is
            'Deals that the CRM has, added up: open ones by stage and close_month, decided ones by'
            ' practice. A group can have several rows, some negative: their sums count.';
        comment on column opportunity_totals.weighted_value is 'deal_value * win_probability';
        comment on column opportunity_totals.weighted_reporting_value is
            'reporting_value * win_probability';
        comment on column opportunity_totals.valued is 'Deals with a deal_value above 0.';
        comment on column opportunity_totals.reporting_valued is
            'Deals with a reporting_value above 0.';
        comment on column opportunity_totals.without_rate is
            'Deals with a deal_value and no reporting_value.';

        insert into opportunity_totals
        select
            coalesce(crm_outcome, 'OPEN'),
            nullif(currency, ''),
            case when coalesce(crm_outcome, 'OPEN') = 'OPEN' then nullif(stage, '') end,
            case when coalesce(crm_outcome, 'OPEN') = 'OPEN'
                then date_trunc('month', close_date::timestamp)::date end,
            case when crm_outcome in ('WON', 'LOST') then nullif(practice, '') end,
            count(*),
            coalesce(sum(deal_value), 0),
            coalesce(sum(deal_value * win_probability), 0),
            count(*) filter (where deal_value > 0),
            coalesce(sum(reporting_value), 0),
            coalesce(sum(reporting_value * win_probability), 0),
            count(*) filter (where reporting_value > 0),
            count(*) filter (where deal_value is not null and reporting_value is null)
        from opportunities
        where deleted_at is null and coalesce(crm_outcome, 'OPEN') in ('OPEN', 'WON', 'LOST')
        group by 1, 2, 3, 4, 5;

        create index opportunities_open_by_deal_value on opportunities
        (coalesce(currency, ''), deal_value, id)
        where coalesce(crm_outcome, 'OPEN') = 'OPEN' and deleted_at is null;
        create index opportunities_open_by_reporting_value on opportunities (reporting_value, id)
        where coalesce(crm_outcome, 'OPEN') = 'OPEN' and deleted_at is null;
        -- With the columns themselves, so that it can be read without the table.
        create index opportunities_open_by_workflow_since on opportunities
        (workflow_status, coalesce(workflow_since, first_synced_at))
        include (workflow_since, first_synced_at)
        where coalesce(crm_outcome, 'OPEN') = 'OPEN' and deleted_at is null;
        """
    )
