"""Incidents can grow, and each service of NOTIFY_URLS has its own record of messages."""

from alembic import op

revision = "0021"
down_revision = "0020"


def upgrade() -> None:
    """Add what makes an incident grow, and the table `notifications`."""
    op.execute(
        """
        -- Each code had an incident of its own. Now there is one for all of them.
        update incidents set closed_at = clock_timestamp()
        where closed_at is null and starts_with(kind, 'status ');

        -- Which service accepted a message was not recorded, so open incidents are sent once more.
        alter table incidents
            drop opening_notified_at,
            drop closing_notified_at,
            add revision integer not null default 1,
            add causes text[] not null default '{}',
            add size bigint;
        comment on table incidents is 'Problems with the syncs, open and past.';
        comment on column incidents.revision is
            '1 when it opens, and one more each time it has a new cause or has doubled.';
        comment on column incidents.size is 'The number of records at the last revision.';

        create table notifications (
            incident_id bigint not null references incidents on delete cascade,
            service integer not null,
            sent_revision integer,
            sent_at timestamptz,
            end_sent boolean not null default false,
            attempts bigint not null,
            failures integer not null,
            next_attempt_at timestamptz not null,
            primary key (incident_id, service)
        );
        comment on table notifications is
            'The messages about incidents that the services of NOTIFY_URLS, by number, accepted.';
        comment on column notifications.failures is 'Failed attempts since the last success.';
        """
    )
