"""A sync that was cancelled says so, and by whom."""

from alembic import op

revision = "0015"
down_revision = "0014"


def upgrade() -> None:
    """Let `syncs` give the cancelling as the reason of the failure."""
    op.execute(
        """
        create or replace view syncs as
        select
            logs.id, logs.run_id, logs.sync_type, logs.status, logs.total_fetched,
            logs.new_records, logs.updated_records, logs.failed_records,
            case
                when logs.status = 'FAILED' and requests.cancelled_by is not null
                    then 'Cancelled by ' || requests.cancelled_by || '.'
                else logs.error_message
            end as error_message,
            logs.started_at, logs.completed_at, logs.duration_seconds
        from sync_logs as logs
        left join sync_requests as requests on requests.run_id = logs.run_id
        union all
        select
            null, run_id, sync_type,
            case when ended_at is null then 'RUNNING' else 'FAILED' end,
            0, 0, 0, 0, error_message, requested_at, ended_at,
            round(extract(epoch from ended_at - requested_at), 3)
        from sync_requests as requests
        where (ended_at is null or error_message is not null)
            and not exists (select from sync_loads where sync_loads.run_id = requests.run_id);
        """
    )
