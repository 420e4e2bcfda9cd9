"""Searches that are quick while a sync writes."""

from alembic import op

revision = "0042"
down_revision = "0041"


def upgrade() -> None:
    """Keep what the index of the search has yet to sort in as short as its definition says now."""
    op.execute("alter index if exists opportunities_search set (gin_pending_list_limit = 128)")
