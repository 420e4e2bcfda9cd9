create or replace view sync_logs as
select
    id,
    run_id,
    sync_type,
    status,
    total_fetched,
    new_records,
    updated_records,
    unchanged_records,
    failed_records,
    error_message,
    end_reason,
    started_at,
    completed_at,
    duration_seconds
from run_logs
where kind = 'sync';
comment on view sync_logs is 'One row for each sync, whoever started it and however it ended.';
