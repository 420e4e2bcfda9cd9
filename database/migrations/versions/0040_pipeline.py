"""Since when the history of the deals tells what they were like."""

from alembic import op

revision = "0040"
down_revision = "0039"


def upgrade() -> None:
    """Note when the history of every column began."""
    op.execute(
        """
        -- Versions before kept the history of fewer columns, so what is older can't be told.
        alter table change_feed add complete_since timestamptz not null default now();
        comment on column change_feed.complete_since is
            'Since when each change of each column of a deal is kept.';
        -- For how long a deal was in a stage.
        create index opportunity_changes_of_places on opportunity_changes (opportunity_id, id)
        where field in ('stage', 'crm_outcome', 'deleted_at');
        """
    )
