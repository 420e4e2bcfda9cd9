"""Deals are found by their numbers in the CRM."""

from alembic import op

revision = "0034"
down_revision = "0033"


def upgrade() -> None:
    """Create the indexes for OptyNumber and OptyId: whole, or how they begin."""
    op.execute(
        """
        -- A number can be longer than an index entry may be.
        create index opportunities_by_opty_number on opportunities
        (lower(left(opty_number, 200)) text_pattern_ops);
        -- The unique index has the order of the database's language, which `like` cannot use.
        create index opportunities_by_start_of_remote_id on opportunities
        (remote_id text_pattern_ops);
        """
    )
