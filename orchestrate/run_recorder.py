"""What happens in a run while it runs, written to `public.sync_runs` for the sync log.

Meltano records that a run began, lived and ended, and dbt what it merged. How many records
the tap read, and the cause of a failure in words, pass by in the plugins' log and nowhere
else; `logging.yaml` makes this handler see it. It runs in the Meltano process, whoever
started that, and holds an advisory lock on the run's id as long as the process lives: a run
whose lock is free is dead, and `sync_logs` says so at once. It writes down which process that
is, too, so that a sync can be cancelled by others than who started it.

A recorder that can't reach the database never stops a run.
"""

import logging
import os
import queue
import re
import socket
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import psutil
import psycopg

from orchestrate.postgres import database_url

INTERVAL_SECONDS = 2
TAP = "tap-oracle-crm"
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_DBT_ERROR = re.compile(r"\b(?:Runtime|Database|Compilation|Parsing) Error\b|Encountered an error")

_SAVE = """
    insert into public.sync_runs (
        run_id, sync_type, records_claimed, records_fetched, records_rejected,
        extraction_completed, error_message, observed_at
    )
    values (
        %(run_id)s, %(sync_type)s, %(records_claimed)s, %(records_fetched)s,
        %(records_rejected)s, %(extraction_completed)s, coalesce(%(error_message)s, %(note)s),
        clock_timestamp()
    )
    on conflict (run_id) do update set
        sync_type = excluded.sync_type,
        records_claimed = excluded.records_claimed,
        records_fetched = excluded.records_fetched,
        records_rejected = excluded.records_rejected,
        extraction_completed = excluded.extraction_completed,
        error_message = coalesce(
            nullif(sync_runs.error_message, %(note)s), excluded.error_message, %(note)s
        ),
        observed_at = excluded.observed_at
"""
# Other pipelines than the sync's are none of the sync log's.
_NAME_PROCESS = """
    insert into public.sync_requests (
        run_id, sync_type, trigger, host, pid, process_started_at
    )
    select %(run_id)s, %(sync_type)s, %(trigger)s, %(host)s, %(pid)s, %(process_started_at)s
    where exists (select from public.sync_loads where run_id = %(run_id)s)
    on conflict (run_id) do nothing
"""


class FirstLine(logging.Filter):
    """Keep a message to its first line: Meltano repeats all of a failed plugin's output."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record, and let it pass."""
        if isinstance(record.msg, Mapping) and "\n" in (text := str(record.msg.get("event", ""))):
            record.msg = {**record.msg, "event": text.split("\n", 1)[0] + " ..."}
        return True


class RunRecorder(logging.Handler):
    """Gather what the plugins say of the run, and save it every two seconds and at the end."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._observed: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._closed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Take in a log record of Meltano's or a plugin's, if it belongs to a run."""
        event = record.msg
        if self._closed or not isinstance(event, Mapping) or "run_id" not in event:
            return
        if self._writer is None:
            self._writer = threading.Thread(
                target=_write, args=(event["run_id"], self._observed), daemon=True
            )
            self._writer.start()
        self._observed.put(event)

    def close(self) -> None:
        """Save the last of it. Called by `logging` when the process ends."""
        if self._writer is not None and not self._closed:
            self._observed.put(None)
            self._writer.join(timeout=10)
        self._closed = True
        super().close()


def _write(run_id: str, observed: queue.SimpleQueue[Mapping[str, Any] | None]) -> None:
    run = _Run(run_id)
    process = _this_process(run_id)
    connection: psycopg.Connection | None = None
    changed, locked, ended = True, False, False
    last_tries = 3
    while not ended or (changed and last_tries):
        deadline = time.monotonic() + INTERVAL_SECONDS
        last_tries -= ended
        while (remaining := deadline - time.monotonic()) > 0 and not ended:
            try:
                event = observed.get(timeout=remaining)
            except queue.Empty:
                break
            ended = event is None
            if event is not None:
                changed = run.observe(event) or changed
            if connection is None:
                break  # take the lock before anything else
        try:
            if connection is None or connection.broken:
                connection, locked = _connect(), False
            # After a lost connection its end in the server may hold the lock for a while.
            locked = locked or _lock(connection, run_id)
            if changed:
                connection.execute(_SAVE, run.__dict__)
                changed = False
            # Meltano may not have recorded the run at first.
            connection.execute(_NAME_PROCESS, process)
        except psycopg.Error as error:
            # Not through the log, which would come back here.
            print(f"The run recorder can't reach the database: {error}".strip(), file=sys.stderr)


def _connect() -> psycopg.Connection:
    return psycopg.connect(
        database_url(), autocommit=True, connect_timeout=5, application_name="run-recorder"
    )


def _lock(connection: psycopg.Connection, run_id: str) -> bool:
    row = connection.execute(
        "select pg_try_advisory_lock(hashtextextended(%s, 0))", [run_id]
    ).fetchone()
    return bool(row and row[0])


def _this_process(run_id: str) -> dict[str, Any]:
    process = psutil.Process()
    return {
        "run_id": run_id,
        "sync_type": "FULL" if "--full-refresh" in sys.argv else "INCREMENTAL",
        "trigger": os.environ.get("MELTANO_JOB_TRIGGER", "shell"),
        "host": socket.gethostname(),
        "pid": process.pid,
        "process_started_at": process.create_time(),
    }


class _Run:
    """What is known of a run: columns of `sync_runs`, and what to note where nothing failed."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.sync_type: str | None = None
        self.records_claimed: int | None = None
        self.records_fetched: int | None = None
        self.records_rejected: int | None = None
        self.extraction_completed = False
        self.error_message: str | None = None
        self.note: str | None = None

    def observe(self, event: Mapping[str, Any]) -> bool:
        """Take in a log event; true if it said something of interest."""
        if "metric_info" in event:
            return event.get("name") == TAP and self._measure(event["metric_info"])
        cause = _cause(event, str(event.get("event", "")))
        if cause is None or self.error_message is not None:
            return False  # the first error is the cause, those that follow come of it
        self.error_message = cause
        return True

    def _measure(self, metric: Mapping[str, Any]) -> bool:
        tags = metric["tags"]
        match metric["metric"], tags.get("stream"):
            case "records_claimed", "opportunities":
                self.records_claimed = metric["value"]
                self.sync_type = tags["sync_type"]
            case "record_count", "opportunities":
                self.records_fetched = (self.records_fetched or 0) + metric["value"]
            case "record_count", "rejected_records":
                self.records_rejected = (self.records_rejected or 0) + metric["value"]
            case "runtime_limit", "opportunities":
                self.extraction_completed = True
                self.note = (
                    f"Stopped at the run-time limit of {metric['value']} s before all was read. "
                    "The next sync goes on from there."
                )
            case "sync_duration", "opportunities":
                self.extraction_completed = tags["status"] == "succeeded"
            case _:
                return False
        return True


def _cause(event: Mapping[str, Any], text: str) -> str | None:
    """Say in a line what went wrong, or return None if the event is no error of a plugin's."""
    name = event.get("name")
    if name is None:
        return None
    if (exception := event.get("plugin_exception")) is not None:
        # Of a database error the first line says it; the next ones quote the data.
        said, _, _ = exception.message.partition("\n")
        return f"{name}: {exception.type}: {said}"
    if event.get("level") in {"error", "critical"}:
        return f"{name}: {text}"
    plain = _ANSI.sub("", text).strip()
    return f"{name}: {plain}" if _DBT_ERROR.search(plain) else None
