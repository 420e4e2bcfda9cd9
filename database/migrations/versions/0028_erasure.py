"""People can be erased, and stay erased when the CRM sends them again."""

from alembic import op

revision = "0028"
down_revision = "0027"


def upgrade() -> None:
    """Extend `users`, and create `erased_owners`."""
    op.execute(
        """
        alter table users add erased_at timestamptz;
        comment on column users.erased_at is
            'When the personal data went. The row stays, for what refers to it.';

        create table erased_owners (
            remote_id text primary key,
            email_hashes bytea[] not null,
            erased_at timestamptz not null default now()
        );
        comment on table erased_owners is
            'Owners of deals whose names and e-mails were erased: syncs leave them out.';
        comment on column erased_owners.email_hashes is
            'SHA-256 of the e-mails in small letters: they may stand elsewhere in a record.';
        """
    )
