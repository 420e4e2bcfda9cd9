"""Runs that read one CRM share its limits."""

from alembic import op

revision = "0033"
down_revision = "0032"


def upgrade() -> None:
    """Create the table of calls."""
    op.execute(
        """
        create table crm_calls (
            account text not null,
            process text not null,
            minute timestamptz not null,
            calls integer not null,
            served integer,
            seen_at timestamptz not null default clock_timestamp(),
            primary key (account, process, minute)
        );
        comment on table crm_calls is
            'The calls of the last hours that each process sent with an account of the CRM.';
        comment on column crm_calls.served is
            'How many requests at once the CRM serves to all processes, if it refused more.';
        """
    )
