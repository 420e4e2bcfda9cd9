"""Runs have numbers, loads a fence and merges their own marks; the raw tables are ours.

Until now clocks of the machines that loaded decided which row was newer. Now the database
counts: runs, batches, and up to which batch each model has merged.
"""

from pathlib import Path
from typing import Any

from alembic import op
from sqlalchemy import text

revision = "0019"
down_revision = "0018"

RAW = Path(__file__).parent.parent / "raw.sql"
STREAMS = ("opportunities", "rejected_records", "accounts", "resources", "revenue_lines")


def upgrade() -> None:
    """Create what counts, make one table of runs, and move the raw rows to tables of ours."""
    op.execute(
        """
        create table load_fence (
            only_row boolean primary key default true check (only_row),
            run_number bigint not null default 0,
            batch bigint not null default 0,
            began_after bigint not null default 0
        );
        comment on table load_fence is
            'The number of the run that may load, of the last batch that was loaded, and of the '
            'last one before that run. Each batch counts one up in its own transaction, so a run '
            'that was superseded fails.';
        insert into load_fence default values;

        create table merge_marks (
            model text primary key,
            merged_until bigint not null default 0,
            merging_from bigint not null default 0,
            merging_until bigint not null default 0,
            rules text
        );
        comment on table merge_marks is
            'For each model that merges: the last batch that it has merged, after which and up to '
            'which the merge under way looks, and the rules that it merged by.';
        """
    )
    _make_one_table_of_runs()
    op.execute(VALIDITY_16 if _server_version() >= 160_000 else VALIDITY_15)
    _move_raw_rows()
    op.execute(CUSTOM_ATTRIBUTES)
    op.execute(
        """
        alter table opportunity_changes add run_id uuid;
        comment on column opportunity_changes.run_id is
            'The run that merged the change; null for a user''s.';
        """
    )
    op.execute("alter table rejected_records add rejected_in bigint not null default 0")
    op.execute(
        """
        create table reconciliations (
            run_id uuid primary key references sync_runs on delete cascade,
            compared bigint not null,
            corrected bigint not null,
            corrected_fields jsonb not null,
            changed bigint not null,
            missed bigint not null,
            new bigint not null,
            gone bigint not null,
            failed bigint not null,
            proves_absence boolean not null,
            completed_at timestamptz not null default clock_timestamp()
        );
        comment on table reconciliations is
            'What each complete comparison with the CRM found. Changed: deals that the next sync '
            'would have brought; corrected: all others that differed; missed: those of them that '
            'an earlier sync should have brought.';

        create function reconciliation_in_words(found reconciliations) returns text
        language sql stable as $$
            select
                to_char(found.compared, 'FM999,999,999,990') || ' compared: '
                || to_char(found.corrected, 'FM999,999,999,990') || ' corrected'
                || coalesce(
                    ' (' || (
                        select string_agg(
                            value || ' ' || key, ', ' order by value::bigint desc, key
                        )
                        from jsonb_each_text(found.corrected_fields)
                    ) || ')',
                    ''
                )
                || ', ' || to_char(found.new, 'FM999,999,999,990') || ' new, '
                || case when found.proves_absence
                    then to_char(found.gone, 'FM999,999,999,990') || ' gone'
                    else 'and what is gone is not known, since not all was read as syncs read it'
                end
                || case when found.changed > 0
                    then ', ' || to_char(found.changed, 'FM999,999,999,990')
                        || ' changed since the last sync'
                    else '' end
                || case when found.failed > 0
                    then ', ' || to_char(found.failed, 'FM999,999,999,990')
                        || ' could not be loaded'
                    else '' end
                || case when found.missed > 0
                    then '. A sync should have brought '
                        || to_char(found.missed, 'FM999,999,999,990') || ' of the corrected deals'
                    else '' end
        $$;
        """
    )


def _make_one_table_of_runs() -> None:
    op.execute(
        """
        create temporary table logged on commit drop as
        select distinct on (logs.run_id)
            logs.id, logs.run_id, logs.sync_type, logs.error_message, logs.started_at,
            logs.completed_at,
            case loads.state when 'SUCCESS' then true when 'FAIL' then false end as load_succeeded,
            loads.state = 'RUNNING' as died,
            case when logs.status = 'SUCCESS' and logs.error_message is not null
                then 'partial' end as coverage,
            case when logs.status != 'SUCCESS' then requests.cancelled_by end as cancelled_by,
            requests.trigger, requests.requested_by, requests.host
        from sync_logs as logs
        join sync_loads as loads on loads.id = logs.id
        left join sync_requests as requests on requests.run_id = logs.run_id
        order by logs.run_id, logs.id desc;

        -- Those that ended before Meltano had recorded them had no number. It is the order of the
        -- log: the latest of them follow all others, the rest come before.
        insert into logged
        select
            case
                when requests.is_last then others.last
                    + row_number() over (partition by requests.is_last order by requested_at)
                else others.first
                    - row_number() over (partition by requests.is_last order by requested_at desc)
            end,
            run_id, sync_type, error_message, requested_at, ended_at, false, ended_at is null,
            null, cancelled_by, trigger, requested_by, host
        from (
            select
                coalesce(min(id), 1) as first, coalesce(max(id), 0) as last,
                coalesce(max(started_at), '-infinity') as until
            from logged
        ) as others
        cross join lateral (
            select *, requested_at > others.until as is_last
            from sync_requests
            where (ended_at is null or error_message is not null)
                and run_id not in (select logged.run_id from logged)
        ) as requests;

        drop view syncs;
        drop view sync_logs cascade;  -- dbt makes its views on it again
        drop view sync_loads;
        drop function sync_run_is_alive;

        alter table sync_runs
            add id bigint,
            add kind text not null default 'other'
                check (kind in ('sync', 'reconcile', 'partition', 'other')),
            add job text,
            add state_id_suffix text,
            add run_number bigint,
            add trigger text,
            add requested_by text,
            add cancelled_by text,
            add host text,
            add pid_namespace text,
            add pid integer,
            add process_started_at double precision,
            add started_at timestamptz not null default clock_timestamp(),
            add heartbeat_at timestamptz,
            add ended_at timestamptz,
            add died boolean not null default false,
            add load_succeeded boolean,
            add coverage text check (coverage in ('complete', 'changes', 'partial')),
            add scope text,
            add bookmark timestamptz,
            add unchanged_records bigint,
            add failed_records bigint;

        insert into sync_runs (run_id) select run_id from logged on conflict do nothing;
        update sync_runs
        set
            id = logged.id,
            kind = 'sync',
            sync_type = logged.sync_type,
            trigger = logged.trigger,
            requested_by = logged.requested_by,
            cancelled_by = logged.cancelled_by,
            host = logged.host,
            started_at = logged.started_at,
            -- One that runs now is of the old release, and can no longer tell of itself.
            ended_at = coalesce(logged.completed_at, clock_timestamp()),
            died = logged.died,
            load_succeeded = logged.load_succeeded,
            coverage = logged.coverage,
            error_message = logged.error_message
        from logged
        where logged.run_id = sync_runs.run_id;
        update sync_runs
        set
            failed_records = coalesce(records_rejected, 0) + coalesce(quarantined_records, 0),
            unchanged_records = greatest(
                0,
                coalesce(records_fetched, 0) - new_records - coalesce(updated_records, 0)
                - coalesce(quarantined_records, 0)
            )
        where new_records is not null;

        create sequence sync_runs_id owned by sync_runs.id;
        select setval('sync_runs_id', greatest(max(id), 0) + 1, false) from sync_runs;
        update sync_runs set id = nextval('sync_runs_id') where id is null;
        alter table sync_runs
            alter id set default nextval('sync_runs_id'),
            alter id set not null,
            add unique (id),
            drop quarantined_records,
            drop loaded_until;
        create index sync_runs_under_way on sync_runs (id) where ended_at is null;
        create sequence run_numbers;
        drop table sync_requests;
        comment on table sync_runs is
            'One row for each `meltano run`: what it is, the process that does it and its '
            'heartbeat, what was observed while it loaded, and what dbt merged.';
        comment on column sync_runs.run_number is
            'What lets it load: the partitions of one load share it. Null: it loads nothing.';
        comment on column sync_runs.pid_namespace is
            'Where its process can be seen: processes of two containers may have one number.';
        comment on column sync_runs.process_started_at is
            'In seconds since the start of its machine, which no clock changes.';
        comment on column sync_runs.died is 'Its process was gone before it told of its end.';
        comment on column sync_runs.coverage is
            'What the reader saw: all that its scope shows, what changed, or a part of either.';
        comment on column sync_runs.bookmark is
            'By the CRM''s clock: what changed before it was read.';

        create function sync_run_is_alive(run sync_runs) returns boolean
        language sql stable as $$
            -- The run's process writes a heartbeat every two seconds; both are the server's clock.
            -- One from the future is none: that clock was set back since.
            select run.ended_at is null
                and abs(extract(epoch from clock_timestamp() - run.heartbeat_at)) < 20
        $$;

        create function check_run(number bigint) returns void language plpgsql as $$
        begin
            if number is distinct from (select run_number from load_fence) then
                raise exception 'This run was superseded by a later one: it merges nothing more.'
                    using errcode = '55000';
            end if;
        end
        $$;
        comment on function check_run is
            'Raises an error where a later run than the one of this number may load.';

        create function proves_absence(run uuid) returns boolean language sql stable as $$
            select exists (
                select from sync_runs as reader
                left join lateral (
                    select earlier.scope
                    from sync_runs as earlier
                    where earlier.kind = 'sync' and earlier.state_id_suffix is null
                        and earlier.coverage in ('complete', 'changes')
                        and earlier.transform_succeeded and earlier.id < reader.id
                    order by earlier.id desc
                    limit 1
                ) as usual on true
                where reader.run_id = run
                    and reader.kind in ('sync', 'reconcile') and reader.state_id_suffix is null
                    and reader.coverage = 'complete'
                    and reader.scope is not distinct from coalesce(usual.scope, reader.scope)
            )
        $$;
        comment on function proves_absence is
            'Whether what a run did not see is gone: it read all that the syncs'' own scope shows.';
        """
    )
    op.execute(VIEWS)


VIEWS = """
create view run_logs as
with judged as (
    select
        runs.*,
        case
            -- Whatever a process still does that was told to end, it is no success.
            when cancelled_by is not null
                then case when sync_run_is_alive(runs) then 'RUNNING' else 'FAILED' end
            when load_succeeded is false or transform_succeeded is false then 'FAILED'
            -- A loader that is told to stop does so without a word of failure.
            when kind in ('sync', 'reconcile') and transform_succeeded
                and extraction_completed is not false then 'SUCCESS'
            when sync_run_is_alive(runs) then 'RUNNING'
            when kind = 'partition' and load_succeeded and extraction_completed is not false
                then 'SUCCESS'
            when kind = 'other' and ended_at is not null and error_message is null and not died
                then 'SUCCESS'
            else 'FAILED'
        end as status
    from sync_runs as runs
    where heartbeat_at is not null or ended_at is not null
)
select
    id, run_id, kind, job,
    coalesce(
        sync_type,
        -- It failed before it read anything: what it set out to be.
        case
            when exists (
                select from sync_runs as earlier
                where earlier.kind = judged.kind and earlier.id < judged.id
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
            then 'The loader stopped before all was read. The next sync goes on from there.'
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
    trigger, requested_by, cancelled_by, coverage,
    started_at,
    completed.at as completed_at,
    round(extract(epoch from completed.at - started_at), 3) as duration_seconds
from judged
cross join lateral (
    select case when died or ended_at is null then 'died' else 'ended' end as how
) as end_of_it
cross join lateral (
    select case
        when status != 'RUNNING' then greatest(transform_completed_at, ended_at, heartbeat_at)
    end as at
) as completed;
comment on view run_logs is
    'One row for each run of Meltano, whatever it ran and however it ended.';

create view sync_logs as
select
    id, run_id, sync_type, status, total_fetched, new_records, updated_records,
    unchanged_records, failed_records, error_message, end_reason, started_at, completed_at,
    duration_seconds
from run_logs
where kind = 'sync';
comment on view sync_logs is 'One row for each sync, whoever started it and however it ended.';
"""

CUSTOM_ATTRIBUTES = """
create function custom_attribute(attributes jsonb, name text) returns text
language sql immutable parallel safe as $$
    -- The exact name comes first: one CRM may have GEO_c and Geo_c.
    select case
        when jsonb_exists(attributes, name) then attributes ->> name
        else (
            select value from jsonb_each_text(attributes)
            where lower(key) = lower(name) order by key limit 1
        )
    end
$$;
comment on function custom_attribute is
    'An attribute of the customer''s own, by its name in whatever case.';
"""
# What has no column of its own any more.
CUSTOM = """(
    select jsonb_object_agg(key, value)
    from jsonb_each(to_jsonb(before))
    where not starts_with(key, '_sdc_') and key not in (
        select attname from pg_attribute where attrelid = to_regclass('raw.opportunities')
    )
)"""
VALIDITY_16 = """
create function is_valid(value text, type text) returns boolean
language sql stable parallel safe as $$ select coalesce(pg_input_is_valid(value, type), true) $$;
"""
VALIDITY_15 = """
create function is_valid(value text, type text) returns boolean language plpgsql stable as $$
begin
    execute format('select %%L::%%s', value, type);
    return true;
exception
    when data_exception or invalid_text_representation then
        return false;
end
$$;
"""


def _server_version() -> int:
    return int(op.get_bind().scalar(text("show server_version_num")))


def _move_raw_rows() -> None:
    """Move what earlier releases loaded into tables of the shape of raw.sql."""
    connection = op.get_bind()
    there = [
        name
        for name in STREAMS
        if connection.scalar(text("select to_regclass(:name)"), {"name": f"raw.{name}"})
    ]
    for name in there:
        op.execute(f"alter table raw.{name} rename to {name}_before")
    # Keyed otherwise from now on, and read again.
    op.execute("drop table if exists raw.opportunity_keys, raw.opportunity_team cascade")
    connection.exec_driver_sql(RAW.read_text().replace("%", "%%"))
    for name in there:
        columns = _moved_columns(connection, name)
        op.execute(
            f"insert into raw.{name} ({', '.join(columns)}) "  # noqa: S608 - names of this file
            f"select {', '.join(columns.values())} from raw.{name}_before as before"
        )
        op.execute(f"drop table raw.{name}_before cascade")  # dbt makes its views again
    op.execute(
        """
        update raw.opportunities set _sdc_deleted_at = known.deleted_at
        from opportunities as known
        where known.remote_id = "OptyId"::text and known.deleted_at is not null;

        -- What has been merged is merged once more, by the new rules, and not counted again.
        insert into merge_marks (model, merged_until, rules)
        select model, load_fence.batch, 'before'
        from load_fence, unnest(array['opportunities', 'rejected_records']) as model;
        """
    )


def _moved_columns(connection: Any, name: str) -> dict[str, str]:
    """Return each column to fill, quoted, and the expression that fills it."""
    types = {
        table: dict(
            connection.execute(
                text(
                    "select attname, format_type(atttypid, atttypmod) from pg_attribute "
                    "where attrelid = to_regclass(:name) and attnum > 0 and not attisdropped"
                ),
                {"name": f"raw.{table}"},
            ).all()
        )
        for table in (name, f"{name}_before")
    }
    new, old = types[name], types[f"{name}_before"]
    columns = {
        f'"{column}"': _converted(f'before."{column}"', old[column], kind)
        for column, kind in new.items()
        if column in old
    }
    if "custom" in new:
        columns["custom"] = CUSTOM
    return columns


def _converted(column: str, old: str, new: str) -> str:
    """Return the expression that gives a column another type; null where that can't be."""
    if old == new:
        return column
    if (old, new) == ("timestamp without time zone", "timestamp with time zone"):
        return f"{column} at time zone 'UTC'"  # the loader wrote UTC and left the offset out
    return f"case when is_valid({column}::text, '{new}') then {column}::text::{new} end"
