"""The people who own deals in the CRM, for their names."""

from alembic import op

revision = "0018"
down_revision = "0017"


def upgrade() -> None:
    """Create `sales_owners`, which dbt fills where the stream `resources` is selected."""
    op.execute(
        """
        create table sales_owners (
            remote_id text primary key,
            name text,
            email text,
            last_synced_at timestamptz not null default now()
        );
        comment on table sales_owners is
            'Who sales_owner of an opportunity is; empty unless the pipeline reads resources.';
        """
    )
