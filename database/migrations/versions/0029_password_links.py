"""Links with which people set their passwords themselves."""

from alembic import op

revision = "0029"
down_revision = "0028"


def upgrade() -> None:
    """Create `password_links`."""
    op.execute(
        """
        create table password_links (
            user_id bigint primary key references users on delete cascade,
            secret_hash bytea not null unique,
            created_at timestamptz not null default now(),
            expires_at timestamptz not null
        );
        comment on table password_links is
            'The newest link of each user to set a password, until it is used.';
        comment on column password_links.secret_hash is
            'SHA-256 of the secret in the link: it has 256 random bits.';
        """
    )
