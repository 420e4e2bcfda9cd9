"""Streams that read a whole collection, or its changes since the last run."""

from __future__ import annotations

import contextlib
import logging
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, cast

from singer_sdk import metrics

from tap_oracle_crm.answers import Page
from tap_oracle_crm.errors import OracleCrmError, RefusedError, StoppedError, is_fatal
from tap_oracle_crm.progress import Coverage, Progress, ReadMetric
from tap_oracle_crm.query import Query
from tap_oracle_crm.ranges import RangePlan
from tap_oracle_crm.reading import Collection, Reader, timestamp
from tap_oracle_crm.rows import RowType
from tap_oracle_crm.settings import DEFAULT_FINDER
from tap_oracle_crm.state import ReadState, Scan
from tap_oracle_crm.stream import CrmStream

if TYPE_CHECKING:
    from tap_oracle_crm.children import ChildStream
    from tap_oracle_crm.tap import TapOracleCRM

STATE_SECONDS = 5
STATE_ROWS = 10_000


class CollectionStream(CrmStream):
    """A stream that reads a whole collection, or its changes since the last run.

    Attributes:
        uses_finder: the settings `finder` and `filter` apply.
        is_further: the run goes on if this stream cannot be read.
        changed: the attribute with the time of a record's last change.
        needed: the built-in attributes that each CRM has, whatever its description says.
        asked_if_described: the built-in attributes to ask for only if the CRM describes them.
    """

    uses_finder: ClassVar[bool] = False
    is_further: ClassVar[bool] = True
    changed: ClassVar[str] = "LastUpdateDate"
    needed: ClassVar[tuple[str, ...]] = ()
    asked_if_described: ClassVar[tuple[str, ...]] = ()

    def __init__(self, tap: TapOracleCRM, schema: dict[str, Any] | None = None) -> None:
        super().__init__(tap, schema)
        self.replication_key = self.changed
        self.read_state = ReadState(self)
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
        """Whether the state decides which records are read."""
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
                "Could not be read (%s): this run skips it, the next one tries again",
                error.cause,
                level=logging.WARNING,
            )
        except BaseException:
            self.tap.client.stopping.set()  # workers must send no more requests for a failed run
            raise
        finally:
            self._write_state()

    def _read(self, counter: metrics.Counter) -> None:
        """Read, and report the coverage at the end."""
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
        tags = {"coverage": str(coverage), "scope": self.read_state.scope}
        if self.is_incremental and (mark := self.stream_state.get("replication_key_value")):
            tags["bookmark"] = mark
        self._gauge(ReadMetric.COVERAGE, self.rows_read, **tags)

    def _tell_of_limit(self) -> None:
        seconds = self.config["max_runtime_seconds"]
        self.log(
            "Stopped at the run-time limit of %s s: all records read so far stay, the next run "
            "continues from there",
            seconds,
            level=logging.WARNING,
        )
        self._gauge(ReadMetric.RUNTIME_LIMIT, seconds)

    def _gauge(self, metric: ReadMetric, value: int | None, **tags: str) -> None:
        name = cast("metrics.Metric", metric)
        self._log_metric(metrics.Point("gauge", name, value, {"stream": self.name, **tags}))

    # Reading

    def reader(self, finder: str | None = None, row_type: RowType | None = None) -> Reader:
        """Return the reader of this collection."""
        collection = self.collection(self.config, self.fields, finder)
        return Reader(self.tap.client, collection, row_type)

    @classmethod
    def collection(
        cls, settings: Mapping[str, Any], fields: Sequence[str], finder: str | None = None
    ) -> Collection:
        """Return the query of these settings.

        Args:
            settings: the tap's settings.
            fields: the attributes to ask for.
            finder: replaces the finder of the settings.
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
        row_type = None if self.children else self.row_type  # child streams need records
        coverage = self.without_gone(
            lambda: self.reader(row_type=row_type), lambda reader: self._read_once(reader, counter)
        )
        if not self.is_incremental:
            self._activate_version()
        return coverage

    def _read_once(self, reader: Reader, counter: metrics.Counter) -> Coverage:
        """Finish the scan of an earlier run, if any, then read the changes since."""
        self.emitted = self.rows_read = 0
        scan = self.read_state.unfinished_scan()
        if scan:
            self._children_read = [child for child in self.children if child.name in scan.children]
            self._log_claimed_total(scan.claimed, scan.full, scan.since, resumed=scan.rows)
            plan = RangePlan(scan.bounds, page_size=self.tap.client.page_size)
            if any(high is None for _, high in scan.bounds):
                reader.learn_largest(plan)
            self._scan(reader, plan, scan, counter)
        self._children_read = self._readable_children()
        is_complete = self._read_changes(reader, counter)
        if scan:
            return Coverage.PARTIAL
        return Coverage.COMPLETE if is_complete else Coverage.CHANGES

    def _begin_version(self) -> None:
        """Number this read, always higher than the one before, even if the clock went back."""
        known = self.stream_state.get("version", 0)
        self._stream_version = max(int(time.time() * 1000), known + 1)
        self.stream_state["version"] = self._stream_version

    def _activate_version(self) -> None:
        """Let a target drop or mark the records that this read did not find.

        If a user suddenly sees no records, that does not prove that all were deleted.
        """
        if self.selected and self.emitted and self._stream_version:
            self._write_activate_version_message(self._stream_version)

    def _read_changes(self, reader: Reader, counter: metrics.Counter) -> bool:
        """Read the changes since the bookmark; return whether all records were read."""
        state = self.read_state
        bookmark = state.bookmark(self._children_read)
        since = state.since(bookmark)
        start = reader.start(since)
        if bookmark is None and state.read_until:
            self.log(
                "The attributes, the child streams, the address, the finder, the filter or the "
                "start date changed since the last run: all rows are read again"
            )
        elif bookmark != state.read_until:
            self.log("Changes since %s are read again for child streams", bookmark)
        self._log_claimed_total(
            start.page.total, bookmark is None, since.isoformat() if since else None
        )
        if bookmark is None:
            self._check_record_set(start.page)
        mark = state.mark_after(start)
        if start.page.complete:
            self._emit_batch(start.page.items, counter)
            state.advance(mark, self._children_read)
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
        """Read a few records for `--test`; the state does not change."""
        rows = self.without_gone(self.reader, lambda reader: reader.some(limit))
        self._children_read = self.children
        self._emit_batch(rows, counter)

    def _scan(self, reader: Reader, plan: RangePlan, scan: Scan, counter: metrics.Counter) -> None:
        since = datetime.fromisoformat(scan.since) if scan.since else None
        progress = Progress(self, scan.rows, scan.claimed)
        batches = reader.scan(plan, since)
        try:
            self.read_state.save_scan(scan, plan, self._children_read)
            for batch in batches:
                if batch is not None:
                    self._emit_batch(batch.rows, counter)
                    scan.rows += len(batch.rows)
                    if scan.newest is not None:
                        newest = reader.newest(batch.rows, timestamp(scan.newest))
                        scan.newest = newest.isoformat() if newest else ""
                    plan.wrote(batch.item, batch.upto, last_page=batch.last)
                    self.read_state.save_scan(scan, plan, self._children_read)
                    self._write_state_if_due(len(batch.rows))
                progress.tell(scan.rows)
                if self.tap.client.stopping.is_set():
                    raise StoppedError
        finally:
            batches.close()
            self.log("%s", self.tap.client.gate)
        if scan.rows != scan.claimed:
            keyless = reader.keyless(since)
            self._emit_batch(keyless, counter)
            scan.rows += len(keyless)
        progress.tell(scan.rows, end=True)
        if scan.claimed and scan.full and scan.rows < 0.99 * scan.claimed:
            self.log(
                "The CRM claimed %d rows and gave %d: its totals are sometimes wrong, or rows "
                "were deleted during the read",
                scan.claimed,
                scan.rows,
                level=logging.WARNING,
            )
        mark = timestamp(scan.mark)
        if mark and scan.newest is not None:
            newest = timestamp(scan.newest)
            mark = min(mark, newest) if newest else None
        self.read_state.advance(mark, self._children_read)

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

        If a stream is behind, all opportunities that changed since then are read again.
        """
        own = self.read_state.usable_mark
        readable = []
        for child in self.children:
            mark = child.mark(self.read_state.scope)
            is_behind = own is not None and (mark is None or mark < own)
            if not child.is_left_out and (not is_behind or child.is_served(self.reader())):
                readable.append(child)
        return readable

    def _log_claimed_total(
        self, total: int | None, full: bool, since: str | None, resumed: int | None = None
    ) -> None:
        # A resumed first read is followed by the changes since; both count as one full read.
        self._full = self._full or full
        kind = "FULL" if self._full else "INCREMENTAL"
        claimed = "does not say how many records" if total is None else f"claims {total:,} records"
        text = f"{kind} read: the CRM {claimed} visible to this user"
        if since:
            text += f" changed since {since}"
        if resumed is not None:
            text += f"; the interrupted run before read {resumed:,} of them"
        self.log("%s", text)
        self._gauge(ReadMetric.RECORDS_CLAIMED, total, sync_type=kind)

    def _check_record_set(self, page: Page) -> None:
        """Check that a first read sees all records that the user may see.

        Few or no rows are the sign of a wrong record set; the CRM reports no error for it.

        Raises:
            OracleCrmError: only a wrong finder or missing rights can explain so few rows.
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
            whole = (
                self.reader(DEFAULT_FINDER).start(self.read_state.since(None), limit=1).page.total
            )
        except RefusedError:
            return  # this instance has no such record set to compare with
        if whole is not None and whole > page.total:
            raise OracleCrmError(
                f"The finder {finder} shows {page.total:,} {self.path}, and {DEFAULT_FINDER} shows "
                f"this user {whole:,}. Correct the setting finder, or set allow_partial to true if "
                "the others are not wanted."
            )

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
