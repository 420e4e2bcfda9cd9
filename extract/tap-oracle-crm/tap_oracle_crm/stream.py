"""The Singer side of every stream: selection, records and rejects, state, progress."""

from __future__ import annotations

import contextlib
import enum
import hashlib
import logging
import sys
import threading
import time
from collections.abc import Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, cast

from singer_sdk import Stream, metrics
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.singerlib.catalog import MetadataMapping, SelectionMask

from tap_oracle_crm.answers import Page
from tap_oracle_crm.discovery import absent, schema_of
from tap_oracle_crm.errors import OracleCrmError, RefusedError, StoppedError, is_fatal
from tap_oracle_crm.query import Query
from tap_oracle_crm.ranges import RangePlan
from tap_oracle_crm.reading import Collection, Reader, Start, timestamp
from tap_oracle_crm.records import MAX_RECORD_BYTES, RecordCleaner, RejectedError
from tap_oracle_crm.settings import DEFAULT_FINDER
from tap_oracle_crm.state import Scan
from tap_oracle_crm.writer import encoded_size

if TYPE_CHECKING:
    from tap_oracle_crm.children import ChildStream
    from tap_oracle_crm.tap import TapOracleCRM

PROGRESS_SECONDS = 5
STATE_SECONDS = 5
METRIC_SECONDS = 2
"""Between two records of how many rows were read, for those who follow a run."""
STATE_ROWS = 10_000


class ReadMetric(enum.StrEnum):
    """Metrics beside those of the SDK, all gauges.

    Rows that the server claims at the start of a read, the run-time limit in seconds where it
    ended a read, and the rows of a read that is over.
    """

    RECORDS_CLAIMED = "records_claimed"
    RUNTIME_LIMIT = "runtime_limit"
    COVERAGE = "coverage"


class Coverage(enum.StrEnum):
    """What the rows of a read prove: only a complete one proves what is absent."""

    COMPLETE = "complete"
    """All rows that the scope shows, read in this run."""
    CHANGES = "changes"
    """All rows that changed since the bookmark."""
    PARTIAL = "partial"
    """Some rows: the read was stopped, or goes on with that of an earlier run."""


class CrmStream(Stream):
    """A stream whose records are attributes of a CRM resource.

    Attributes:
        path: the resource's path below the API's version.
        key: the integer attribute that identifies a record, never changed.
        attributes: attribute and type (a key of `discovery.SCHEMAS`) of those that are known
            without asking the CRM; they are selected unless the catalog says otherwise.
    """

    TYPE_CONFORMANCE_LEVEL = TypeConformanceLevel.NONE
    path: str
    key: str
    attributes: ClassVar[Mapping[str, str]]
    automatic: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tap: TapOracleCRM, schema: dict[str, Any] | None = None) -> None:
        super().__init__(tap, schema=schema or schema_of(self.attributes, [self.key]))
        self.tap = tap
        self.primary_keys = [self.key]
        self._gone: set[str] = set()
        self._gone_lock = threading.Lock()
        self._cleaner: RecordCleaner | None = None

    def log(self, message: str, *args: Any, level: int = logging.INFO, **kwargs: Any) -> None:
        """Log a line, but not the SDK's on an "unhandled" error whose own line says it all."""
        if not isinstance(sys.exc_info()[1], OracleCrmError) or level < logging.ERROR:
            super().log(message, *args, level=level, **kwargs)

    def get_replication_key_signpost(self, context: Any = None) -> None:
        """Bookmarks are capped by the server's clock, not by this machine's."""

    # Attributes

    @property
    def extra_property(self) -> str | None:
        """The property that holds, in an object, all attributes that are not built in."""
        return None

    @property
    def fields(self) -> list[str]:
        """The attributes to ask for: those selected that the CRM still has."""
        properties = self.effective_schema["properties"]
        return [
            name
            for name in self.selected_fields
            if name not in self._gone and not absent(properties[name])
        ]

    @property
    def selected_fields(self) -> list[str]:
        """The attributes of the records that are written."""
        return self._selected_by(self.mask)

    def _selected_by(self, mask: SelectionMask) -> list[str]:
        # Without these no record can be told from another, or no change seen.
        needed = {self.key, self.replication_key, *self.automatic}
        return [
            name
            for name in self.effective_schema["properties"]
            if name in needed or mask.get(("properties", name), True)
        ]

    @property
    def record_schema(self) -> dict[str, Any]:
        """The schema of the records, of those too that a test asks for of an unselected stream."""
        selected = replace(self.metadata.root, selected=True)
        mask = MetadataMapping({**self.metadata, (): selected}).resolve_selection()
        properties = {
            name: self.effective_schema["properties"][name]
            for name in self._selected_by(mask)
            if not self.extra_property or name in self.attributes
        }
        if self.extra_property:
            properties[self.extra_property] = {"type": ["object", "null"]}
        return {**self.effective_schema, "properties": properties}

    def _drop_gone(self, reader: Reader, error: RefusedError, witness: Reader | None) -> bool:
        """Find out which attributes the CRM no longer has; tell whether asking again may help.

        What an error says is no proof: only what is refused next to the key alone is gone, and
        only if it is by `witness` as well and all the others are served.
        """
        if error.status != 400 or witness is None:
            return False
        with self._gone_lock:
            asked = reader.collection.fields
            if self.fields != asked:
                return True  # another thread has found out meanwhile
            names = [name for name in asked if name not in {self.key, self.replication_key}]
            gone = _refused(reader, names) if reader.serves([]) else []
            if not gone or not reader.serves([name for name in names if name not in gone]):
                return False
            if any(witness.serves([name]) for name in gone):
                return False
            before = set(str(self.stream_state.get("attributes", "")).split(","))
            for words, found in (
                ("no longer has", before.intersection(gone)),
                ("has no", set(gone) - before),
            ):
                if found:
                    self.log(
                        "The CRM %s %s: null from now on",
                        words,
                        ", ".join(sorted(found)),
                        level=logging.WARNING,
                    )
            self._gone.update(gone)
            return True

    # Records

    def emit(self, rows: Iterable[Any]) -> list[dict[str, Any]]:
        """Write rows as received, repaired, and reject those that cannot be; return the records."""
        if self._cleaner is None:
            self._cleaner = RecordCleaner.of(
                self.effective_schema,
                self.key,
                self.selected_fields,
                built_in=self.attributes,
                extra_property=self.extra_property,
            )
        clean = self._cleaner
        records = []
        received = []
        for row in rows:
            try:
                records.append(clean(row))
                received.append(row)
            except RejectedError as error:
                self.tap.rejects.add(self, row, str(error))
        if self.selected:
            records = self._write(records, received)
        return records

    def _write(
        self, records: list[dict[str, Any]], received: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """Write records and return them, but for those that are too large."""
        writer, maps = self.tap.writer, self.stream_maps
        same = len(maps) == 1 and type(maps[0]) is SameRecordTransform
        if same and not maps[0].flattening_enabled:
            alias, version = maps[0].stream_alias, self._stream_version
            lines = writer.encode(alias, records, version)
            if len(lines) > MAX_RECORD_BYTES:  # one of them may be
                records = self._those_that_fit(records, received)
                lines = writer.encode(alias, records, version)
            writer.write_lines(lines)
        else:
            records = self._those_that_fit(records, received)
            for record in records:
                self._write_record_message(record)
        self.state_manager.is_flushed = False
        return records

    def _those_that_fit(
        self, records: list[dict[str, Any]], received: list[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        fitting = []
        for record, row in zip(records, received, strict=True):
            size = encoded_size(record)
            if size > MAX_RECORD_BYTES:
                reason = f"{size:,} bytes: more than {MAX_RECORD_BYTES:,} cannot pass Meltano"
                self.tap.rejects.add(self, row, reason)
            else:
                fitting.append(record)
        return fitting

    @contextmanager
    def counted(self) -> Iterator[metrics.Counter]:
        """Log the SDK's counters when the stream ends, however it ends."""
        requests = metrics.http_request_counter(self.name, self.path)
        before = self.tap.client.requests
        with self.get_sync_timer(), requests, self.get_record_counter() as records:
            records.log_interval = METRIC_SECONDS
            try:
                yield records
            finally:
                requests.value += self.tap.client.requests - before
                self.tap.rejects.log_count()


def _refused(reader: Reader, names: list[str]) -> list[str]:
    """Return those attributes that the CRM refuses, found by halves."""
    if not names or reader.serves(names):
        return []
    if len(names) == 1:
        return names
    half = len(names) // 2
    return _refused(reader, names[:half]) + _refused(reader, names[half:])


class Progress:
    """Tells people every few seconds how far a read is."""

    def __init__(self, stream: CrmStream, rows: int, claimed: int | None) -> None:
        self._stream = stream
        self._begin = self._told = time.monotonic()
        self._before = rows
        self.claimed = claimed

    def tell(self, rows: int, *, end: bool = False) -> None:
        """Log a line if it is time for one; `rows` were read so far."""
        now = time.monotonic()
        if not end and now - self._told < PROGRESS_SECONDS:
            return
        self._told = now
        rate = (rows - self._before) / max(now - self._begin, 0.001)
        text = f"{rows:,} rows, {rate:,.0f} rows/s"
        if not end and self.claimed and self.claimed > rows:
            left = (self.claimed - rows) / rate if rate else 0
            text += f", {rows / self.claimed:.0%} of {self.claimed:,}"
            text += f", about {left:,.0f} s left" if rate else ""
        self._stream.log("%s%s", "read " if end else "", text)


class CollectionStream(CrmStream):
    """A stream that reads a whole collection, or what changed in it since the last run.

    Attributes:
        uses_finder: the settings `finder` and `filter` apply.
        is_further: the run goes on where this stream cannot be read.
        changed: the attribute that says when a record changed.
    """

    uses_finder: ClassVar[bool] = False
    is_further: ClassVar[bool] = True
    changed: ClassVar[str] = "LastUpdateDate"

    def __init__(self, tap: TapOracleCRM, schema: dict[str, Any] | None = None) -> None:
        super().__init__(tap, schema)
        self.replication_key = self.changed
        self.emitted = self.rows_read = 0
        self._full = False
        self._children_read: list[ChildStream] = []
        self._last_state = time.monotonic()
        self._rows_since_state = 0

    def get_records(self, context: Any) -> Iterable[dict[str, Any]]:
        """Return nothing: records are written a page at a time, see `_sync_records`."""
        return ()

    @property
    def is_incremental(self) -> bool:
        """Whether state decides what is read."""
        return self.replication_method == "INCREMENTAL"

    def _sync_records(
        self, context: Any = None, *, write_messages: bool = True
    ) -> Generator[dict[str, Any], Any, Any]:
        yield from ()  # records are written a page at a time
        if self.tap.client.stopping.is_set():
            self._tell_of_limit()
            self._tell_coverage(Coverage.PARTIAL)
            return
        try:
            with contextlib.ExitStack() as stack:
                counter = stack.enter_context(self.counted())
                for child in self.children:
                    stack.enter_context(child.begun())
                self._read(counter)
        except OracleCrmError as error:
            if not self.is_further or is_fatal(error):
                self.tap.client.stopping.set()
                raise
            self.log(
                "Could not be read (%s): the run goes on without, the next one tries again",
                error.cause, level=logging.WARNING,
            )  # fmt: skip
        except BaseException:
            self.tap.client.stopping.set()  # workers must not go on asking for a run that failed
            raise
        finally:
            self._write_state()

    def _read(self, counter: metrics.Counter) -> None:
        """Read, and say at the end what was covered."""
        coverage = Coverage.PARTIAL
        try:
            if self.ABORT_AT_RECORD_COUNT is not None:
                self._read_some(self.ABORT_AT_RECORD_COUNT, counter)
            else:
                coverage = self._read_all(counter)
        except StoppedError:
            self._tell_of_limit()
        finally:
            self._tell_coverage(coverage)

    def _tell_coverage(self, coverage: Coverage) -> None:
        tags = {"coverage": str(coverage), "scope": self._scope()}
        if self.is_incremental and (mark := self.stream_state.get("replication_key_value")):
            tags["bookmark"] = mark
        self._gauge(ReadMetric.COVERAGE, self.rows_read, **tags)

    def _tell_of_limit(self) -> None:
        seconds = self.config["max_runtime_seconds"]
        self.log(
            "Stopped at the run-time limit of %s s: what was read stays, the next run goes on "
            "from there", seconds, level=logging.WARNING,
        )  # fmt: skip
        self._gauge(ReadMetric.RUNTIME_LIMIT, seconds)

    def _gauge(self, metric: ReadMetric, value: int | None, **tags: str) -> None:
        name = cast("metrics.Metric", metric)
        self._log_metric(metrics.Point("gauge", name, value, {"stream": self.name, **tags}))

    # Reading

    def reader(self, finder: str | None = None) -> Reader:
        """Return what reads this collection."""
        return Reader(self.tap.client, self.collection(self.config, self.fields, finder))

    @classmethod
    def collection(
        cls, settings: Mapping[str, Any], fields: Sequence[str], finder: str | None = None
    ) -> Collection:
        """Return what is asked for with these settings.

        Args:
            settings: the tap's.
            fields: the attributes to ask for.
            finder: in place of the one in the settings.
        """
        finder = (finder or settings["finder"]) if cls.uses_finder else None
        condition = settings.get("filter") if cls.uses_finder else None
        return Collection(
            cls.path,
            list(fields),
            Query.of(settings, cls.key, cls.changed, condition),
            None if finder is None or finder.lower() == "none" else finder,
        )

    def _read_all(self, counter: metrics.Counter) -> Coverage:
        if not self.is_incremental:
            self._begin_version()
        while True:
            self.emitted = self.rows_read = 0
            reader = self.reader()
            try:
                scan = self._resumable()
                if scan:
                    self._children_read = [
                        child for child in self.children if child.name in scan.children
                    ]
                    self._claim(scan.claimed, scan.full, scan.since, resumed=scan.rows)
                    plan = RangePlan(scan.bounds, page_size=self.tap.client.page_size)
                    if any(high is None for _, high in scan.bounds):
                        reader.learn_largest(plan)
                    self._scan(reader, plan, scan, counter)
                self._children_read = self._readable_children()
                is_complete = self._read_changes(reader, counter)
            except RefusedError as error:
                if not self._drop_gone(reader, error, reader):
                    raise
            else:
                break
        if scan:
            return Coverage.PARTIAL
        if not self.is_incremental:
            self._activate_version()
        return Coverage.COMPLETE if is_complete else Coverage.CHANGES

    def _begin_version(self) -> None:
        """Number this read, higher than the one before whatever the clock says."""
        known = self.stream_state.get("version", 0)
        self._stream_version = max(int(time.time() * 1000), known + 1)
        self.stream_state["version"] = self._stream_version

    def _activate_version(self) -> None:
        """Let a target drop, or mark, what this read did not find.

        A user who suddenly sees nothing is no proof that everything was deleted.
        """
        if self.selected and self.emitted and self._stream_version:
            self._write_activate_version_message(self._stream_version)

    def _read_changes(self, reader: Reader, counter: metrics.Counter) -> bool:
        """Read what changed since the bookmark; return whether there was none and all was read."""
        bookmark = self._bookmark()
        since = self._since(bookmark)
        start = reader.start(since)
        if bookmark is None and self._mark():
            self.log(
                "The attributes, the child streams, the address, the finder, the filter or the "
                "start date changed since the last run: all rows are read again"
            )
        elif bookmark != self._mark():
            self.log("What changed since %s is read again for child streams", bookmark)
        self._claim(start.page.total, bookmark is None, since.isoformat() if since else None)
        if bookmark is None:
            self._check_record_set(start.page)
        mark = self._mark_after(start)
        if start.page.complete:
            self._emit_batch(start.page.items, counter)
            self._advance(mark)
            self.log("read %d rows", len(start.page.items))
            return bookmark is None
        scan = Scan(
            mark=mark.isoformat() if mark else None,
            since=since.isoformat() if since else None,
            full=bookmark is None,
            bounds=[],
            claimed=start.page.total,
            newest=None if start.keys is None else "",
        )
        self._scan(reader, reader.plan(start), scan, counter)
        return bookmark is None

    def _read_some(self, limit: int, counter: metrics.Counter) -> None:
        """Read a few records, as `--test` asks for; state stays as it is."""
        while True:
            reader = self.reader()
            try:
                rows = reader.some(limit)
                break
            except RefusedError as error:
                if not self._drop_gone(reader, error, reader):
                    raise
        self._children_read = self.children
        self._emit_batch(rows, counter)

    def _scan(self, reader: Reader, plan: RangePlan, scan: Scan, counter: metrics.Counter) -> None:
        since = datetime.fromisoformat(scan.since) if scan.since else None
        progress = Progress(self, scan.rows, scan.claimed)
        batches = reader.scan(plan, since)
        try:
            self._keep(scan, plan)
            for batch in batches:
                if batch is not None:
                    self._emit_batch(batch.rows, counter)
                    scan.rows += len(batch.rows)
                    if scan.newest is not None:
                        newest = reader.newest(batch.rows, timestamp(scan.newest))
                        scan.newest = newest.isoformat() if newest else ""
                    plan.wrote(batch.item, batch.upto, last_page=batch.last)
                    self._keep(scan, plan)
                    self._write_state_if_due(len(batch.rows))
                progress.tell(scan.rows)
                if self.tap.client.stopping.is_set():
                    raise StoppedError
        finally:
            batches.close()
        if scan.rows != scan.claimed:
            keyless = reader.keyless(since)
            self._emit_batch(keyless, counter)
            scan.rows += len(keyless)
        progress.tell(scan.rows, end=True)
        if scan.claimed and scan.full and scan.rows < 0.99 * scan.claimed:
            self.log(
                "The CRM claimed %d rows and gave %d: such totals are known to be wrong at times, "
                "else rows vanished while they were read",
                scan.claimed, scan.rows, level=logging.WARNING,
            )  # fmt: skip
        mark = timestamp(scan.mark)
        if mark and scan.newest is not None:
            newest = timestamp(scan.newest)
            mark = min(mark, newest) if newest else None
        self._advance(mark)

    def _emit_batch(self, rows: list[Any], counter: metrics.Counter) -> None:
        self.rows_read += len(rows)
        records = self.emit(rows)
        for child in self._children_read:
            child.emit_of(records, self.reader())
        if self.selected:
            counter.increment(len(records))
        self.emitted += len(records)

    @property
    def children(self) -> list[ChildStream]:
        """The selected child streams."""
        return [cast("ChildStream", child) for child in self.child_streams if child.selected]

    def _readable_children(self) -> list[ChildStream]:
        """Return the child streams to read, without those that still cannot be read.

        One that is behind the opportunities makes all of them be read again that changed since.
        """
        own = self._mark() if self._holds(self.stream_state) else None
        readable = []
        for child in self.children:
            mark = child.mark(self._scope())
            is_behind = own is not None and (mark is None or mark < own)
            if not child.is_down and (not is_behind or child.is_served(self.reader())):
                readable.append(child)
        return readable

    def _claim(
        self, total: int | None, full: bool, since: str | None, resumed: int | None = None
    ) -> None:
        # What changed meanwhile follows a first read that was resumed, and belongs to it.
        self._full = self._full or full
        kind = "FULL" if self._full else "INCREMENTAL"
        claimed = "does not say how many records" if total is None else f"claims {total:,} records"
        text = f"{kind} read: the CRM {claimed} visible to this user"
        if since:
            text += f" changed since {since}"
        if resumed is not None:
            text += f"; {resumed:,} of them were read before the last run broke off"
        self.log("%s", text)
        self._gauge(ReadMetric.RECORDS_CLAIMED, total, sync_type=kind)

    def _check_record_set(self, page: Page) -> None:
        """Make sure that a first read sees what the user may see.

        Few or no rows are the sign of a wrong record set, which the CRM answers as if all were
        well.

        Raises:
            OracleCrmError: nothing explains how few there are but the finder or missing rights.
        """
        if not self.uses_finder or self.config["allow_partial"]:
            return
        finder = self.config["finder"]
        if not page.items:
            msg = f"The CRM shows this user no {self.path} at all."
            if self.config.get("filter") or self.config.get("start_date"):
                self.log(msg, level=logging.WARNING)
                return
            raise OracleCrmError(
                f"{msg} Most likely the record set is wrong (setting finder: {finder}) or the user "
                "lacks visibility: compare with what the user sees in the CRM. If the CRM really "
                "is empty, set allow_partial to true."
            )
        if finder == DEFAULT_FINDER or page.total is None:
            return
        try:
            whole = self.reader(DEFAULT_FINDER).start(self._since(None), limit=1).page.total
        except RefusedError:
            return  # this instance has no such record set to compare with
        if whole is not None and whole > page.total:
            raise OracleCrmError(
                f"The finder {finder} shows {page.total:,} {self.path}, and {DEFAULT_FINDER} shows "
                f"this user {whole:,}. Correct the setting finder, or set allow_partial to true if "
                "the others are not wanted."
            )

    # State

    def _scope(self) -> str:
        """Name what decides which rows are seen: a bookmark holds for that alone."""
        names = ["base_url", "start_date", *(["finder", "filter"] if self.uses_finder else [])]
        if self.config.get("accept_language"):
            names.append("accept_language")  # another language, other names in every record
        text = "\n".join(str(self.config.get(name, "")) for name in names)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def _holds(self, state: Mapping[str, Any]) -> bool:
        """Tell whether what earlier runs read has all rows and attributes that this one would."""
        if not self.is_incremental or "attributes" not in state:
            return self.is_incremental
        # One that is gone is to become null in all rows.
        same = set(self.fields) == set(str(state["attributes"]).split(","))
        read_for = self._read_for()
        return same and all(state.get(name, "") == read_for[name] for name in ("shape", "scope"))

    def _read_for(self) -> dict[str, str]:
        """Say in state what is read and how: of other rows or attributes it has no knowledge."""
        return {
            "attributes": ",".join(self.fields),
            "shape": self.extra_property or "",
            "scope": self._scope(),
        }

    def _mark(self) -> datetime | None:
        value = self.stream_state.get("replication_key_value")
        return timestamp(value) if self.is_incremental else None

    def _bookmark(self) -> datetime | None:
        """Return since when changes are to be read; None: everything."""
        own = self._mark() if self._holds(self.stream_state) else None
        marks = [own, *(child.mark(self._scope()) for child in self._children_read)]
        return _earliest(marks) if self.is_incremental else None

    def _since(self, bookmark: datetime | None) -> datetime | None:
        begin = timestamp(self.config.get("start_date"))
        if bookmark is None:
            return begin
        since = bookmark - timedelta(seconds=self.config["lookback_seconds"])
        return max(since, begin) if begin else since

    def _resumable(self) -> Scan | None:
        state = self.stream_state
        return Scan.load(state.get("scan")) if self._holds(state) else None

    def _keep(self, scan: Scan, plan: RangePlan) -> None:
        if self.is_incremental:
            scan.bounds = plan.remaining()
            scan.children = [child.name for child in self._children_read if not child.is_down]
            self.stream_state.update(scan=scan.dump(), **self._read_for())

    def _mark_after(self, start: Start) -> datetime | None:
        """Say where the next run may start once all of this read has been emitted.

        That is the newest change from before the read. Once the server's clock is so far past it
        that no late commit can share its time any more, it is left behind, lookback and all: a
        pile of records with one time is not to be read again by each run. It is left behind by no
        more than that, since the clock may be a proxy's and wrong by a day.
        """
        if start.clock is None:
            return start.mark
        trusted = start.clock - timedelta(seconds=self.config["clock_margin_seconds"])
        if start.keys is not None:  # of the newest change nothing is known yet, see `Scan.newest`
            return max(trusted, start.mark or trusted)
        if start.mark is None:
            return None
        behind = start.mark + timedelta(seconds=self.config["lookback_seconds"] + 1)
        return behind if behind <= trusted else start.mark

    def _advance(self, mark: datetime | None) -> None:
        """Let the next run start from a mark, never from before the last one."""
        if not self.is_incremental:
            return
        state = self.stream_state
        state.update(scan="", **self._read_for())
        known = timestamp(state.get("replication_key_value"))
        newest = max((stamp for stamp in (mark, known) if stamp), default=None)
        if newest:
            state["replication_key"] = self.replication_key
            state["replication_key_value"] = newest.astimezone(UTC).isoformat()
            for child in self._children_read:
                child.advance(newest, self._scope())

    def _write_state_if_due(self, rows: int) -> None:
        self._rows_since_state += rows
        if (
            self._rows_since_state >= STATE_ROWS
            or time.monotonic() - self._last_state >= STATE_SECONDS
        ):
            self._write_state()

    def _write_state(self) -> None:
        self._rows_since_state, self._last_state = 0, time.monotonic()
        self.tap.state_writer.write_state(self.tap.state)


def _earliest(moments: Sequence[datetime | None]) -> datetime | None:
    known = [moment for moment in moments if moment]
    return min(known) if len(known) == len(moments) else None
