"""What the scheduler runs, and when next."""

from alembic import op

revision = "0003"
down_revision = "0002"


def upgrade() -> None:
    """Create `schedules`, which the scheduler writes and API and console read."""
    op.execute(
        """
        create table schedules (
            name text primary key,
            job text not null,
            interval text not null,
            timezone text not null,
            next_run_at timestamptz,
            last_run_at timestamptz,
            last_succeeded boolean,
            attempt integer not null default 1,
            heartbeat_at timestamptz not null default now()
        );
        comment on table schedules is
            'Meltano''s schedules as the scheduler knows them. A next_run_at that is past when it '
            'starts was missed, and is made up for.';
        """
    )
