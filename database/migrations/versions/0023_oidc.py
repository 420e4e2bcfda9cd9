"""Users of an identity provider, and admins who keep a password for emergencies."""

from alembic import op

revision = "0023"
down_revision = "0022"


def upgrade() -> None:
    """Extend `users` and `tokens`, and create `oidc_callbacks`."""
    op.execute(
        """
        alter table users
            add oidc_issuer text,
            add oidc_subject text,
            add is_break_glass boolean not null default false,
            add constraint users_oidc unique (oidc_issuer, oidc_subject),
            add constraint users_oidc_whole
                check ((oidc_issuer is null) = (oidc_subject is null));
        comment on column users.oidc_subject is
            'Who it is at the identity provider; null: a local user.';
        comment on column users.is_break_glass is
            'Made by a command: as an admin, signs in with a password even if passwords are off.';

        alter table tokens add id_token text;
        comment on column tokens.id_token is
            'The identity provider''s, for signing out there; null when the session is over.';

        create table oidc_callbacks (
            state_hash bytea primary key,
            at timestamptz not null default now()
        );
        comment on table oidc_callbacks is
            'The sign-ins of the last hour that came back from the provider: each works once.';
        """
    )
