"""Who wants a digest of Today each day."""

from alembic import op

revision = "0041"
down_revision = "0040"


def upgrade() -> None:
    """Create the table of digests."""
    op.execute(
        """
        create table digests (
            user_id bigint primary key references users on delete cascade,
            seen_xid xid8 not null default pg_snapshot_xmin(pg_current_snapshot()),
            sent_at timestamptz not null default now(),
            tried_at timestamptz not null default now()
        );
        comment on table digests is
            'Who wants one, and up to where in the order of changes the last one has told.';
        """
    )
