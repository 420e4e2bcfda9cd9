"""Runs in the register, for tests without Meltano."""

import subprocess
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psutil
import psycopg

from runs import processes


def add_run(url: str, ago: str = "1 minute", lasted: str | None = "0", **columns: Any) -> str:
    """Add a run to the register: a successful sync, unless columns say otherwise.

    Args:
        url: the database.
        ago: the time since its end, or since its start if it is running.
        lasted: its duration; None if it is running.
        columns: other columns of `sync_runs`.

    Returns:
        Its id.
    """
    row: dict[str, Any] = {"run_id": str(uuid.uuid4()), "kind": "sync", "run_number": 0}
    if lasted is not None:
        row |= {
            "sync_type": "INCREMENTAL",
            "extraction_completed": True,
            "load_succeeded": True,
            "transform_succeeded": True,
            "coverage": "changes",
            "new_records": 0,
            "updated_records": 0,
            "unchanged_records": 0,
            "failed_records": 0,
        }
    row |= columns
    statement = f"""
        insert into sync_runs ({", ".join(row)}, started_at, heartbeat_at, ended_at)
        select
            {", ".join(f"%({name})s" for name in row)},
            at - coalesce(%(lasted)s::interval, '0'),
            case when %(lasted)s::text is null then clock_timestamp() else at end,
            case when %(lasted)s::text is not null then at end
        from (select clock_timestamp() - %(ago)s::interval as at) as _
    """  # noqa: S608 - names of columns
    with psycopg.connect(url) as connection:
        connection.execute(statement, row | {"ago": ago, "lasted": lasted})
    return str(row["run_id"])


@contextmanager
def live_run(url: str, **columns: Any) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Add a running run, and yield its id and its process, which does nothing."""
    process = subprocess.Popen(["sleep", "600"])
    known = processes.columns(psutil.Process(process.pid)) | columns
    try:
        yield add_run(url, "0", None, **known), process
    finally:
        process.kill()
        process.wait()


def silence(url: str, run_id: str, seconds: float) -> None:
    """Make a run's last heartbeat older, by the database's clock."""
    with psycopg.connect(url) as connection:
        connection.execute(
            "update sync_runs set heartbeat_at = heartbeat_at - make_interval(secs => %s)"
            " where run_id = %s",
            [seconds, run_id],
        )
