"""A merge into an empty table builds its indexes afterwards."""

from alembic import op

revision = "0025"
down_revision = "0024"


def upgrade() -> None:
    """Create the table that remembers them; database/sql/functions/deferred_indexes.sql uses it."""
    op.execute(
        """
        create table deferred_indexes (
            name text primary key,
            definition text not null
        );
        comment on table deferred_indexes is
            'Indexes of opportunities that the merge under way builds at its end.';
        """
    )
