"""Delete old rows: `python -m orchestrate.housekeeping`, weekly by schedule.

A setting for each kind of row says how many days it is kept. The pipeline needs the newest
successful run of each kind and all running runs, so these always stay. Opportunities are never
deleted.
"""

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.rows import tuple_row

from database.address import database_url, url_for
from database.locks import LockedError, bounded, lock_seconds
from database.settings import read_settings
from runs.meltano_runs import remove_old_ones

BATCH_ROWS = 5_000
"""Rows that one transaction deletes, to limit its locks and the database's write-ahead log."""


@dataclass(frozen=True)
class Retention:
    """A kind of row that is deleted when it is older than a setting allows.

    Attributes:
        setting: the environment variable with the number of days.
        rows: the name of this kind of row, for people.
        tables: the tables that the statement needs; without them it is skipped.
        delete: a statement over %(days)s and %(batch)s that deletes at most one batch, or calls a
            function that does so and returns the number of rows; or such a function.
    """

    setting: str
    rows: str
    tables: tuple[str, ...]
    delete: str | Callable[[psycopg.Connection[Any], int, int], int]

    def remove(self, connection: psycopg.Connection[Any], days: int, batch: int) -> int:
        """Delete at most one batch; return the number of deleted rows."""
        if callable(self.delete):
            return self.delete(connection, days, batch)
        cursor = connection.cursor(row_factory=tuple_row)
        cursor.execute(self.delete, {"days": days, "batch": batch})
        if cursor.description is None:
            return cursor.rowcount
        ((removed,),) = cursor.fetchall()
        return int(removed)


# The last successful run of each kind has the usual scope and the age of the data.
_SYNC_RUNS = """
    delete from public.sync_runs where run_id in (
        select sync_runs.run_id
        from public.sync_runs
        left join public.run_logs on run_logs.run_id = sync_runs.run_id
        where
            coalesce(sync_runs.ended_at, sync_runs.transform_completed_at, sync_runs.started_at)
                < now() - make_interval(days => %(days)s)
            and run_logs.status is distinct from 'RUNNING'
            and sync_runs.id not in (
                select max(id) from public.run_logs where status = 'SUCCESS' group by kind
            )
        limit %(batch)s
    )
"""
_REJECTS = """
    delete from public.rejected_records where id in (
        select id
        from public.rejected_records
        where resolved_at < now() - make_interval(days => %(days)s)
        limit %(batch)s
    )
"""
# The source of those rejects; without this, a full refresh would bring them back.
_RAW_REJECTS = """
    delete from raw.rejected_records where id in (
        select raw.id
        from raw.rejected_records as raw
        inner join public.rejected_records as known
            on known.record_key = raw.stream || ':' || coalesce(raw.remote_id, raw.id)
        where
            known.resolved_at < now() - make_interval(days => %(days)s)
            and raw._loaded_in <= known.rejected_in
        limit %(batch)s
    )
"""
_RAW_OPPORTUNITIES = """
    delete from raw.opportunities where "OptyId" in (
        select raw."OptyId"
        from public.opportunities as gone
        inner join raw.opportunities as raw on raw."OptyId" = gone.remote_id::bigint
        where
            gone.deleted_at < now() - make_interval(days => %(days)s)
            and raw._sdc_deleted_at is not null
        limit %(batch)s
    )
"""
# The last change of a deal's workflow status stays, since it tells the age of the status. Readers
# of the feed of changes are told if they have not read what is deleted.
_CHANGES = """
    with gone as (
        delete from public.opportunity_changes where id in (
            select old.id
            from public.opportunity_changes as old
            where
                old.changed_at < now() - make_interval(days => %(days)s)
                and (
                    old.field != 'workflow_status'
                    or exists (
                        select from public.opportunity_changes as newer
                        where
                            newer.opportunity_id = old.opportunity_id
                            and newer.field = 'workflow_status'
                            and newer.id > old.id
                    )
                )
            limit %(batch)s
        )
        returning xid, changed_at as at
    ),
    {note_gone}
    select count(*) from gone
"""
_ARRIVALS = """
    with gone as (
        delete from public.opportunity_arrivals where id in (
            select id
            from public.opportunity_arrivals
            where arrived_at < now() - make_interval(days => %(days)s)
            limit %(batch)s
        )
        returning xid, arrived_at as at
    ),
    {note_gone}
    select count(*) from gone
"""
_NOTE_GONE = """
    noted as (
        update public.change_feed
        set pruned_xid = newest.xid, pruned_at = newest.at
        from (select xid, at from gone order by xid desc, at desc limit 1) as newest
        where (pruned_xid, pruned_at) < (newest.xid, newest.at)
    )
"""
# A token ends when it expires or is revoked, so the earlier time counts.
_TOKENS = """
    delete from public.tokens where id in (
        select id
        from public.tokens
        where least(expires_at, revoked_at) < now() - make_interval(days => %(days)s)
        limit %(batch)s
    )
"""
_SIGN_IN_ATTEMPTS = """
    delete from public.sign_in_attempts where id in (
        select id
        from public.sign_in_attempts
        where at < now() - make_interval(days => %(days)s)
        limit %(batch)s
    )
"""
# Where somebody signed in from is not read after 30 days: see api/users/sign_in.py.
_ADDRESSES = """
    update public.tokens set address = null, browser = null, signed_in_from = null
    where id in (
        select id
        from public.tokens
        where
            coalesce(last_used_at, created_at) < now() - make_interval(days => %(days)s)
            and num_nonnulls(address, browser, signed_in_from) > 0
        limit %(batch)s
    )
"""
_INCIDENTS = """
    delete from public.incidents where id in (
        select id
        from public.incidents
        where closed_at < now() - make_interval(days => %(days)s)
        limit %(batch)s
    )
"""


# Functions of the database, which may change what nobody else can: see database/sql/functions.
_AUDIT_ENTRIES = "select public.remove_audit_entries(%(days)s, %(batch)s)"
_AUDIT_ADDRESSES = "select public.remove_audit_addresses(%(days)s, %(batch)s)"
_OWNERS = "select public.forget_owners(%(days)s)"
_ALL_OWNERS = "select public.forget_owners(null)"


RETENTIONS = [
    Retention("SYNC_LOG_RETENTION_DAYS", "runs of Meltano", (), remove_old_ones),
    Retention("SYNC_LOG_RETENTION_DAYS", "details of runs", (), _SYNC_RUNS),
    Retention("SYNC_LOG_RETENTION_DAYS", "incidents that are over", (), _INCIDENTS),
    Retention(
        "REJECT_RETENTION_DAYS",
        "raw rows of resolved rejects",
        ("raw.rejected_records",),
        _RAW_REJECTS,
    ),
    Retention("REJECT_RETENTION_DAYS", "resolved rejects", (), _REJECTS),
    Retention(
        "RAW_RETENTION_DAYS",
        "raw rows of deleted deals",
        ("raw.opportunities",),
        _RAW_OPPORTUNITIES,
    ),
    Retention(
        "CHANGE_RETENTION_DAYS", "changes of deals", (), _CHANGES.format(note_gone=_NOTE_GONE)
    ),
    Retention(
        "CHANGE_RETENTION_DAYS", "arrivals of deals", (), _ARRIVALS.format(note_gone=_NOTE_GONE)
    ),
    Retention("TOKEN_RETENTION_DAYS", "dead tokens and sessions", (), _TOKENS),
    Retention("TOKEN_RETENTION_DAYS", "failed sign-ins", (), _SIGN_IN_ATTEMPTS),
    # They are nothing but a name and an address.
    Retention("ADDRESS_RETENTION_DAYS", "failed sign-ins", (), _SIGN_IN_ATTEMPTS),
    Retention("ADDRESS_RETENTION_DAYS", "addresses of sessions and tokens", (), _ADDRESSES),
    Retention("AUDIT_RETENTION_DAYS", "entries of the audit trail", (), _AUDIT_ENTRIES),
    Retention("ADDRESS_RETENTION_DAYS", "addresses in the audit trail", (), _AUDIT_ADDRESSES),
    Retention("OWNER_RETENTION_DAYS", "names of owners of deals", ("raw.opportunities",), _OWNERS),
]


def clean(
    connection: psycopg.Connection[Any], batch: int = BATCH_ROWS
) -> Iterator[tuple[str, int]]:
    """Delete the rows that are too old, and report the number for each kind.

    Args:
        connection: in autocommit mode, since every batch is its own transaction.
        batch: rows that one transaction deletes.

    Yields:
        The kind of row and how long it is kept, for people, and the number of deleted rows.

    Raises:
        SystemExit: a setting is invalid.
        LockedError: another session holds a lock.
    """
    settings = read_settings()
    for retention in RETENTIONS:
        days: int = getattr(settings, retention.setting.lower())
        removed = 0
        if all(_exists(connection, table) for table in retention.tables):
            while gone := _remove_batch(retention, connection, days, batch):
                removed += gone
        yield f"{retention.rows} after {days} days ({retention.setting})", removed
    if settings.tap_oracle_crm_omit_personal_data and _exists(connection, "raw.opportunities"):
        with bounded(connection, lock_seconds()):
            row = connection.cursor(row_factory=tuple_row).execute(_ALL_OWNERS).fetchone()
        removed = 0 if row is None else int(row[0])
        yield "personal data of the CRM (TAP_ORACLE_CRM_OMIT_PERSONAL_DATA)", removed


def _remove_batch(
    retention: Retention, connection: psycopg.Connection[Any], days: int, batch: int
) -> int:
    with bounded(connection, lock_seconds()):
        return retention.remove(connection, days, batch)


def _exists(connection: psycopg.Connection[Any], table: str) -> bool:
    return connection.execute("select where to_regclass(%s) is not null", [table]).rowcount == 1


def main() -> None:
    """Clean the database of `DATABASE_URL` and print the numbers of deleted rows."""
    with psycopg.connect(url_for("migrate", database_url()), autocommit=True) as connection:
        try:
            for rows, removed in clean(connection):
                print(f"Removed {removed:,} {rows}", flush=True)
        except LockedError as error:
            sys.exit(str(error))


if __name__ == "__main__":
    main()
