"""A field's line in crm.yml has changed: what it said before."""

from alembic import op

revision = "0038"
down_revision = "0037"


def upgrade() -> None:
    """Extend `declared_fields`."""
    op.execute(
        """
        alter table declared_fields
            add previous_attribute text,
            add previous_type text,
            add changed_at timestamptz;
        """
    )
