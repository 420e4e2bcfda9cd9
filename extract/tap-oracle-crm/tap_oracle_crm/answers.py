"""Parses HTTP answers, and never accepts a broken one."""

from __future__ import annotations

import contextlib
import json
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from http.client import responses
from typing import TYPE_CHECKING, Any

import msgspec
import requests

if TYPE_CHECKING:
    from tap_oracle_crm.rows import RowType

_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class RetryError(Exception):
    """This attempt failed; a retry may succeed.

    Attributes:
        after: seconds that the server asked to wait, or None.
        throttled: the server says that it is overloaded.
        slow: the answer took too long, so a smaller page may help.
        setting: the setting to check if no attempt gets a usable answer.
        limit: the largest number of retries, if it is smaller than usual.
        about_rows: one of the rows asked for may be the reason.
    """

    def __init__(
        self,
        reason: str,
        *,
        after: float | None = None,
        throttled: bool = False,
        slow: bool = False,
        setting: str | None = None,
        limit: int | None = None,
        about_rows: bool = False,
    ) -> None:
        super().__init__(reason)
        self.after = after
        self.throttled = throttled
        self.slow = slow
        self.setting = setting
        self.limit = limit
        self.about_rows = about_rows


@dataclass(frozen=True)
class Page:
    """One page of a collection.

    Attributes:
        items: the rows: of the type asked for, or as received.
        complete: this is the last page: it is empty, or it is shorter than the limit in force
            and the server does not claim that there is more.
        limit: the limit in force, or None if the server does not tell it.
        total: the server's count of rows, or None if it was not asked for or not given.
        server_time: the server's clock when it answered, or None if it does not tell it.
    """

    items: list[Any]
    complete: bool
    limit: int | None
    total: int | None
    server_time: datetime | None


def retry_after(response: requests.Response) -> float | None:
    """Return how many seconds the server asks to wait; None if it does not ask.

    A date in the answer is of use only if the answer also tells the server's time.
    """
    value = response.headers.get("Retry-After", "").strip()
    if not value:
        return None
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        moment = parsedate_to_datetime(value)
    except ValueError:
        return None
    moment = moment.replace(tzinfo=moment.tzinfo or UTC)
    now = server_time(response)
    return max(0.0, (moment - now).total_seconds()) if now else None


def server_time(response: requests.Response) -> datetime | None:
    """Return the server's clock in UTC; None if the answer does not tell it."""
    try:
        moment = parsedate_to_datetime(response.headers["Date"])
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)
    except (KeyError, ValueError, OverflowError):
        return None


def detail_of(response: requests.Response, body: bytes) -> str:
    """Return the server's own error message as one line."""
    if _is_html(response, body):
        return "an HTML page"
    try:
        answer = json.loads(body)
    except ValueError:
        text = body.decode(errors="replace")
    else:
        if isinstance(answer, dict):
            texts = [_detail(item) for item in _error_details(answer)]
            text = "; ".join(filter(None, texts)) or str(
                answer.get("detail") or answer.get("title") or ""
            )
            if text == responses.get(response.status_code):  # "Bad Request" says nothing more
                text = ""
        else:
            text = str(answer or "")
    text = one_line(text)
    return text if len(text) <= 300 else f"{text[:297]}..."


def _error_details(answer: Any) -> list[dict[str, Any]]:
    details = answer.get("o:errorDetails") if isinstance(answer, dict) else None
    items = details if isinstance(details, list) else []
    return [item for item in items if isinstance(item, dict)]


def _detail(item: dict[str, Any]) -> str:
    """Return the message of one error, with its path if the message does not name it."""
    text, about = str(item.get("detail") or ""), str(item.get("o:errorPath") or "").strip("/")
    return f"{text} (about {about})".strip() if about and about not in text else text


_CODE = re.compile(r"\b(?:JBO|ORA)-\d{5}\b")


def codes_of(body: bytes) -> tuple[str, ...]:
    """Return the error codes of an answer, such as JBO-27122 and ORA-01555."""
    text = body.decode(errors="replace")
    with contextlib.suppress(ValueError, RecursionError):
        codes = [str(item.get("o:errorCode") or "") for item in _error_details(json.loads(body))]
        text += "".join(f" JBO-{code}" for code in codes if code.isdigit())
    return tuple(dict.fromkeys(_CODE.findall(text)))


def is_database_trouble(body: bytes) -> bool:
    """Tell whether an error is a temporary one of the database, whatever its HTTP status.

    JBO-27120 to 27124 wrap a failed SQL statement, JBO-26xxx a failed connection. The ORA codes
    009xx, 017xx and 018xx mean a wrong statement, number or date: they are permanent. Others may
    be so in one row, such as ORA-01476 (divisor is zero): see `RetryError.about_rows`.
    """
    codes = codes_of(body)
    if oracle := [code for code in codes if code.startswith("ORA")]:
        return not any(code.startswith(("ORA-009", "ORA-017", "ORA-018")) for code in oracle)
    return any(code.startswith(("JBO-2712", "JBO-26")) for code in codes)


def one_line(text: str) -> str:
    """Return foreign text as one line without control characters."""
    return "".join(character for character in " ".join(text.split()) if character.isprintable())


def _is_html(response: requests.Response, body: bytes) -> bool:
    return "html" in response.headers.get("Content-Type", "") or body.lstrip()[:1] == b"<"


def json_of(body: bytes, response: requests.Response) -> Any:
    """Decode a body; integers and decimals stay exact.

    Raises:
        RetryError: the body is empty, cut off, HTML or anything else that is not JSON.
    """
    try:
        return _decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError, ArithmeticError):
        pass  # The standard library accepts more: lone surrogates, NaN, raw control characters.
    try:
        return json.loads(
            body.decode("utf-8", errors="replace"),
            parse_float=_decimal,
            parse_int=lambda text: int(text) if len(text) < 4_000 else Decimal(text),
            parse_constant=Decimal,
            strict=False,
        )
    except RecursionError:
        raise RetryError("an answer that is nested too deeply") from None
    except ValueError:
        pass
    if not body:
        raise RetryError("an empty answer instead of JSON")
    if _is_html(response, body):
        raise RetryError("an HTML page instead of JSON, as a login page or a proxy sends it")
    raise RetryError("an answer that is cut off or no JSON")


def _decimal(text: str) -> Decimal | str:
    """Return a decimal, or the text if its exponent is too large for Python."""
    try:
        return Decimal(text)
    except ArithmeticError:
        return text


def page_of(body: bytes, response: requests.Response, row_type: RowType | None = None) -> Page:
    """Read the envelope of a collection.

    Args:
        body: the answer.
        response: its headers.
        row_type: reads rows that need no more than a small repair; the others are as received.

    Raises:
        RetryError: this is not a collection; a broken one must never count as an empty page.
    """
    answer = row_type.page(body) if row_type else None
    if answer is None:
        answer = json_of(body, response)
    if not isinstance(answer, dict):
        raise RetryError("JSON that is no collection")
    items = answer.get("items")
    count = _whole_number(answer.get("count"))
    if items is None and count == 0:
        items = []
    if not isinstance(items, list) or (not items and count):
        raise RetryError("a collection without its items")
    limit = _whole_number(answer.get("limit"))
    more = answer.get("hasMore")
    if isinstance(more, str):
        more = {"true": True, "false": False}.get(more.lower())
    # Without a limit in force, only the server knows whether more follows.
    short = len(items) < limit if limit else more is False
    return Page(
        items=items,
        complete=not items or (short and more is not True),
        limit=limit,
        total=_whole_number(answer.get("totalResults")),
        server_time=server_time(response),
    )


def _whole_number(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number >= 0 else None
