"""The one place where records are repaired or rejected.

Real CRM data holds values that a database refuses. Values are repaired here if no guess is needed;
otherwise the whole record is rejected, with the reason as text.

Repaired:
- text: NUL characters are removed, in other attributes too; lone surrogates and bytes that are not
  UTF-8 become U+FFFD; numbers and booleans in a text attribute become text;
- numbers given as text become numbers; an integral decimal in an integer attribute an integer;
- blank text in any other attribute becomes null, as does a date of `0000-00-00`;
- timestamps of any ISO 8601 form become UTC, also those without an offset; a timestamp in a date
  attribute loses its time;
- Y/N, yes/no, true/false, t/f and 1/0 in a boolean attribute become booleans;
- a missing attribute becomes null;
- lists and objects in an attribute that is not built in stay JSON: in the extra property as they
  are, otherwise as JSON text; a number in them that is too large for `jsonb` becomes text.

Rejected: no key or a key that is not a 64-bit integer, a number that is invalid or not finite or
has more digits than PostgreSQL takes, a date or time that does not exist, an object or a list in
place of a single value, nesting more than 100 deep, a record of more than 2.5 MiB, a record that
the CRM cannot show.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, cast

import msgspec

MAX_RECORD_BYTES = 5 * 1024 * 1024 // 2
"""Meltano accepts lines up to half its `elt.buffer_size`, which this project sets to 6 MiB."""

MAX_DEPTH = 100
"""The deepest nesting of lists and objects; JSON readers have limits of their own."""
MAX_DECIMALS = 16_383
"""The most digits after the decimal point in PostgreSQL's `numeric`."""
_BIGINT = range(-(2**63), 2**63)
_NUMBER = re.compile(r"[+-]?(\d+(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
_SURROGATE = re.compile("[\ud800-\udfff]")
_BOOLEANS = {
    **dict.fromkeys(("y", "yes", "true", "t", "1"), True),
    **dict.fromkeys(("n", "no", "false", "f", "0"), False),
}
_encoder = msgspec.json.Encoder(decimal_format="number")


class RejectedError(ValueError):
    """A record cannot be loaded; the text says why."""


Clean = Callable[[Any], Any]


def _quoted(value: object) -> str:
    text = str(value)
    text = text if len(text) <= 60 else f"{text[:57]}..."
    return repr(text) if isinstance(value, str) else text


def clean_text(value: Any) -> str | None:
    """Return text that PostgreSQL accepts."""
    if type(value) is str:
        text = value
    elif type(value) is bool:
        text = "true" if value else "false"
    elif type(value) in {int, Decimal}:
        text = str(value)
    else:
        msg = f"{_type_name(value)} where text belongs"
        raise RejectedError(msg)
    if "\x00" in text:
        text = text.replace("\x00", "")
    # isascii only reads a flag, so that the search runs over few texts.
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)


def clean_number(value: Any) -> int | Decimal | None:
    """Return a finite number that fits into `numeric` and a double."""
    kind = type(value)
    if kind is int and -(2**63) <= value < 2**63:
        return value  # type: ignore[no-any-return]
    if kind is str:
        text = value.replace("\x00", "").strip()
        if not text:
            return None
        if not _NUMBER.fullmatch(text):
            raise RejectedError(f"{_quoted(value)} is not a number")
        try:
            value = Decimal(text)
        except ArithmeticError:
            raise RejectedError(f"{_quoted(value)} is too large or too small a number") from None
    elif kind is int:
        value = Decimal(value)
    elif kind is not Decimal:
        raise RejectedError(f"{_type_name(value)} where a number belongs")
    if not value.is_finite():
        raise RejectedError(f"{_quoted(value)} is not a finite number")
    if value and not -300 <= value.adjusted() <= 307:
        raise RejectedError(f"{_quoted(value)} is too large or too small a number")
    if _too_fine(value):
        if value:
            raise RejectedError(f"{_quoted(value)} has more than {MAX_DECIMALS:,} decimals")
        return 0
    return value  # type: ignore[no-any-return]


def _too_fine(number: Decimal) -> bool:
    # Reading the exponent copies all digits, so it is read for few numbers only.
    suspect = number.adjusted() < -MAX_DECIMALS or len(str(number)) > 10_000
    return suspect and cast("int", number.as_tuple().exponent) < -MAX_DECIMALS


def clean_integer(value: Any) -> int | None:
    """Return an integer that fits PostgreSQL's bigint."""
    if type(value) is not int:
        number = clean_number(value)
        if number is None:
            return None
        if number != number.to_integral_value() if isinstance(number, Decimal) else False:
            raise RejectedError(f"{_quoted(value)} is not a whole number")
        value = int(number)
    if value not in _BIGINT:
        raise RejectedError(f"{_quoted(value)} does not fit 64 bits")
    return value  # type: ignore[no-any-return]


def clean_boolean(value: Any) -> bool | None:
    """Return a boolean."""
    if type(value) is bool:
        return value
    text = str(value).replace("\x00", "").strip().lower() if type(value) in {str, int} else None
    if text == "":
        return None
    if text not in _BOOLEANS:
        raise RejectedError(f"{_quoted(value)} is neither true nor false")
    return _BOOLEANS[text]


def clean_datetime(value: Any) -> str | None:
    """Return a timestamp as `YYYY-MM-DDTHH:MM:SS[.ffffff]+00:00`; such texts sort by time."""
    try:
        moment = datetime.fromisoformat(value)
        if moment.tzinfo is not UTC:
            moment = (
                moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
            )
    except (ValueError, TypeError, OverflowError):
        if _has_nul(value):
            return clean_datetime(value.replace("\x00", ""))
        if _is_no_date(value):
            return None
        raise RejectedError(f"{_quoted(value)} is no date and time that exists") from None
    if (
        len(value) == 25
        and value[7] == "-"  # not the day of a week, 2026-W05-6
        and value[10] == "T"
        and value.endswith("+00:00")
    ):
        return value  # type: ignore[no-any-return]  # most are received like this
    return moment.isoformat()


def clean_date(value: Any) -> str | None:
    """Return a date as `YYYY-MM-DD`."""
    try:
        if len(value) == 10:
            return date.fromisoformat(value).isoformat()
        return datetime.fromisoformat(value).date().isoformat()
    except (ValueError, TypeError):
        if _has_nul(value):
            return clean_date(value.replace("\x00", ""))
        if _is_no_date(value):
            return None
        raise RejectedError(f"{_quoted(value)} is no date that exists") from None


def _has_nul(value: object) -> bool:
    return isinstance(value, str) and "\x00" in value


def _is_no_date(value: object) -> bool:
    return isinstance(value, str) and (not value.strip() or value.strip().startswith("0000-00-00"))


def _type_name(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", bool: "a boolean", str: "text"}
    return names.get(type(value), "a number")


def cleaner_of(schema: Mapping[str, Any]) -> Clean:
    """Return the function that repairs values of this JSON schema."""
    types = schema.get("type", "string")
    kinds = {types} if isinstance(types, str) else set(types)
    if "integer" in kinds:
        return clean_integer
    if "number" in kinds:
        return clean_number
    if "boolean" in kinds:
        return clean_boolean
    if schema.get("format") == "date-time":
        return clean_datetime
    if schema.get("format") == "date":
        return clean_date
    return clean_text


def clean_json(value: Any, depth: int = MAX_DEPTH) -> Any:
    """Return any value as `jsonb` accepts it."""
    if type(value) is str:
        return clean_text(value)
    if isinstance(value, (dict, list)):
        if not depth:
            raise RejectedError(f"nested more than {MAX_DEPTH} deep")
        if isinstance(value, list):
            return [clean_json(item, depth - 1) for item in value]
        return {clean_text(name): clean_json(item, depth - 1) for name, item in value.items()}
    if type(value) is int and value not in _BIGINT:
        value = Decimal(value)
    return str(value) if type(value) is Decimal and _is_unstorable(value) else value


def clean_json_text(value: Any) -> str | None:
    """Return any value as text; a list or an object becomes JSON."""
    if isinstance(value, (dict, list)):
        return _encoder.encode(clean_json(value)).decode()
    return clean_text(value)


def _is_unstorable(number: Decimal) -> bool:
    """Tell whether a JSON number has more digits than its readers can hold."""
    return (
        not number.is_finite()
        or (bool(number) and abs(number.adjusted()) > 307)
        or _too_fine(number)
    )


@dataclass(frozen=True)
class RecordCleaner:
    """Repairs or rejects records of one stream.

    Attributes:
        key: the attribute that identifies a record.
        columns: attribute and its cleaning function, for each property of the record.
        extra_property: the property that holds all other attributes in an object, or None.
        extras: the attributes in that object.
    """

    key: str
    columns: tuple[tuple[str, Clean], ...]
    extra_property: str | None = None
    extras: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        schema: Mapping[str, Any],
        key: str,
        names: Sequence[str],
        *,
        built_in: Collection[str],
        extra_property: str | None = None,
    ) -> RecordCleaner:
        """Make the cleaner for the named properties of a JSON schema."""
        properties = schema["properties"]
        extras = [name for name in names if name not in built_in] if extra_property else []
        cleaners = {name: cleaner_of(properties[name]) for name in names if name not in extras}
        for name, clean in cleaners.items():
            if clean is clean_text and name not in built_in:
                cleaners[name] = clean_json_text
        return cls(key, tuple(cleaners.items()), extra_property, tuple(extras))

    def __call__(self, row: Any) -> dict[str, Any]:
        """Return the record to emit.

        Raises:
            RejectedError: the record cannot be loaded.
        """
        if isinstance(row, Unreadable):
            raise RejectedError(row.reason)
        record: dict[str, Any] = {}
        name = ""
        try:
            for name, clean in self.columns:
                value = row.get(name)
                record[name] = value if value is None else clean(value)
            if self.extra_property:
                extra = record[self.extra_property] = {}
                for name in self.extras:
                    extra[name] = clean_json(row.get(name))
        except RejectedError as error:
            raise RejectedError(f"{name}: {error}") from None
        except AttributeError:
            if isinstance(row, dict):
                raise
            raise RejectedError(f"{_type_name(row)} where a record belongs") from None
        if record[self.key] is None:
            raise RejectedError(f"{self.key}: missing, and without it the record has no identity")
        return record


class Unreadable(dict[str, Any]):
    """The attributes that the CRM shows of a record that it cannot show whole.

    Attributes:
        reason: why the record is rejected.
    """

    def __init__(self, shown: Mapping[str, Any], reason: str) -> None:
        super().__init__(shown)
        self.reason = reason


class Row(msgspec.Struct, gc=False):
    """A received row that is a record already, see `rows`.

    Attributes:
        key: the record's key.
        changed: the time of its last change.
    """

    if TYPE_CHECKING:
        key: int
        changed: str | None


def key_of(row: Any, key: str) -> int | None:
    """Return a row's key, or None if it is missing or not a 64-bit integer."""
    if isinstance(row, Row):
        return row.key
    try:
        value = row[key]
        return value if type(value) is int and value in _BIGINT else clean_integer(value)
    except (KeyError, TypeError, RejectedError):
        return None


def reject(stream: str, row: Any, key: str, reason: str) -> dict[str, Any]:
    r"""Return the record of stream `rejected_records` for a rejected row.

    `id` is the same each time the same remote record is rejected. `payload` is the received row as
    JSON text; characters that `jsonb` refuses are escaped (NUL as `\u0000`).
    """
    value = row.get(key) if isinstance(row, dict) else None
    remote_id = None if value is None or isinstance(value, (dict, list)) else clean_text(value)
    try:
        payload = _encoder.encode(_storable(row))
        if len(payload) > MAX_RECORD_BYTES // 2:
            payload = _encoder.encode(_storable(row, longest=1_000))
        if len(payload) > MAX_RECORD_BYTES // 2:
            payload = _encoder.encode({key: remote_id, "cut": f"{len(payload)} bytes of JSON"})
    except RecursionError:
        payload = _encoder.encode({key: remote_id, "cut": "nested too deeply"})
    identity = f"{stream}\n{remote_id}" if remote_id else f"{stream}\n\n{payload.decode()}"
    return {
        "id": hashlib.sha256(identity.encode()).hexdigest()[:32],
        "stream": stream,
        "remote_id": remote_id,
        "reason": _escape(reason),
        "payload": payload.decode(),
        "rejected_at": datetime.now(UTC).isoformat(),
    }


def _escape(text: str) -> str:
    text = text.replace("\x00", "\\u0000")
    return _SURROGATE.sub(lambda found: f"\\u{ord(found.group()):04x}", text)


def _storable(value: Any, longest: int | None = None) -> Any:
    if isinstance(value, dict):
        return {_escape(name): _storable(item, longest) for name, item in value.items()}
    if isinstance(value, list):
        return [_storable(item, longest) for item in value]
    if isinstance(value, str):
        cut = len(value) if longest is None else longest
        return _escape(value[:cut]) + ("..." if len(value) > cut else "")
    if isinstance(value, Decimal) and _is_unstorable(value):
        return str(value)
    return value
