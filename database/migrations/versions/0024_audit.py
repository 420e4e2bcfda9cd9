"""The audit trail records where from, and nothing in it changes."""

from alembic import op

revision = "0024"
down_revision = "0023"


def upgrade() -> None:
    """Extend `audit_log`; database/sql/functions/keep_audit_log.sql protects it."""
    op.execute(
        """
        alter table audit_log
            add address text,
            -- It would change entries when a user is deleted.
            drop constraint audit_log_user_id_fkey;
        create index audit_log_user_name on audit_log (user_name, id);
        comment on table audit_log is
            'Who signed in, read raw data, exported or changed something, newest last.';
        comment on column audit_log.address is 'The client''s; null: a command on the server.';
        """
    )
