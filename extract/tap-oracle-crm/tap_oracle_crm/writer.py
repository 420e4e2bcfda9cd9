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


RECORDS_AT_ONCE = 100
"""So many records are encoded together: few enough that the processor's cache holds their lines."""


def lines_of(records: Iterable[Any]) -> bytes:
    """Return each record as a line of JSON."""
    return _encoder.encode_lines(records)


class PageWriter(MsgSpecWriter):
    """The SDK's fastest writer, with one write for each page of records."""

    def __init__(self) -> None:
        super().__init__()
        self._writing = False
        self._exit_code: int | None = None

    def exit(self, code: int) -> None:
        """End the process with an exit code, after the message that is being written."""
        if self._writing and self._exit_code is None:
            self._exit_code = code
            return
        self._exit_code = None
        raise SystemExit(code)

    @contextmanager
    def _uninterrupted(self) -> Iterator[None]:
        self._writing = True
        try:
            yield
        except BrokenPipeError:
            # The buffer has no reader any more; flushing it must not raise a second error.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            msg = "The target stopped reading the tap's output: see the target's own messages."
            raise TargetError(msg) from None
        finally:
            self._writing = False
        if self._exit_code is not None:
            self.exit(self._exit_code)

    def write_message(self, message: Message) -> None:
        """Write one message."""
        with self._uninterrupted():
            super().write_message(message)

    def messages(
        self, stream: str, lines: Iterable[bytes], version: int | None = None
    ) -> Iterator[bytes]:
        """Turn lines of records, see `lines_of`, into lines of RECORD messages."""
        message: dict[str, Any] = {
            "type": "RECORD",
            "stream": stream,
            "time_extracted": datetime.now(UTC).isoformat(),
        }
        if version is not None:
            message["version"] = version
        head = _encoder.encode(message)[:-1] + b',"record":'
        for some in lines:
            # JSON escapes a line's end within a text.
            yield b"".join((head, some[:-1].replace(b"\n", b"}\n" + head), b"}\n"))

    def write_lines(self, lines: Iterable[bytes]) -> None:
        """Write lines."""
        with self._uninterrupted():
            sys.stdout.buffer.writelines(lines)
            sys.stdout.flush()
