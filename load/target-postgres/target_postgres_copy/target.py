"""The fast path, as subclasses of the stock target and its sink."""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import IO, Any

import msgspec
from psycopg import sql
from singer_sdk.contrib.msgspec import decoder
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.singerlib.encoding.base import GenericSingerReader
from singer_sdk.singerlib.exceptions import InvalidInputLine
from sqlalchemy import inspect, types
from target_postgres.sinks import PostgresSink  # type: ignore[import-untyped]
from target_postgres.target import TargetPostgres  # type: ignore[import-untyped]

STATE_SECONDS = 10
"""How long a record may wait to be written, and state to be given out."""
PLAIN = (types.String, types.Numeric, types.Integer, types.Boolean, types.Date, types.DateTime)
"""Types whose values COPY takes as JSON shows them."""

_STAGE = "create temporary table {staged} (like {table}) on commit drop"
_COPY = "copy {staged} ({columns}) from stdin"
_UPSERT = """
    insert into {table} as held ({columns})
    select {columns} from {staged}
    on conflict ({key}) do update set ({columns}) = row({excluded})
    where
        held._sdc_extracted_at is null
        or excluded._sdc_extracted_at >= held._sdc_extracted_at
"""


class BytesReader(GenericSingerReader[bytes]):
    """Reads messages as bytes: what need not become text does not."""

    @property
    def default_input(self) -> IO[bytes]:
        """Standard input."""
        return sys.stdin.buffer

    def deserialize_json(self, line: bytes) -> dict[str, Any]:
        """Return a message.

        Raises:
            InvalidInputLine: it is no JSON; the text does not quote it.
        """
        try:
            message: dict[str, Any] = decoder.decode(line)
        except msgspec.DecodeError as error:
            raise InvalidInputLine(f"A line of {len(line)} bytes is no JSON: {error}") from None
        return message


class CopySink(PostgresSink):  # type: ignore[misc]
    """Writes a batch with COPY and one upsert."""

    @property
    def is_plain(self) -> bool:
        """Whether the fast path does what the stock target would do."""
        types_of = map(self.connector.to_sql_type, self.schema["properties"].values())
        return (
            bool(self.key_properties)
            and self.config["use_copy"]
            and self.include_sdc_metadata_properties
            and not self.validate_schema
            and not self.connector.sanitize_null_text_characters
            and all(isinstance(kind, PLAIN) for kind in types_of)
            and self._has_key()
        )

    def _has_key(self) -> bool:
        """Whether the table, which may be older than this target, has the stream's primary key."""
        with self.connector._connect() as connection:
            key = inspect(connection).get_pk_constraint(self.table_name, self.schema_name)
        return set(key["constrained_columns"]) == set(self.key_properties)

    def take(self, message: dict[str, Any]) -> None:
        """Keep a RECORD message for the batch; of several with one key the last."""
        context = self._get_context({})
        if "rows" not in context:
            context["rows"] = {}
            context["same"] = {
                "_sdc_batched_at": context["batch_start_time"].isoformat(),
                "_sdc_sync_started_at": self.sync_started_at,
            }
        record = message["record"]
        record |= context["same"]
        record["_sdc_extracted_at"] = message.get("time_extracted")
        record["_sdc_received_at"] = datetime.now(UTC).isoformat()
        record["_sdc_sequence"] = time.time_ns() // 1_000_000
        record["_sdc_table_version"] = message.get("version")
        key = tuple(map(record.get, self.key_properties))
        context["rows"][key] = list(map(record.get, self.schema["properties"]))
        self.tally_record_read()

    def process_batch(self, context: dict[str, Any]) -> None:
        """Write the batch, in one transaction."""
        if "rows" not in context:
            super().process_batch(context)
            return
        rows = context["rows"].values()
        with (
            self.connector._connect() as connection,
            connection.begin(),
            connection.connection.cursor() as cursor,
        ):
            cursor.execute(self._sql(_STAGE))
            with cursor.copy(self._sql(_COPY)) as copy:
                for row in rows:
                    copy.write_row(row)
            cursor.execute(self._sql(_UPSERT))
        self.record_counter_metric.increment(self.current_size)
        self.tally_duplicate_merged(self.current_size - len(rows))

    def _sql(self, statement: str) -> sql.Composed:
        columns = [sql.Identifier(name) for name in self.schema["properties"]]
        comma = sql.SQL(", ")
        return sql.SQL(statement).format(
            staged=sql.Identifier(self.temp_table_name),
            table=sql.Identifier(*filter(None, [self.schema_name, self.table_name])),
            columns=comma.join(columns),
            excluded=comma.join(sql.SQL("excluded.") + column for column in columns),
            key=comma.join(map(sql.Identifier, self.key_properties)),
        )


class CopyTarget(TargetPostgres):  # type: ignore[misc]
    """The stock target, but for streams that the fast path can take."""

    default_sink_class = CopySink
    message_reader_class = BytesReader

    def __init__(self, **kwargs: Any) -> None:
        """Set up the target; takes what the stock one takes."""
        super().__init__(**kwargs)
        self._plain: dict[str, CopySink] = {}

    def _process_schema_message(self, message_dict: dict[str, Any]) -> None:
        super()._process_schema_message(message_dict)
        stream = message_dict["stream"]
        self._plain.pop(stream, None)
        (mapped, *more) = self.mapper.stream_maps[stream]
        if not more and type(mapped) is SameRecordTransform and not mapped.flattening_enabled:
            sink = self.get_sink(mapped.stream_alias)
            if isinstance(sink, CopySink) and sink.is_plain:
                self._plain[stream] = sink

    def _process_record_message(self, message_dict: dict[str, Any]) -> None:
        sink = self._plain.get(message_dict["stream"])
        if sink is None:
            super()._process_record_message(message_dict)
            return
        sink.take(message_dict)
        if sink.is_full:
            self.drain_one(sink)
        self._handle_max_record_age()

    def _handle_max_record_age(self) -> None:
        if time.time() - self._last_full_drain_at > STATE_SECONDS:
            self.drain_all()
