"""The log of the syncs: a view over what Meltano, its processes and dbt each know of a run."""

from alembic import op

revision = "0002"
down_revision = "0001"


def upgrade() -> None:
    """Create `sync_runs`, which the recorder and dbt write, and the view `sync_logs`."""
    op.execute(
        """
        create table sync_runs (
            run_id uuid primary key,
            sync_type text check (sync_type in ('FULL', 'INCREMENTAL')),
            records_claimed bigint,
            records_fetched bigint,
            records_rejected bigint,
            extraction_completed boolean,
            error_message text,
            observed_at timestamptz,
            transform_started_at timestamptz,
            transform_completed_at timestamptz,
            transform_succeeded boolean,
            new_records bigint,
            updated_records bigint,
            quarantined_records bigint,
            loaded_until timestamptz
        );
        comment on table sync_runs is
            'What Meltano''s own table of runs does not know: what was observed of a run while '
            'it loaded (orchestrate/run_recorder.py) and what dbt merged.';
        comment on column sync_runs.loaded_until is
            'The time stamp of the newest raw row that the merge has seen.';
        """
    )
    op.execute(
        """
        create function sync_run_is_alive(run uuid) returns boolean language sql stable as $$
            -- The Meltano process of a run holds this lock as long as it lives.
            select exists (
                select from pg_locks
                where locktype = 'advisory'
                    and database = (select oid from pg_database where datname = current_database())
                    and (classid::bigint << 32) | objid::bigint = hashtextextended(run::text, 0)
                    and objsubid = 1
                    and granted
            )
        $$;

        -- It was over Meltano's own table of runs, which may change with any release of Meltano's.
        -- No later migration needs more of it than that a new database has no runs.
        create view sync_loads as
        select
            null::bigint as id,
            null::uuid as run_id,
            null::text as job_name,
            null::text as state,
            null::text as trigger,
            null::timestamptz as started_at,
            null::timestamptz as ended_at,
            null::timestamptz as last_heartbeat_at,
            null::text as error
        where false;
        comment on view sync_loads is 'The runs of the pipeline as Meltano knows them.';
        """
    )
    op.execute(
        """
        create view sync_logs as
        with judged as (
            select
                loads.id,
                loads.job_name,
                loads.state,
                loads.started_at as load_started_at,
                loads.ended_at,
                loads.last_heartbeat_at,
                loads.error,
                loads.run_id as load_run_id,
                runs.*,
                case
                    when loads.state = 'FAIL' then 'FAILED'
                    when not runs.transform_succeeded then 'FAILED'
                    -- A loader that is told to stop does so without a word of failure.
                    when runs.transform_succeeded and runs.extraction_completed is not false
                        then 'SUCCESS'
                    when sync_run_is_alive(loads.run_id) then 'RUNNING'
                    else 'FAILED'
                end as status
            from sync_loads as loads
            left join sync_runs as runs on runs.run_id = loads.run_id
        )
        select
            id,
            load_run_id as run_id,
            coalesce(
                sync_type,
                -- It failed before it read anything: what it set out to be.
                case
                    when exists (
                        select from sync_loads as earlier
                        where earlier.job_name = judged.job_name
                            and earlier.id < judged.id
                            and earlier.state = 'SUCCESS'
                    ) then 'INCREMENTAL'
                    else 'FULL'
                end
            ) as sync_type,
            status,
            coalesce(records_fetched, 0) as total_fetched,
            coalesce(new_records, 0) as new_records,
            coalesce(updated_records, 0) as updated_records,
            coalesce(records_rejected, 0) + coalesce(quarantined_records, 0) as failed_records,
            case
                when status != 'FAILED' or error_message is not null then error_message
                when state = 'FAIL' then error
                when state = 'SUCCESS' and not extraction_completed then
                    'The loader stopped before all was read. The next sync goes on from there.'
                when state = 'RUNNING' then
                    'The run died while it loaded. The next sync goes on from what was kept.'
                when transform_started_at is null then
                    'Loaded, but not merged: dbt did not start. The next sync merges it.'
                else 'The run died while it merged. The next sync merges what was loaded.'
            end as error_message,
            load_started_at as started_at,
            completed.at as completed_at,
            round(extract(epoch from completed.at - load_started_at), 3) as duration_seconds
        from judged
        cross join lateral (
            select case
                when status != 'RUNNING' then
                    greatest(transform_completed_at, ended_at, last_heartbeat_at)
            end as at
        ) as completed;
        comment on view sync_logs is 'One row for each run of the pipeline, however it ended.';
        """
    )
