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

SQL = Path(__file__).parents[2] / "sql"
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
    _run(SQL / "functions" / "is_valid.sql")
    _move_raw_rows()
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
            -- A run that began later marked those that had died as failed.
            loads.state = 'RUNNING' or coalesce(starts_with(loads.error, 'The run died '), false)
                as died,
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
        """
    )


# What has no column of its own any more.
CUSTOM = """(
    select jsonb_object_agg(key, value)
    from jsonb_each(to_jsonb(before))
    where not starts_with(key, '_sdc_') and key not in (
        select attname from pg_attribute where attrelid = to_regclass('raw.opportunities')
    )
)"""


def _run(file: Path) -> None:
    # Not as SQLAlchemy's text, to which a colon means a parameter.
    op.get_bind().exec_driver_sql(file.read_text().replace("%", "%%"))


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
    _run(SQL / "raw.sql")
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
