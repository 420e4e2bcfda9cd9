"""The sink: a batch is one transaction of COPY, fence, upsert and keys."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from typing import TYPE_CHECKING, Any

import sqlalchemy
from psycopg import Copy, Cursor, errors, sql
from singer_sdk.exceptions import MissingKeyPropertiesError
from sqlalchemy import types
from sqlalchemy.dialects.postgresql import BIGINT, JSONB
from target_postgres.sinks import PostgresSink  # type: ignore[import-untyped]

from target_postgres_copy.connector import (
    CopyConnector,
    LoadRefusedError,
    Table,
    refusals_without_values,
)
from target_postgres_copy.lines import COPY_OPTIONS, Lines, Record, line_with

if TYPE_CHECKING:
    from target_postgres_copy.target import CopyTarget

PLAIN = (types.String, types.Numeric, types.Integer, types.Boolean, types.Date, types.DateTime)
"""Types whose values COPY accepts in their JSON form."""
BATCH_COLUMN = "_loaded_in"
OF_MESSAGES = (
    "_sdc_extracted_at",
    "_sdc_received_at",
    "_sdc_batched_at",
    "_sdc_sequence",
    "_sdc_table_version",
    "_sdc_sync_started_at",
)
"""Columns with what is the same for many records that arrive together."""
LINES_AT_ONCE = 1_000
"""So many lines are given to the connection together."""

_STAGE = "create temporary table {staged} (like {table}) on commit drop"
_COPY = "copy {staged} ({columns}) from stdin {options}"
_IS_EMPTY = "select not exists (select from {table})"
_FILL = "copy {table} ({columns}, {batch_column}) from stdin {options}"
_FILL_KEYS = "copy {schema}.read_keys (loaded_in, stream, record_key) from stdin {options}"
_BEGIN_BATCH = "select {schema}.begin_batch({run})"
# A batch is small compared to its table. The planner does not know this of a table that was just
# filled: it would read the whole table for each batch.
_BY_KEY = "set local enable_hashjoin = off; set local enable_mergejoin = off"
# `on conflict` alone would write a lock to each existing row, even to an unchanged one.
_UPSERT = """
    insert into {table} as held ({into})
    select {values} from {staged} as staged
    where not exists (
        select from {table} as held
        where row({held_key}) = row({staged_key})
        and row({held_compared}) is not distinct from row({staged_compared})
    )
    on conflict ({key}) do update set ({into}) = row({excluded})
"""
_RECORD_KEYS = """
    insert into {schema}.read_keys (loaded_in, stream, record_key)
    select {batch}, {stream}, {staged_key_text} from {staged} as staged
"""
_COUNT_KEYS = """
    select count(*) from {schema}.read_keys where loaded_in = any({batches}) and stream = {stream}
"""
_KEY_NOT_READ = """
    not exists (
        select from {schema}.read_keys
        where loaded_in = any({batches}) and stream = {stream} and record_key = {held_key_text}
    )
"""
_OLDER_VERSION = "(held._sdc_table_version < {version} or held._sdc_table_version is null)"
_DELETE = "delete from {table} as held where {gone}"
_MARK = """
    update {table} as held set _sdc_deleted_at = now(){marked_in}
    where held._sdc_deleted_at is null and {gone}
"""


class CopySink(PostgresSink):  # type: ignore[misc]
    """Writes a batch with COPY and one upsert, which does not write unchanged rows."""

    connector_class = CopyConnector

    def __init__(self, target: CopyTarget, *args: Any, **kwargs: Any) -> None:
        """Set up the sink; accepts the arguments of the stock one."""
        super().__init__(target, *args, **kwargs)
        self.takes_records = False
        """Whether the target passes records to `take`."""
        self.version: int | None = None
        """The version of the records in the current batch."""
        self._run: int | None = self.config.get("run_number")
        self._batches = target.batches
        self._types = {
            name: self.connector.to_sql_type(definition)
            for name, definition in self.schema["properties"].items()
        }
        self._copied = [name for name in self._types if name not in OF_MESSAGES]
        self._copied += OF_MESSAGES
        self._most = self.max_size
        self._fills: bool | None = None
        self._arrived: tuple[int, str | None] | None = None

    @cached_property
    def lines(self) -> Lines:
        """Turns records into lines for COPY."""
        columns = {name: kind for name, kind in self._types.items() if name not in OF_MESSAGES}
        return Lines(self.stream_name, columns, self.key_properties)

    def setup(self) -> None:
        """Create or adapt the table; the stock target asks for its columns three times."""
        connector = self.connector
        self.append_only = not self.key_properties
        wanted = self._types | ({} if self._run is None else {BATCH_COLUMN: BIGINT()})
        with refusals_without_values(self.stream_name):
            if self._table() is None:
                super().setup()
                connector.forget_tables()
            table = self._table()
            columns = table.columns if table else {}
            changes = {
                name: kind
                for name, kind in wanted.items()
                if not connector.fits(columns.get(name), kind)
            }
            if changes:
                with connector._connect() as connection, connection.begin():
                    for name, kind in changes.items():
                        connector.prepare_column(
                            self.full_table_name, name, kind, connection, columns.get(name)
                        )
                connector.forget_tables()

    def _table(self) -> Table | None:
        table: Table | None = self.connector.table(self.schema_name, self.table_name)
        return table

    def is_plain(self) -> bool:
        """Return whether the fast path gives the same result as the stock target."""
        return (
            bool(self.key_properties)
            and self.config["use_copy"]
            and self.include_sdc_metadata_properties
            and not self.validate_schema
            and not self.connector.sanitize_null_text_characters
            and all(isinstance(kind, (*PLAIN, JSONB)) for kind in self._types.values())
            and all(isinstance(self._types.get(name), PLAIN) for name in self.key_properties)
            and self._has_key()
        )

    def _has_key(self) -> bool:
        """Whether the table has the stream's primary key; an older table may lack it."""
        table = self._table()
        return table is not None and table.key == set(self.key_properties)

    def take(self, message: dict[str, Any]) -> None:
        """Add a RECORD message to the batch; it replaces an earlier one with the same key.

        Raises:
            MissingKeyPropertiesError: the record has no key.
            LoadRefusedError: a value has the wrong type.
        """
        values = message["record"]
        key = tuple(map(values.get, self.key_properties))
        if None in key:
            raise MissingKeyPropertiesError(
                "Record is missing one or more key_properties. \n"
                f"Key Properties: {self.key_properties}, Record Keys: {list(values)}"
            )
        record = self.lines.record_of(values)
        extracted = message.get("time_extracted")
        self.add(key if len(key) > 1 else key[0], record, extracted, has_escapes=True)

    def add(self, key: Any, record: Record, extracted: str | None, *, has_escapes: bool) -> bool:
        """Add a record to the batch; return whether the batch is full.

        Args:
            key: its key, as `Lines.key_of` returns it.
            record: the record.
            extracted: when the tap received it.
            has_escapes: see `Lines.line_of`.
        """
        context = self._get_context({})
        arrived = (time.time_ns() // 1_000_000, extracted)
        if arrived != self._arrived or "rows" not in context:
            self._arrived = arrived
            context.setdefault("rows", {})
            self._of_messages = b"," + line_with(
                extracted,
                datetime.now(UTC).isoformat(),
                context["batch_start_time"].isoformat(),
                arrived[0],
                self.version,
                self.sync_started_at,
            )
        context["rows"][key] = (
            self.lines.line_of(record, has_escapes=has_escapes) + self._of_messages
        )
        self.tally_record_read()
        return bool(self.current_size >= self._most)

    def process_batch(self, context: dict[str, Any]) -> None:
        """Write the batch, in one transaction."""
        if "rows" not in context:
            with refusals_without_values(self.stream_name):
                super().process_batch(context)
            return
        rows = context["rows"]
        with self._transaction() as cursor:
            if not self._is_filling(cursor) or not self._fill(cursor, rows):
                cursor.execute(self._sql(_STAGE))
                with cursor.copy(self._sql(_COPY)) as copy:
                    _write(copy, rows.values())
                batch = self._begin_batch(cursor)
                cursor.execute(_BY_KEY)
                cursor.execute(self._upsert(batch))
                self._record_keys(cursor, batch)
        self.record_counter_metric.increment(self.current_size)
        self.tally_duplicate_merged(self.current_size - len(rows))

    def _is_filling(self, cursor: Cursor[Any]) -> bool:
        """Return whether this load began with an empty table, and has met no row twice since."""
        if self._fills is None:
            (is_empty,) = cursor.execute(self._sql(_IS_EMPTY)).fetchone() or (False,)
            self._fills = bool(is_empty and self.lines.key_is_text)
        return self._fills

    def _fill(self, cursor: Cursor[Any], rows: Mapping[Any, bytes]) -> bool:
        """Copy a batch straight into its table.

        Returns:
            False if the run has no number, or if the table has one of the keys.
        """
        batch = self._begin_batch(cursor)
        if batch is None:
            return False
        number = b",%d" % batch
        cursor.execute("savepoint filled")
        try:
            with cursor.copy(self._sql(_FILL, batch_column=sql.Identifier(BATCH_COLUMN))) as copy:
                _write(copy, (line + number for line in rows.values()))
        except errors.UniqueViolation:
            cursor.execute("rollback to savepoint filled")
            self._fills = False
            return False
        with cursor.copy(self._sql(_FILL_KEYS)) as copy:
            _write(copy, (line_with(batch, self.stream_name, str(key)) for key in rows))
        self._batches[self.stream_name, self.version][batch] = len(rows)
        return True

    def upsert(
        self,
        from_table: sqlalchemy.Table,
        to_table: sqlalchemy.Table,
        schema: dict[str, Any],
        join_keys: Sequence[str],
        connection: Any,
    ) -> int | None:
        """Do the stock target's upsert with the same fence, in the batch's transaction."""
        with connection.connection.cursor() as cursor:
            self._record_keys(cursor, self._begin_batch(cursor))
        written: int | None = super().upsert(from_table, to_table, schema, join_keys, connection)
        return written

    def activate_version(self, new_version: int) -> None:
        """Delete or mark the rows that are not in this version; the time is the database's."""
        if self.config["activate_version"] is False:
            super().activate_version(new_version)
            return
        with self._transaction() as cursor:
            batch = self._begin_batch(cursor)
            if batch is not None and self.takes_records:
                gone = self._key_not_read(cursor, new_version)
            else:  # every row of this version was written
                gone = self._sql(_OLDER_VERSION, version=sql.Literal(new_version))
            marked_in = sql.SQL("" if batch is None else f", {BATCH_COLUMN} = {batch}")
            statement = _DELETE if self.config["hard_delete"] else _MARK
            cursor.execute(self._sql(statement, gone=gone, marked_in=marked_in))

    def _key_not_read(self, cursor: Cursor[Any], version: int) -> sql.Composed:
        """Return the condition for rows that were not read; unchanged rows keep an old version.

        Raises:
            LoadRefusedError: the recorded keys are not complete, so they prove nothing.
        """
        keys = self._batches[self.stream_name, version]
        named = {"batches": sql.SQL("{}::bigint[]").format(sql.Literal(list(keys)))}
        (recorded,) = cursor.execute(self._sql(_COUNT_KEYS, **named)).fetchone() or (0,)
        if recorded != sum(keys.values()):
            raise LoadRefusedError(
                f"{self.stream_name}: {sum(keys.values())} keys of version {version} were read, "
                f"but {recorded} are recorded; no row was marked as deleted."
            )
        return self._sql(_KEY_NOT_READ, **named)

    @contextmanager
    def _transaction(self) -> Iterator[Cursor[Any]]:
        with (
            refusals_without_values(self.stream_name),
            self.connector._connect() as connection,
            connection.begin(),
            connection.connection.cursor() as cursor,
        ):
            yield cursor

    def _begin_batch(self, cursor: Cursor[Any]) -> int | None:
        """Return the number of the batch, or None if the run has no number.

        Call it after the COPY: it blocks all other batches until the transaction ends.
        """
        if self._run is None:
            return None
        statement = self._sql(_BEGIN_BATCH, run=sql.Literal(self._run))
        (batch,) = cursor.execute(statement).fetchone() or (None,)
        return batch

    def _record_keys(self, cursor: Cursor[Any], batch: int | None) -> None:
        """Record the keys that were read, also those of unchanged rows."""
        if batch is not None and self.key_properties:
            cursor.execute(self._sql(_RECORD_KEYS, batch=sql.Literal(batch)))
            self._batches[self.stream_name, self.version][batch] = cursor.rowcount

    def _upsert(self, batch: int | None) -> sql.Composed:
        columns = [sql.Identifier(name) for name in self._types]
        # Unchanged rows are not written. But without a run's number, their version must be.
        compared = [
            sql.Identifier(name)
            for name in self._types
            if not name.startswith("_sdc_")
            or name == "_sdc_deleted_at"
            or (name == "_sdc_table_version" and batch is None)
        ]
        into: list[sql.Composable] = [*columns]
        values: list[sql.Composable] = [*columns]
        if batch is not None:
            into.append(sql.Identifier(BATCH_COLUMN))
            values.append(sql.Literal(batch))
        return self._sql(
            _UPSERT,
            into=_comma_separated(into),
            values=_comma_separated(values),
            excluded=_comma_separated(_qualified("excluded", into)),
            held_compared=_comma_separated(_qualified("held", compared)),
            staged_compared=_comma_separated(_qualified("staged", compared)),
        )

    def _sql(self, statement: str, **more: sql.Composable) -> sql.Composed:
        key = [sql.Identifier(name) for name in self.key_properties]
        return sql.SQL(statement).format(
            staged=sql.Identifier(self.temp_table_name),
            schema=sql.Identifier(self.schema_name),
            table=sql.Identifier(self.schema_name, self.table_name),
            stream=sql.Literal(self.stream_name),
            columns=_comma_separated(map(sql.Identifier, self._copied)),
            options=sql.SQL(COPY_OPTIONS),
            key=_comma_separated(key),
            held_key=_comma_separated(_qualified("held", key)),
            staged_key=_comma_separated(_qualified("staged", key)),
            held_key_text=_as_text(_qualified("held", key)),
            staged_key_text=_as_text(_qualified("staged", key)),
            **more,
        )


def _write(copy: Copy, lines: Iterable[bytes]) -> None:
    lines = iter(lines)
    while some := list(islice(lines, LINES_AT_ONCE)):
        copy.write(b"\n".join([*some, b""]))


def _comma_separated(parts: Iterable[sql.Composable]) -> sql.Composed:
    return sql.SQL(", ").join(parts)


def _qualified(table: str, columns: Iterable[sql.Composable]) -> list[sql.Composable]:
    return [sql.SQL(table + ".") + column for column in columns]


def _as_text(key: list[sql.Composable]) -> sql.Composed:
    whole = sql.SQL("{}" if len(key) == 1 else "row({})").format(_comma_separated(key))
    return whole + sql.SQL("::text")
