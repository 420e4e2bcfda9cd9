"""The Singer side of every stream: selection, records and rejects."""

from __future__ import annotations

import logging
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

from singer_sdk import Stream, metrics
from singer_sdk.helpers.conform import TypeConformanceLevel
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.singerlib.catalog import MetadataMapping, SelectionMask

from tap_oracle_crm.discovery import absent, schema_of
from tap_oracle_crm.errors import OracleCrmError, RefusedError
from tap_oracle_crm.reading import Reader
from tap_oracle_crm.records import MAX_RECORD_BYTES, RecordCleaner, RejectedError
from tap_oracle_crm.writer import encoded_size

if TYPE_CHECKING:
    from tap_oracle_crm.tap import TapOracleCRM

T = TypeVar("T")

METRIC_SECONDS = 2
"""Between two records of how many rows were read, for those who follow a run."""


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

    def without_gone(
        self,
        make_reader: Callable[[], Reader],
        read: Callable[[Reader], T],
        witness: Callable[[Reader], Reader | None] = lambda reader: reader,
    ) -> T:
        """Read, and where it is refused, once more without the attributes that are gone.

        Args:
            make_reader: returns what asks for `fields` as they are then.
            read: reads.
            witness: returns what is to refuse an attribute too, if it is gone; None: nothing can.

        Raises:
            RefusedError: it was refused for something else.
        """
        while True:
            reader = make_reader()
            try:
                return read(reader)
            except RefusedError as error:
                if not self._drop_gone(reader, error, witness(reader)):
                    raise

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
