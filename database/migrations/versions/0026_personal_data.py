"""Services are marked as such: who has no password yet is none."""

from alembic import op

revision = "0026"
down_revision = "0025"


def upgrade() -> None:
    """Extend `users`."""
    op.execute(
        """
        alter table users add is_service boolean not null default false;
        comment on column users.is_service is 'It holds tokens, and never has a password.';
        -- `make adopt` also took over people without a password. They hold no tokens.
        update users
        set is_service = true
        where password_hash is null
            and oidc_subject is null
            and exists (select from tokens where user_id = users.id and kind = 'personal');
        """
    )
