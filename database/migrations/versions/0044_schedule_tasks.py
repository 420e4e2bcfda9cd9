"""Schedules know the tasks of their job, so that a run of it by hand is recognised."""

from alembic import op

revision = "0044"
down_revision = "0043"


def upgrade() -> None:
    """Extend `schedules`; the scheduler fills the column when it starts."""
    op.execute(
        """
        alter table schedules add tasks text;
        comment on column schedules.tasks is
            'What the job consists of, as run_logs.job has it.';
        """
    )
