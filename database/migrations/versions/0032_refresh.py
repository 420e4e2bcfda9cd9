"""A run may read one deal alone."""

from alembic import op

revision = "0032"
down_revision = "0031"


def upgrade() -> None:
    """Let `sync_runs` have runs of the kind `refresh`."""
    op.execute(
        """
        alter table sync_runs
            drop constraint sync_runs_kind_check,
            add constraint sync_runs_kind_check
                check (kind in ('sync', 'reconcile', 'partition', 'refresh', 'other'));
        """
    )
