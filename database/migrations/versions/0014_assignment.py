"""Deals are assigned to people."""

from alembic import op

revision = "0014"
down_revision = "0013"


def upgrade() -> None:
    """Add `assigned_to` to the opportunities."""
    op.execute(
        """
        alter table opportunities add assigned_to bigint references users on delete set null;
        create index opportunities_by_assigned_to on opportunities (assigned_to)
        where assigned_to is not null;
        comment on column opportunities.assigned_to is 'Who of the bid team works on it.';
        """
    )
