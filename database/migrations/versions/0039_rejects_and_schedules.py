"""Rejects know the run that met them last, and schedules can be paused and started."""

from alembic import op

revision = "0039"
down_revision = "0038"


def upgrade() -> None:
    """Add the run of rejects, and what administrators want of schedules."""
    op.execute(
        """
        alter table rejected_records add last_run_id uuid;
        create index rejected_records_by_last_run on rejected_records (last_run_id);
        comment on column rejected_records.last_run_id is
            'The run that merged it last. Null: no run since the release that added this column.';

        alter table schedules
            add paused_at timestamptz,
            add paused_by text,
            add wanted_by text;
        comment on column schedules.paused_at is
            'Since when it does not run. What is due meanwhile is not made up for.';
        comment on column schedules.wanted_by is
            'Who wants it to run now; the scheduler takes the order by emptying this.';
        """
    )
