"""Tokens have scopes, sessions show where they come from, and sign-ins are slowed down by both."""

import unicodedata

import sqlalchemy as sa
from alembic import op

revision = "0022"
down_revision = "0021"


def upgrade() -> None:
    """Extend `tokens` and `sign_in_attempts`, and give user names one spelling."""
    op.execute(
        """
        alter table tokens
            -- Tokens from before may go on doing what their users may.
            add scopes text[] not null default '{read,workflow,sync,admin}'
                check (scopes <@ '{read,workflow,sync,admin}'),
            add parent_id bigint references tokens on delete cascade,
            add confirmed_at timestamptz,
            add address text,
            add browser text,
            add signed_in_from text;
        create index tokens_parent on tokens (parent_id) where parent_id is not null;
        comment on column tokens.parent_id is 'The API token that a session was begun with.';
        comment on column tokens.confirmed_at is 'When the password was last given in a session.';
        comment on column tokens.address is 'Where it was last used.';
        comment on column tokens.signed_in_from is
            'The address, or network, of a sign-in with the right password.';

        alter table sign_in_attempts
            add session_id bigint,
            add is_known boolean not null default false,
            add is_forgiven boolean not null default false;
        create index sign_in_attempts_name on sign_in_attempts (name, at);
        comment on column sign_in_attempts.session_id is
            'The session of the user that the attempt was made in, or from the browser of.';
        comment on column sign_in_attempts.is_known is
            'The user has signed in from there before.';
        comment on column sign_in_attempts.is_forgiven is
            'It slows nobody down any more: a sign-in succeeded, or an admin said so.';
        """
    )
    users = sa.table("users", sa.column("id"), sa.column("name"))
    connection = op.get_bind()
    named = connection.execute(sa.select(users.c.id, users.c.name)).all()
    taken = {name.lower() for _, name in named}
    for user_id, name in named:
        unified = unicodedata.normalize("NFKC", name)
        # Who is in the way of another keeps the name as it is, and can still be barred.
        if unified != name and unified.lower() not in taken and len(unified) <= 100:
            taken.add(unified.lower())
            change = users.update().where(users.c.id == user_id).values(name=unified)
            connection.execute(change)
