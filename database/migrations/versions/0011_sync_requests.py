"""Syncs that were asked for, so that one shows from the moment it was started."""

from alembic import op

revision = "0011"
down_revision = "0010"


def upgrade() -> None:
    """Create `sync_requests`, and the view `syncs` over it and `sync_logs`."""
    op.execute(
        """
        create table sync_requests (
            run_id uuid primary key,
            sync_type text not null check (sync_type in ('FULL', 'INCREMENTAL')),
            trigger text not null,
            requested_by text,
            requested_at timestamptz not null default clock_timestamp(),
            host text not null,
            pid integer,
            process_started_at double precision,
            cancelled_by text,
            ended_at timestamptz,
            error_message text
        );
        create index sync_requests_unsettled on sync_requests (requested_at)
        where ended_at is null;
        comment on table sync_requests is
            'The processes of syncs: from when orchestrate/sync.py started them, before Meltano '
            'has recorded the run, and of those that someone started otherwise.';

        create view syncs as
        select
            id, run_id, sync_type, status, total_fetched, new_records, updated_records,
            failed_records, error_message, started_at, completed_at, duration_seconds
        from sync_logs
        union all
        select
            null, run_id, sync_type,
            case when ended_at is null then 'RUNNING' else 'FAILED' end,
            0, 0, 0, 0, error_message, requested_at, ended_at,
            round(extract(epoch from ended_at - requested_at), 3)
        from sync_requests as requests
        where (ended_at is null or error_message is not null)
            and not exists (select from sync_loads where sync_loads.run_id = requests.run_id);
        comment on view syncs is
            'sync_logs, and the runs that were started and not recorded by Meltano, yet or ever.';
        """
    )
