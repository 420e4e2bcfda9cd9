"""Requests, answers, and the CRM's forms of errors."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Literal
from urllib.parse import parse_qsl

import msgspec

ERROR_TYPE = "application/vnd.oracle.adf.error+json"
FRAMEWORK_VERSIONS = range(1, 10)


@dataclass(frozen=True, slots=True)
class Request:
    """An HTTP request, header names in lower case, ``path`` still percent-encoded."""

    method: str
    path: str
    query_string: str
    headers: Mapping[str, str]
    body: bytes = b""


@dataclass(slots=True)
class Answer:
    """An HTTP answer and its number of rows."""

    status: int
    body: bytes
    content_type: str
    headers: dict[str, str] = field(default_factory=dict)
    rows: int = 0


@dataclass(slots=True)
class PageShape:
    """The changes of a page by faults."""

    short_by: int = 0
    drop: int = 0
    repeat: int = 0
    has_more: bool | None = None
    total_results: int | Literal["page_cap"] | None = None


class RequestError(Exception):
    """An error answer; framework version and Accept decide the form of its body."""

    def __init__(self, status: int, detail: str, path: str = "", code: str = "27008") -> None:
        super().__init__(detail)
        self.status, self.detail, self.path, self.code = status, detail, path, code


class Status(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """A status code of the customer, in all business units or in one.

    A code can be there more than once: the key has its type and its reference set, too.
    """

    LookupCode: str
    Meaning: str = ""
    LookupCategory: str | None = None
    business_unit: int | None = None
    LookupType: str = "OPTY_STATUS"
    SetId: int = 0
    EnabledFlag: str = "Y"


class Settings(msgspec.Struct, forbid_unknown_fields=True, frozen=True):
    """The settings of this CRM; ``PATCH /_sandbox/settings`` changes them."""

    page_cap: int = 499
    """A larger ``limit`` is silently reduced to this."""
    default_record_set: str = "MYOPTIES"
    """The record set without a finder; ``ALLOPTIES`` shows everything."""
    visible: str = ""
    """A row-match condition: the account sees only opportunities that match."""
    forbidden: tuple[str, ...] = ()
    """Answered with 403: ``opportunities``, ``opportunities/describe``, ``accounts``..."""
    token_seconds: int = 3600
    """The lifetime of a bearer token."""
    naive_offset_minutes: int = 0
    """The offset of a timestamp literal that has none, east of UTC."""
    timestamp_format: Literal["seconds", "millis", "zulu"] = "seconds"
    """``+00:00``, ``.000+00:00`` or ``Z`` at the end of every timestamp."""
    omit_empty_items: bool = False
    """An empty collection has no ``items`` at all."""
    statuses: tuple[Status, ...] = (
        Status("OPEN", "Open", "OPEN"),
        Status("WON", "Won", "WON"),
        Status("LOST", "Lost", "LOST"),
        Status("NO_SALE", "No sale", "NO_SALE"),
        Status("ON_HOLD", "On hold", "OPEN"),
        Status("CLOSED", "Closed", "NO_SALE"),
    )
    """The rows of ``optyStatusesLOV``; the finder's ``LookupCategory`` uses them, too."""
    status_categories: bool = True
    """Whether ``optyStatusesLOV`` has the categories."""
    statuses_by_business_unit: bool = False
    """Whether ``optyStatusesLOV`` is refused without the finder for a business unit."""
    refused: dict[str, int] = {}
    """Refused parts of a request, with the status: see :mod:`.refusals`."""
    refusals_are_named: bool = True
    """Whether the message of such an error names the part."""
    largest_limit: int = 0
    """A larger ``limit`` is refused; 0: reduced silently."""
    describe_is_silent: bool = False
    """Whether ``describe`` answers without attributes."""
    date_offset_seconds: int | None = 0
    """The header ``Date`` minus the CRM's clock, such as a proxy's error; null: no header."""


_ENCODER = msgspec.json.Encoder()


def json_answer(status: int, body: object) -> Answer:
    """Answer with plain JSON, which must not be cached."""
    return Answer(status, _ENCODER.encode(body), "application/json", {"Cache-Control": "no-store"})


def reply(request: Request, body: object, kind: str, rows: int = 0) -> Answer:
    """Answer with the media type ``application/vnd.oracle.adf.<kind>+json`` or plain JSON."""
    accepted = request.headers.get("accept", "*/*")
    own_type = f"application/vnd.oracle.adf.{kind}+json"
    if own_type in accepted or "*/*" in accepted:
        content_type = own_type
    elif "application/json" in accepted or "application/*" in accepted:
        content_type = "application/json"
    else:
        raise RequestError(406, f"None of the media types {accepted} is offered.")
    return Answer(200, _ENCODER.encode(body), content_type, rows=rows)


def error_answer(refusal: RequestError, request: Request, version: int) -> Answer:
    """Answer with a structured error from version 4 on if Accept allows it, else with text.

    A 500 has no body, as since ADF 12.2.1.4 (Oracle support, Doc 2877145.1).
    """
    title = HTTPStatus(refusal.status).phrase
    headers = {}
    if refusal.status == 401:
        headers["WWW-Authenticate"] = 'Basic realm="Oracle Fusion (sandbox)"'
        return Answer(401, b"401 Unauthorized", "text/plain", headers)
    if refusal.status == 500:
        return Answer(500, b"", "text/plain", headers)
    accepted = request.headers.get("accept", "*/*")
    structured = ERROR_TYPE in accepted or "*/*" in accepted or "application/*" in accepted
    if version < 4 or not structured:
        return Answer(refusal.status, refusal.detail.encode(), "text/plain;charset=utf-8", headers)
    body = {
        "title": title,
        "status": str(refusal.status),
        "o:errorDetails": [
            {
                "detail": refusal.detail,
                "o:errorCode": refusal.code,
                "o:errorPath": refusal.path,
            }
        ],
    }
    return Answer(refusal.status, _ENCODER.encode(body), ERROR_TYPE, headers)


def query_pairs(request: Request) -> dict[str, str]:
    """Return the decoded query parameters; for repeated names, the last."""
    return dict(parse_qsl(request.query_string, keep_blank_values=True))


def framework_version(request: Request) -> int:
    """Read ``REST-Framework-Version``: 1 to 9; 1 if the header is missing."""
    text = request.headers.get("rest-framework-version", "1")
    if not text.isdigit() or int(text) not in FRAMEWORK_VERSIONS:
        raise RequestError(400, f"REST-Framework-Version {text} is not supported.")
    return int(text)
