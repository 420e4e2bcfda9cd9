"""The Singer side of every stream: selection, records and rejects."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from singer_sdk import Stream, metrics
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.singerlib.catalog import MetadataMapping, SelectionMask

from tap_oracle_crm.discovery import absent, schema_of
from tap_oracle_crm.errors import OracleCrmError, RefusedError
from tap_oracle_crm.reading import Reader
from tap_oracle_crm.records import MAX_RECORD_BYTES, RecordCleaner, RejectedError, Row
from tap_oracle_crm.rows import RowType
from tap_oracle_crm.settings import PERSONAL_DATA
from tap_oracle_crm.writer import RECORDS_AT_ONCE, lines_of

if TYPE_CHECKING:
    from tap_oracle_crm.tap import TapOracleCRM

T = TypeVar("T")

METRIC_SECONDS = 2
"""Seconds between two log records of the number of rows read."""


class CrmStream(Stream):
    """A stream whose records are attributes of a CRM resource.

    Attributes:
        path: the resource's path below the API's version.
        key: the integer attribute that identifies a record; it never changes.
        attributes: name and type (a key of `discovery.SCHEMAS`) of the built-in attributes; they
            are selected unless the catalog says otherwise.
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

    def log(self, message: str, *args: Any, level: int = logging.INFO, **kwargs: Any) -> None:
        """Log a line, but not the SDK's line on an "unhandled" error, which is logged already."""
        if not isinstance(sys.exc_info()[1], OracleCrmError) or level < logging.ERROR:
            super().log(message, *args, level=level, **kwargs)

    def get_replication_key_signpost(self, context: Any = None) -> None:
        """Return None: the server's clock limits bookmarks, not this machine's."""

    # Attributes

    @property
    def extra_property(self) -> str | None:
        """The property that holds, in an object, all attributes that are not built in."""
        return None

    @property
    def fields(self) -> list[str]:
        """The attributes to ask for: the selected ones that the CRM still has."""
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
        # These identify a record and its changes.
        needed = {self.key, self.replication_key, *self.automatic}
        omitted = PERSONAL_DATA if self.config["omit_personal_data"] else ()
        return [
            name
            for name in self.effective_schema["properties"]
            if name not in omitted and (name in needed or mask.get(("properties", name), True))
        ]

    @property
    def record_schema(self) -> dict[str, Any]:
        """The schema of the records; `--test` also reads a stream that is not selected."""
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

    def without_gone(
        self,
        make_reader: Callable[[], Reader],
        read: Callable[[Reader], T],
        witness: Callable[[Reader], Reader | None] = lambda reader: reader,
    ) -> T:
        """Read; after a refusal, retry without the attributes that the CRM no longer has.

        Args:
            make_reader: makes a reader of the current `fields`.
            read: reads with this reader.
            witness: makes a second reader, which must refuse a removed attribute too; None: there
                is none.

        Raises:
            RefusedError: the read was refused for another reason.
        """
        while True:
            reader = make_reader()
            try:
                return read(reader)
            except RefusedError as error:
                if not self._drop_gone(reader, error, witness(reader)):
                    raise

    def _drop_gone(self, reader: Reader, error: RefusedError, witness: Reader | None) -> bool:
        """Find the attributes that the CRM no longer has; return whether a retry may help.

        An error message proves nothing. An attribute counts as removed if a request for it and
        the key alone is refused, also by `witness`, and if all other attributes are served.
        """
        if error.status != 400 or witness is None:
            return False
        with self._gone_lock:
            asked = reader.collection.fields
            if self.fields != asked:
                return True  # another thread has found them meanwhile
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

    @cached_property
    def _cleaner(self) -> RecordCleaner:
        return RecordCleaner.of(
            self.effective_schema,
            self.key,
            self.selected_fields,
            built_in=self.attributes,
            extra_property=self.extra_property,
        )

    @cached_property
    def row_type(self) -> RowType | None:
        """Reads rows as records; None if these are not written as they are."""
        if not self.selected or not self._is_unmapped or self.replication_key is None:
            return None
        return RowType.of(self._cleaner, self.effective_schema, self.replication_key)

    @cached_property
    def _is_unmapped(self) -> bool:
        """Whether no stream map changes the records."""
        maps = self.stream_maps
        same = len(maps) == 1 and type(maps[0]) is SameRecordTransform
        return same and not maps[0].flattening_enabled

    def emit(self, rows: Iterable[Any]) -> list[Any]:
        """Repair and write rows, reject the others; return the written records."""
        records = []
        written = []
        for row in rows:
            try:
                records.append(row if isinstance(row, Row) else self._cleaner(row))
                written.append(row)
            except RejectedError as error:
                self.tap.rejects.add(self, row, str(error))
        if self.selected:
            records = self._write(records, written)
        return records

    def _write(self, records: list[Any], received: list[Any]) -> list[Any]:
        """Write records, except those that are too large; return the written ones."""
        if self._is_unmapped:
            lines = self._lines(records)
            if sum(map(len, lines)) > MAX_RECORD_BYTES:  # one of them may be too large
                records = self._those_that_fit(records, received)
                lines = self._lines(records)
            writer, alias = self.tap.writer, self.stream_maps[0].stream_alias
            writer.write_lines(writer.messages(alias, lines, self._stream_version))
        else:
            records = self._those_that_fit(records, received)
            for record in records:
                self._write_record_message(record)
        self.state_manager.is_flushed = False
        return records

    def _lines(self, records: list[Any]) -> list[bytes]:
        has_rows = any(isinstance(record, Row) for record in records)
        encode = self.row_type.lines if self.row_type and has_rows else lines_of
        return [
            encode(records[begin : begin + RECORDS_AT_ONCE])
            for begin in range(0, len(records), RECORDS_AT_ONCE)
        ]

    def _those_that_fit(self, records: list[Any], received: list[Any]) -> list[Any]:
        fitting = []
        for record, row in zip(records, received, strict=True):
            size = len(self._lines([record])[0])
            if size > MAX_RECORD_BYTES:
                reason = f"{size:,} bytes: more than {MAX_RECORD_BYTES:,} cannot pass Meltano"
                self.tap.rejects.add(self, row, reason)
            else:
                fitting.append(record)
        return fitting

    @contextmanager
    def counted(self) -> Iterator[metrics.Counter]:
        """Log the SDK's counters when the stream ends, even with an error."""
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
    """Return the attributes that the CRM refuses, found by halving the list."""
    if not names or reader.serves(names):
        return []
    if len(names) == 1:
        return names
    half = len(names) // 2
    return _refused(reader, names[:half]) + _refused(reader, names[half:])
