create or replace view run_logs as
with judged as (
    select
        runs.*,
        case
            -- Whatever a process still does that was told to end, it is no success.
            when runs.cancelled_by is not null
                then case when sync_run_is_alive(runs) then 'RUNNING' else 'FAILED' end
            when runs.load_succeeded is false or runs.transform_succeeded is false then 'FAILED'
            -- A loader that is told to stop does so without a word of failure.
            when runs.kind in ('sync', 'reconcile', 'refresh') and runs.transform_succeeded
                and runs.extraction_completed is not false then 'SUCCESS'
            when sync_run_is_alive(runs) then 'RUNNING'
            when runs.kind = 'partition'
                and runs.load_succeeded
                and runs.extraction_completed is not false
                then 'SUCCESS'
            when runs.kind = 'other'
                and runs.ended_at is not null
                and runs.error_message is null
                and not runs.died
                then 'SUCCESS'
            else 'FAILED'
        end as status
    from sync_runs as runs
    where runs.heartbeat_at is not null or runs.ended_at is not null
),

ended as (
    select
        *,
        case when died or ended_at is null then 'died' else 'ended' end as how,
        case
            when status != 'RUNNING' then greatest(transform_completed_at, ended_at, heartbeat_at)
        end as completed_at
    from judged
)

select
    id,
    run_id,
    kind,
    job,
    coalesce(
        sync_type,
        -- It failed before it read anything: what it set out to be.
        case
            when exists (
                    select from sync_runs as earlier
                    where earlier.kind = ended.kind and earlier.id < ended.id
                        and earlier.load_succeeded
                ) then 'INCREMENTAL'
            else 'FULL'
        end
    ) as sync_type,
    status,
    case
        when new_records is not null
            then new_records + updated_records + unchanged_records
                + coalesce(failed_records, records_rejected, 0)
        else coalesce(records_fetched, 0) + coalesce(records_rejected, 0)
    end as total_fetched,
    coalesce(new_records, 0) as new_records,
    coalesce(updated_records, 0) as updated_records,
    coalesce(unchanged_records, 0) as unchanged_records,
    coalesce(failed_records, records_rejected, 0) as failed_records,
    case
        when status = 'RUNNING' then null
        when cancelled_by is not null then 'Cancelled by ' || cancelled_by || '.'
        when status != 'FAILED' or error_message is not null then error_message
        when load_succeeded and not extraction_completed
            then 'The loader stopped before all was read. The next sync continues from there.'
        when kind = 'other' then 'The run ' || how || '.'
        when load_succeeded and transform_started_at is null
            then 'Loaded, but not merged: dbt did not start. The next sync merges it.'
        when load_succeeded
            then 'The run ' || how || ' while it merged. The next sync merges what was loaded.'
        when observed_at is null then 'The run ' || how || ' before it began to load.'
        else 'The run ' || how || ' while it loaded. The next sync goes on from what was kept.'
    end as error_message,
    case
        when status = 'RUNNING' then null
        when status = 'FAILED' and cancelled_by is not null then 'cancelled'
        when status = 'SUCCESS' and coverage = 'partial' then 'partial'
        when status = 'SUCCESS' then 'done'
        else case how when 'died' then 'died' else 'failed' end
    end as end_reason,
    trigger,
    requested_by,
    cancelled_by,
    coverage,
    started_at,
    completed_at,
    round(extract(epoch from completed_at - started_at), 3) as duration_seconds
from ended;
comment on view run_logs is
'One row for each run of Meltano, whatever it ran and however it ended.';
