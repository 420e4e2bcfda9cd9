"""Turns RECORD messages into the text that COPY reads, without a value at a time in Python.

msgspec reads a message, checks its types and writes the values again as a JSON array. Without its
brackets, such an array is a line of CSV with a backslash as its escape character. Only escaped
control characters differ; they are replaced where a message has a backslash at all.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from operator import attrgetter
from typing import Any, Literal

import msgspec
from msgspec import Raw
from msgspec.structs import astuple
from singer_sdk.contrib.msgspec import encoder
from sqlalchemy import types
from sqlalchemy.dialects.postgresql import JSONB

from target_postgres_copy.connector import LoadRefusedError

COPY_OPTIONS = r"(format csv, escape '\', null 'null', encoding 'UTF8')"
"""How COPY reads the lines."""

_NULL = Raw(b"null")
_ESCAPE = re.compile(rb'\\(?:["\\]|u00([0-9a-f]{2})|([bfnrt]))')
_UNUSUAL = re.compile(r'["\\\x00-\x1f]')
"""What msgspec does not allow in names."""
_CONTROL = {b"b": b"\b", b"f": b"\f", b"n": b"\n", b"r": b"\r", b"t": b"\t"}


class Record(msgspec.Struct, gc=False):
    """The record of a message; its fields are the columns of `Lines`."""


class Lines:
    """The records of one stream as lines for COPY.

    Args:
        stream: the stream.
        columns: the type of each attribute, in the order of the lines.
        key: the attributes that identify a record.
    """

    def __init__(
        self, stream: str, columns: Mapping[str, types.TypeEngine[Any]], key: Sequence[str]
    ) -> None:
        self._stream = stream
        self.names = list(columns)
        """The attributes, in the order of a record's fields."""
        fields = {name: f"f{number}" for number, name in enumerate(columns)}
        self._json = [fields[name] for name, kind in columns.items() if isinstance(kind, JSONB)]
        self.key_of = attrgetter(*(fields[name] for name in key))
        """Returns the key of a record."""
        self.key_is_text = [columns[name].python_type for name in key] in ([int], [str])
        """Python and PostgreSQL write a key in the same way."""
        rename = {field: name for name, field in fields.items()}
        is_usual = not _UNUSUAL.search("".join([stream, *columns]))
        self._record: Any = msgspec.defstruct(
            "Record",
            [
                (fields[name], *(_key(kind) if name in key else _value(kind)))
                for name, kind in columns.items()
            ],
            bases=(Record,),
            rename=rename if is_usual else None,
            kw_only=True,
            gc=False,
        )
        message: Any = msgspec.defstruct(
            "Message",
            [
                ("stream", Literal[stream]),
                ("record", self._record),
                ("time_extracted", str | None, None),
                ("version", int | None, None),
            ],
            tag_field="type",
            tag="RECORD",
            gc=False,
        )
        self.message_of = msgspec.json.Decoder(message).decode if is_usual else _no_message
        """Returns the message of a line; a ValueError says that this line is another one."""

    def record_of(self, values: Mapping[str, Any]) -> Record:
        """Return a record whose values may have any type.

        Raises:
            LoadRefusedError: a list or an object is no value of its column.
        """
        record = {f"f{number}": values.get(name) for number, name in enumerate(self.names)}
        for (field, value), name in zip(record.items(), self.names, strict=True):
            if field in self._json:
                record[field] = _NULL if value is None else Raw(encoder.encode(value))
            elif isinstance(value, dict | list):
                kind = "a list" if isinstance(value, list) else "an object"
                raise LoadRefusedError(f'{self._stream}: {kind} is no value of column "{name}"')
            elif not isinstance(value, str | int | None):
                record[field] = str(value)
        found: Record = self._record(**record)
        return found

    def line_of(self, record: Record, *, has_escapes: bool) -> bytes:
        """Return a record as a line without its end.

        Args:
            record: the record; it cannot be used again.
            has_escapes: a text may have a backslash, a quote or a control character.
        """
        for field in self._json:
            text = str(getattr(record, field), "utf-8")
            setattr(record, field, None if text == "null" else text)
        line = encoder.encode(astuple(record))[1:-1]
        return _ESCAPE.sub(_unescaped, line) if has_escapes else line


def _no_message(line: bytes) -> Any:
    raise ValueError


def line_with(*values: object) -> bytes:
    """Return values as a line, or as a part of one."""
    return _ESCAPE.sub(_unescaped, encoder.encode(values)[1:-1])


def _key(kind: types.TypeEngine[Any]) -> tuple[Any]:
    # Numbers with decimals are left to Python: 1 and 1.0 are one key.
    return (int if isinstance(kind, types.Integer) else str,)


def _value(kind: types.TypeEngine[Any]) -> tuple[Any, Any]:
    if isinstance(kind, types.Integer):
        return int | None, None
    if isinstance(kind, types.Boolean):
        return bool | None, None
    if isinstance(kind, types.Numeric | JSONB):
        return Raw, _NULL
    return str | None, None


def _unescaped(found: re.Match[bytes]) -> bytes:
    code, letter = found.groups()
    if code:
        return bytes([int(code, 16)])
    return _CONTROL[letter] if letter else found[0]
