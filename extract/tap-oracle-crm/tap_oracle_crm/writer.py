"""Writes Singer messages, records a page at a time."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from singer_sdk.contrib.msgspec import MsgSpecWriter
from singer_sdk.singerlib.encoding.simple import Message

from tap_oracle_crm.errors import TargetError

_encoder = msgspec.json.Encoder(decimal_format="number")


def encoded_size(record: dict[str, Any]) -> int:
    """Return how many bytes a record takes in a message."""
    return len(_encoder.encode(record))


class PageWriter(MsgSpecWriter):
    """The SDK's fastest writer, and one write for a page of records instead of one for each."""

    def __init__(self) -> None:
        super().__init__()
        self._writing = False
        self._leave_with: int | None = None

    def leave(self, code: int) -> None:
        """End the process with an exit code, after the message that is being written."""
        if self._writing and self._leave_with is None:
            self._leave_with = code
            return
        self._leave_with = None
        raise SystemExit(code)

    @contextmanager
    def _whole(self) -> Iterator[None]:
        self._writing = True
        try:
            yield
        except BrokenPipeError:
            # The rest of the buffer has no reader; flushing it must not raise a second error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            msg = "The target stopped reading what the tap writes: see the target's own messages."
            raise TargetError(msg) from None
        finally:
            self._writing = False
        if self._leave_with is not None:
            self.leave(self._leave_with)

    def write_message(self, message: Message) -> None:
        """Write one message."""
        with self._whole():
            super().write_message(message)

    def encode(
        self, stream: str, records: Iterable[dict[str, Any]], version: int | None = None
    ) -> bytes:
        """Return a line with a RECORD message for each record."""
        message: dict[str, Any] = {
            "type": "RECORD",
            "stream": stream,
            "time_extracted": datetime.now(UTC).isoformat(),
        }
        if version is not None:
            message["version"] = version
        return _encoder.encode_lines([{**message, "record": record} for record in records])

    def write_lines(self, lines: bytes) -> None:
        """Write lines as `encode` returns them."""
        with self._whole():
            sys.stdout.buffer.write(lines)
            sys.stdout.flush()
