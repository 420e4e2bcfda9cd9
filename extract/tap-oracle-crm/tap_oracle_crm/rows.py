"""Reads the rows of a page straight into records, several times as fast as one value at a time.

msgspec checks the types of a whole page at once, and numbers stay as received. What then needs a
repair is repaired as `records` says. A row that does not fit goes there whole. So a record is the
same, byte for byte, whichever way it took.
"""

from __future__ import annotations

import re
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import date, datetime
from decimal import Decimal
from operator import attrgetter
from typing import Annotated, Any, Generic, TypeVar

import msgspec
from msgspec import Meta, Raw

from tap_oracle_crm.discovery import is_name
from tap_oracle_crm.records import (
    MAX_RECORD_BYTES,
    Clean,
    RecordCleaner,
    RejectedError,
    Row,
    clean_boolean,
    clean_date,
    clean_datetime,
    clean_integer,
    clean_json,
    clean_number,
    clean_text,
    cleaner_of,
)
from tap_oracle_crm.writer import lines_of

T = TypeVar("T")

_BIGINT = Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
_TYPES: Mapping[Clean, Any] = {
    clean_integer: _BIGINT | None,
    clean_number: Raw,
    clean_boolean: bool | None,
}
"""The type of a received value by its function in `records`; any other value is text."""

_AS_WRITTEN = re.compile(rb"null|0|-?(?:[1-9]\d{0,17}(?:\.\d{1,30})?|0\.\d{1,6})")
"""Numbers that `records` leaves as they are, and that Python writes as they were received."""
_DIGITS_AS_0 = bytes.maketrans(b"123456789", b"000000000")
_MOMENTS: Mapping[Clean, tuple[int, bytes, Callable[[str], object]]] = {
    clean_datetime: (25, b"0000-00-00T00:00:00Z", datetime.fromisoformat),
    clean_date: (10, b"0000-00-00", date.fromisoformat),
}
"""Length and form of usual times and dates, which `records` leaves as they are, and their parser.

In the form, digits are 0, and Z stands for +00:00.
"""

_NOT_READ = (msgspec.DecodeError, ValueError, ArithmeticError, RecursionError)
_OPENS = b"\x01"
"""Stands for the brace that opens the extra property: no JSON has this character."""
ENOUGH_ROWS = 1_000
"""So many rows that do not fit show what the others are like."""
_NULL = Raw(b"null")


class _Unexpected:
    """The type of an attribute that no row may have."""


class _Page(msgspec.Struct, Generic[T]):
    """The envelope of a collection."""

    items: list[T] | None = None
    count: Any = None
    limit: Any = None
    hasMore: Any = None  # noqa: N815
    totalResults: Any = None  # noqa: N815


class RowType:
    """The records of one stream as rows.

    Args:
        cleaner: says what a record must look like.
        schema: the JSON schema of the stream, with the attributes in the extra property.
        changed: the attribute with the time of a record's last change.
    """

    def __init__(self, cleaner: RecordCleaner, schema: Mapping[str, Any], changed: str) -> None:
        self._cleaner = cleaner
        self._numbers: list[tuple[str, Clean]] = []
        self._moments: list[tuple[str, Clean]] = []
        self._texts: list[str] = []
        self._opened = Raw(_OPENS if cleaner.extras else b"{}")
        fields: list[tuple[str, Any, Any]] = []
        names: dict[str, str] = {}

        def add(name: str, kind: Clean, clean: Clean) -> None:
            field = {cleaner.key: "key", changed: "changed"}.get(name, f"f{len(names)}")
            names[field] = name
            value = _BIGINT if field == "key" else _TYPES.get(kind, str | None)
            default = {_BIGINT: msgspec.NODEFAULT, Raw: _NULL}.get(value)
            fields.append((field, value, default))
            if value is Raw:
                self._numbers.append((field, clean))
            elif clean in _MOMENTS:
                self._moments.append((field, clean))
            elif kind not in _TYPES:
                self._texts.append(field)

        for name, clean in cleaner.columns:
            add(name, clean, clean)
        if cleaner.extra_property:
            names["extra"] = cleaner.extra_property
            fields.append(("extra", _Unexpected, self._opened))
        for name in cleaner.extras:
            add(name, cleaner_of(schema["properties"][name]), clean_json)
        row: Any = msgspec.defstruct(
            "Row", fields, bases=(Row,), rename=names, kw_only=True, gc=False
        )
        self._row, self._row_of = row, _decoder(row)
        self._page_of, self._raw_page_of = _decoder(_Page[row]), _decoder(_Page[Raw])
        # A record may be longer than its row by the attributes that the row lacks.
        nulls = sum(len(name.encode()) + len(',"":null') for name in names.values())
        self._longest_page = MAX_RECORD_BYTES - nulls
        self._odd = self._read = 0

    @classmethod
    def of(cls, cleaner: RecordCleaner, schema: Mapping[str, Any], changed: str) -> RowType | None:
        """Return the type; None if the attributes do not allow it."""
        columns = [name for name, _ in cleaner.columns]
        names = [*columns, *cleaner.extras]
        if (
            changed not in columns
            or cleaner.extra_property in names
            or not all(map(is_name, names))
        ):
            return None
        return cls(cleaner, schema, changed)

    def page(self, body: bytes) -> dict[str, Any] | None:
        """Return a collection with its rows; None if it has to be read in another way.

        Rows that need more than a small repair are as received.
        """
        if len(body) > self._longest_page or self._is_in_vain():
            return None
        # From the right, Python looks for the backslash, which is rare, and not for the zero.
        has_nul = body.rfind(b"\\u0000") >= 0
        try:
            try:
                page = self._page_of(body)
                self._repair(page.items or [], has_nul)
            except (msgspec.ValidationError, RejectedError):
                page = self._raw_page_of(body)
                page.items = [self._row_or_received(raw, has_nul) for raw in page.items or []]
                self._odd += sum(not isinstance(row, Row) for row in page.items)
                self._read += len(page.items)
        except _NOT_READ:
            return None
        return msgspec.structs.asdict(page)

    def _is_in_vain(self) -> bool:
        """Tell whether most rows of this CRM do not fit, such as those with numbers as text."""
        return self._odd > max(ENOUGH_ROWS, self._read // 2)

    def _row_or_received(self, raw: Raw, has_nul: bool) -> Any:
        try:
            row = self._row_of(raw)
            self._repair([row], has_nul)
        except (msgspec.ValidationError, RejectedError):
            return _decode_any(raw)
        return row

    def _repair(self, rows: Sequence[Any], has_nul: bool) -> None:
        """Repair what has the right type.

        Raises:
            RejectedError: a row cannot be loaded; which one is not said.
        """
        for field, clean in self._numbers:
            for row, number in zip(rows, map(attrgetter(field), rows), strict=True):
                if not _AS_WRITTEN.fullmatch(number):
                    value = _decode_any(number)
                    setattr(row, field, value if value is None else clean(value))
        for field, clean in self._moments:
            values = list(map(attrgetter(field), rows))
            length, _, _ = _MOMENTS[clean]
            usual = [value for value in values if value is not None and len(value) == length]
            if not _are_usual(usual, clean):
                length = -1
            elif len(usual) == len(values):
                continue
            for row, value in zip(rows, values, strict=True):
                if value is not None and len(value) != length:
                    setattr(row, field, clean(value))
        if has_nul:
            for field in self._texts:
                for row, text in zip(rows, map(attrgetter(field), rows), strict=True):
                    if text and "\x00" in text:
                        setattr(row, field, clean_text(text))

    def lines(self, records: Iterable[Any]) -> bytes:
        """Return each record, a row or what `RecordCleaner` returned, as a line of JSON."""
        lines = lines_of([row if isinstance(row, Row) else self._row_with(row) for row in records])
        if self._cleaner.extras:
            # Behind the brace, a comma is one too many.
            first, *rest = lines.split(_OPENS)
            lines = b"{".join([first, *(part[1:] for part in rest)]).replace(b"\n", b"}\n")
        return lines

    def _row_with(self, record: Mapping[str, Any]) -> Any:
        values = [record[name] for name, _ in self._cleaner.columns]
        if self._cleaner.extra_property:
            values += [self._opened, *record[self._cleaner.extra_property].values()]
        return self._row(**dict(zip(self._row.__struct_fields__, values, strict=True)))


def _decoder(kind: Any) -> Callable[[bytes | Raw], Any]:
    return msgspec.json.Decoder(kind, float_hook=Decimal).decode


_decode_any = _decoder(Any)


def _are_usual(values: Sequence[str], clean: Clean) -> bool:
    """Tell whether all times or dates, which have the usual length, exist and have its form."""
    _, form, parse = _MOMENTS[clean]
    text = "\n".join(values).encode().replace(b"+00:00", b"Z").translate(_DIGITS_AS_0)
    if text != b"\n".join([form] * len(values)):
        return False
    try:
        deque(map(parse, values), maxlen=0)
    except ValueError:
        return False
    return True
