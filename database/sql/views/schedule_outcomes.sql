create or replace view schedule_outcomes as
select
    schedules.name,
    case
        when schedules.last_succeeded or later.has_succeeded then 'SUCCESS'
        when schedules.last_run_at is null then null
        when schedules.last_succeeded is null then 'RUNNING'
        -- Whoever cancels a run does not want it, but mends no failure before it.
        when later.is_cancelled and coalesce(last_run.status, 'SUCCESS') = 'SUCCESS'
            then 'CANCELLED'
        else 'FAILED'
    end as outcome,
    case when last_run.status = 'FAILED' then last_run.error_message end as reason
from schedules
left join lateral (
    select
        runs.status,
        runs.error_message
    from run_logs as runs
    where
        schedules.last_succeeded = false
        and (runs.job = schedules.tasks or runs.kind = schedules.job)
        and runs.status != 'RUNNING' and runs.end_reason != 'cancelled'
    order by runs.id desc
    limit 1
) as last_run on true
-- An attempt that can't begin leaves no run: a success before it tells nothing of it.
left join lateral (
    select
        bool_or(
            runs.status = 'SUCCESS' and runs.started_at >= schedules.last_run_at
            -- Of such a run the scheduler knows more than the log: its exit code.
            and (runs.kind != 'other' or runs.trigger is distinct from 'schedule')
        ) as has_succeeded,
        -- An attempt is a run of the scheduler, or one that was under way when it was due.
        bool_or(
            runs.end_reason = 'cancelled'
            and (runs.trigger = 'schedule' or runs.started_at < schedules.last_run_at)
        ) as is_cancelled
    from run_logs as runs
    where
        schedules.last_succeeded = false
        and (runs.job = schedules.tasks or runs.kind = schedules.job)
        and runs.completed_at >= schedules.last_run_at
) as later on true;
comment on view schedule_outcomes is
'How the last run of each schedule ended. After a failure, a later success of the same job counts, '
'whoever started it. Null: it has not run yet.';
