"""What the dashboard needs so that it reads few deals."""

from alembic import op

revision = "0043"
down_revision = "0042"


def upgrade() -> None:
    """Add `opportunities.workflow_since` and indexes of the open deals."""
    op.execute(
        """
        -- What is written from here on, a trigger notes: it comes in the same transaction.
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
