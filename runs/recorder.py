"""Record the progress of a run in its row of `public.sync_runs`.

The number of records read, the coverage, the success of the load, and the cause of a failure are
only in Meltano's log; `logging.yaml` makes this handler see it. The handler runs in each Meltano
process and writes a heartbeat, by the database's clock, as long as the process lives. It also sees
who holds a lock that the loader or dbt waits for: they themselves can't tell when they give up.

If the recorder can't reach the database, the run still continues.
"""

import logging
import queue
import re
import sys
import threading
import time
from collections.abc import Mapping
from typing import Any

import psycopg

from database.address import database_url, url_for
from database.locks import lock_seconds, waits

INTERVAL_SECONDS = 2
TAP = "tap-oracle-crm"
SESSIONS = {"target-postgres", "dbt"}
"""What the sessions of a run call themselves."""
_ANSI = re.compile(r"\x1b\[[0-9;]*m")
_DBT_ERROR = re.compile(r"\b(?:Runtime|Database|Compilation|Parsing) Error\b|Encountered an error")

_SAVE = """
    update public.sync_runs
    set
        heartbeat_at = clock_timestamp(),
        ended_at = case when %(ended)s then clock_timestamp() end,
        observed_at = case when %(changed)s then clock_timestamp() else observed_at end,
        sync_type = coalesce(%(sync_type)s, sync_type),
        records_claimed = %(records_claimed)s,
        records_fetched = %(records_fetched)s,
        records_rejected = %(records_rejected)s,
        extraction_completed = %(extraction_completed)s,
        coverage = %(coverage)s,
        scope = %(scope)s,
        bookmark = %(bookmark)s,
        load_succeeded = %(load_succeeded)s,
        error_message = case
            when
                %(ended)s and %(waited_for)s::text is not null
                and (%(load_succeeded)s is false or transform_succeeded is false)
                then
                    rtrim(coalesce(error_message, %(error_message)s), '.')
                    || '. ' || %(waited_for)s
            else coalesce(
                nullif(error_message, %(note)s),
                %(error_message)s,
                -- Of the others the steps that they came to tell.
                case when kind = 'other' then %(interruption)s end,
                %(note)s
            )
        end
    where run_id = %(run_id)s and ended_at is null
"""


class FirstLine(logging.Filter):
    """Cut messages after their first line: Meltano repeats a failed plugin's whole output."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Shorten the record, and accept it."""
        if isinstance(record.msg, Mapping) and "\n" in (text := str(record.msg.get("event", ""))):
            record.msg = {**record.msg, "event": text.split("\n", 1)[0] + " ..."}
        return True


class RunRecorder(logging.Handler):
    """Collect the plugins' log events of a run, and save them every two seconds and at the end."""

    is_off = False
    """Whether this is a dry run, which has nothing to record."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._observed: queue.SimpleQueue[Mapping[str, Any] | None] = queue.SimpleQueue()
        self._writer: threading.Thread | None = None
        self._closed = False

    def emit(self, record: logging.LogRecord) -> None:
        """Process a log record of Meltano or a plugin, if it belongs to a run."""
        event = record.msg
        if self.is_off or self._closed or not isinstance(event, Mapping) or "run_id" not in event:
            return
        if self._writer is None:
            self._writer = threading.Thread(
                target=_write, args=(event["run_id"], self._observed), daemon=True
            )
            self._writer.start()
        self._observed.put(event)

    def close(self) -> None:
        """Save the last events. Called by `logging` when the process ends."""
        if self._writer is not None and not self._closed:
            self._observed.put(None)
            self._writer.join(timeout=10)
        self._closed = True
        super().close()


def _write(run_id: str, observed: queue.SimpleQueue[Mapping[str, Any] | None]) -> None:
    run = _Run(run_id)
    connection: psycopg.Connection | None = None
    changed, ended = True, False
    last_tries, written = 3, False
    while not (ended and written) and last_tries:
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
                if run.is_urgent:
                    break
        run.is_urgent = False  # if the database cannot be reached, it waits like the rest
        try:
            if connection is None or connection.broken:
                connection = _connect()
            if not ended:
                run.see_waits(connection)
            connection.execute(_SAVE, run.__dict__ | {"changed": changed, "ended": ended})
            changed = False
            written = ended
        except psycopg.Error as error:
            # Not through the log: this handler would receive it again.
            print(f"The run recorder can't reach the database: {error}".strip(), file=sys.stderr)


def _connect() -> psycopg.Connection:
    return psycopg.connect(
        url_for("run", database_url()),
        autocommit=True,
        connect_timeout=5,
        application_name="run-recorder",
        prepare_threshold=None,  # a pooler may give each transaction another session
    )


class _Run:
    """The known facts of a run: columns of `sync_runs`, and a note if nothing failed."""

    def __init__(self, run_id: str) -> None:
        self.run_id = run_id
        self.sync_type: str | None = None
        self.records_claimed: int | None = None
        self.records_fetched: int | None = None
        self.records_rejected: int | None = None
        self.extraction_completed: bool | None = None
        self.coverage: str | None = None
        self.scope: str | None = None
        self.bookmark: str | None = None
        self.load_succeeded: bool | None = None
        self.error_message: str | None = None
        self.interruption: str | None = None
        self.note: str | None = None
        self.is_urgent = False
        """Write at once, since the next step of the run relies on it."""
        self.waited_for: str | None = None
        """Who held the lock that the run waited for last, if it still did lately."""
        self._waited_at = 0.0

    def see_waits(self, connection: psycopg.Connection) -> None:
        """Look who holds a lock that a session of this run waits for."""
        now = time.monotonic()
        for wait in waits(connection):
            if wait.application in SESSIONS:
                said = f"It waited for a lock that {wait.holder} holds."
                if self.waited_for is None:
                    text = f"{wait.application} waits for a lock that {wait.holder} holds."
                    print(f"{text} To end that: {wait.holder.remedy}", file=sys.stderr)
                self.waited_for, self._waited_at = said, now
                return
        if now - self._waited_at > lock_seconds():
            self.waited_for = None

    def observe(self, event: Mapping[str, Any]) -> bool:
        """Process a log event; return whether a column changed."""
        if "metric_info" in event:
            return str(event.get("name")).startswith(TAP) and self._measure(event["metric_info"])
        if "success" in event and event.get("block_type") == "ExtractLoadBlocks":
            self.load_succeeded = bool(event["success"]) and self.load_succeeded is not False
            self.is_urgent = True
        if event.get("success") is False and self.error_message is None:
            self.error_message = str(event.get("err"))
        if "success" in event:
            return True
        if event.get("event") == "Run completed" and event.get("status") != "success":
            # Meltano names no cause if it was not a step that failed.
            self.interruption = "It was interrupted."
            return True
        cause = _cause(event, str(event.get("event", "")))
        if cause is None or self.error_message is not None:
            return False  # the first error is the cause, the others follow from it
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
                    "The next sync continues from there."
                )
            case "sync_duration", "opportunities":
                self.extraction_completed = tags["status"] == "succeeded"
                self.is_urgent = True
            case "coverage", "opportunities":
                self.coverage, self.scope = tags["coverage"], tags["scope"]
                self.bookmark = tags.get("bookmark")
                self.is_urgent = True
            case _:
                return False
        return True


def _cause(event: Mapping[str, Any], text: str) -> str | None:
    """Return the error of a plugin in one line; None if the event is not an error."""
    name = event.get("name")
    if name is None:
        return None
    if (exception := event.get("plugin_exception")) is not None:
        # The first line of a database error names it; the next ones quote data.
        message, _, _ = exception.message.partition("\n")
        return f"{name}: {exception.type}: {message}"
    if event.get("level") in {"error", "critical"}:
        return f"{name}: {text}"
    plain = _ANSI.sub("", text).strip()
    return f"{name}: {plain}" if _DBT_ERROR.search(plain) else None
