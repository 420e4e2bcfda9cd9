"""The target: reads messages, and passes each record to the fast or the stock path."""

from __future__ import annotations

import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator
from types import FrameType
from typing import IO, Any

import msgspec
from singer_sdk import typing as th
from singer_sdk.contrib.msgspec import decoder
from singer_sdk.mapper import SameRecordTransform
from singer_sdk.singerlib.encoding.base import GenericSingerReader
from singer_sdk.singerlib.exceptions import InvalidInputLine
from singer_sdk.singerlib.json import deserialize_json
from target_postgres.target import TargetPostgres  # type: ignore[import-untyped]

from target_postgres_copy.connector import LoadRefusedError
from target_postgres_copy.sink import CopySink

STATE_SECONDS = 10
"""How long a record may wait to be written, and state to be passed on."""


class BytesReader(GenericSingerReader[bytes]):
    """Reads messages as bytes, without decoding them to text first."""

    @property
    def default_input(self) -> IO[bytes]:
        """Standard input."""
        return sys.stdin.buffer

    def deserialize_json(self, line: bytes) -> dict[str, Any]:
        """Return a message.

        Raises:
            InvalidInputLine: the line is not JSON; the text does not quote it.
        """
        try:
            message: dict[str, Any] = decoder.decode(line)
        except msgspec.DecodeError:
            try:
                return deserialize_json(
                    line
                )  # accepts NaN, which Python writes but JSON does not allow
            except ValueError as error:
                text = f"A line of {len(line)} bytes is not JSON: {error}"
            raise InvalidInputLine(text) from None
        return message

    @staticmethod
    def assert_line_requires(line_dict: dict[str, Any], requires: set[str]) -> None:
        """Check that a message has the required keys.

        Raises:
            InvalidInputLine: a key is missing; the text does not quote the message.
        """
        missing = requires - line_dict.keys()
        if missing:
            raise InvalidInputLine(f"Line is missing required {', '.join(sorted(missing))} key(s)")


class CopyTarget(TargetPostgres):  # type: ignore[misc]
    """MeltanoLabs' target-postgres, faster, with a fence between runs that load the same tables."""

    default_sink_class = CopySink
    message_reader_class = BytesReader
    config_jsonschema = TargetPostgres.config_jsonschema | {
        "properties": TargetPostgres.config_jsonschema["properties"]
        | th.Property(
            "run_number",
            th.IntegerType,
            description=(
                "The number of the run, from a sequence of the database. Each batch calls the "
                "function `begin_batch(run_number)` of the target's schema, and fails if a later "
                "run has begun; the keys it read go to the table `read_keys` of that schema."
            ),
        ).to_dict()
        | th.Property(
            "lock_timeout",
            th.IntegerType(minimum=1),
            description=(
                "Seconds that a batch waits for a lock that another session holds. Then the load "
                "fails; without this setting, the server decides."
            ),
        ).to_dict()
    }

    def __init__(self, **kwargs: Any) -> None:
        """Set up the target; accepts the arguments of the stock one."""
        super().__init__(**kwargs)
        self.batches: defaultdict[tuple[str, int | None], dict[int, int]] = defaultdict(dict)
        """By stream and version: the batch numbers, with the number of keys each recorded."""
        self._plain: dict[str, CopySink] = {}
        self._latest: CopySink | None = None

    @classmethod
    def invoke(cls, **kwargs: Any) -> None:
        """Run the target; log a refusal by the database as one line, without a traceback."""
        try:
            super().invoke(**kwargs)
        except LoadRefusedError as error:
            cls.logger.error("%s", error)
            sys.exit(1)

    def process_lines(self, file_input: IO[Any] | None) -> Counter[str]:
        """Process all lines; return the number of messages by type."""
        taken: Counter[str] = Counter()
        lines = self._others(file_input or self.message_reader.default_input, taken)
        return Counter(super().process_lines(lines)) + taken

    def _others(self, lines: Iterable[Any], taken: Counter[str]) -> Iterator[Any]:
        """Take the records that are like the last one; return all other lines."""
        for line in lines:
            sink = self._latest
            if sink is None or not isinstance(line, bytes):
                yield line
                continue
            try:
                message = sink.lines.message_of(line)
            except ValueError:
                yield line
                continue
            taken["RECORD"] += 1
            self._begin_version(sink, message.version)
            record = message.record
            has_escapes = b"\\" in line
            is_full = sink.add(
                sink.lines.key_of(record), record, message.time_extracted, has_escapes=has_escapes
            )
            if is_full:
                self.drain_one(sink)
            self._handle_max_record_age()

    def _process_schema_message(self, message_dict: dict[str, Any]) -> None:
        super()._process_schema_message(message_dict)
        stream = message_dict["stream"]
        self._plain.pop(stream, None)
        self._latest = None
        (mapped, *more) = self.mapper.stream_maps[stream]
        if not more and type(mapped) is SameRecordTransform and not mapped.flattening_enabled:
            sink = self.get_sink(mapped.stream_alias)
            if isinstance(sink, CopySink) and sink.is_plain():
                sink.takes_records = True
                self._plain[stream] = sink

    def _process_record_message(self, message_dict: dict[str, Any]) -> None:
        sink = self._latest = self._plain.get(message_dict["stream"])
        if sink is None:
            super()._process_record_message(message_dict)
            return
        self._begin_version(sink, message_dict.get("version"))
        sink.take(message_dict)
        if sink.is_full:
            self.drain_one(sink)
        self._handle_max_record_age()

    def _begin_version(self, sink: CopySink, version: int | None) -> None:
        if version != sink.version:
            self.drain_one(sink)  # a batch has one version
            sink.version = version

    def _process_activate_version_message(self, message_dict: dict[str, Any]) -> None:
        self.drain_all()  # records of a sink whose schema was replaced belong to the version too
        super()._process_activate_version_message(message_dict)

    def _handle_max_record_age(self) -> None:
        if time.time() - self._last_full_drain_at > STATE_SECONDS:
            self.drain_all()

    def _handle_termination(self, signum: int, frame: FrameType | None) -> None:
        # No drain, unlike the stock target: it may wait for the batch that the signal interrupted.
        # State is passed on for written records only.
        self.logger.info("Received termination signal %d: stopping.", signum)
        sys.exit(128 + signum)
