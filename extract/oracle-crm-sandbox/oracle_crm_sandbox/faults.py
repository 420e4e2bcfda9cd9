"""Faults: rules that make requests fail.

``POST /_sandbox/faults`` takes one rule or a list of rules. A rule is a JSON object
whose ``kind`` names one of the classes below in snake_case. Every rule may have
``path`` and ``query`` (regular expressions, searched in the request), ``after``
(skip the first n matches), ``every`` (act on every nth of the rest) and ``next``
(act n times, then stop).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import format_datetime
from typing import Generic, Literal, TypeVar, Union
from urllib.parse import unquote_plus

import msgspec

from .protocol import ERROR_TYPE, Answer, PageShape, Request

LOGIN_PATH = "/oam/server/obrareq.cgi"
LOGIN_PAGE = (
    b"<!DOCTYPE html><html><head><title>Sign In</title></head>"
    b"<body><form>User ID <input name='userid'></form></body></html>"
)
_BAD_GATEWAY_PAGE = b"<html><head><title>502 Bad Gateway</title></head><body>proxy</body></html>"


def _snake(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


class Trigger(msgspec.Struct, kw_only=True, forbid_unknown_fields=True):
    """The conditions for a rule or hook to act."""

    path: str = "/crmRestApi/"
    query: str = ""
    after: int = 0
    every: int = 1
    next: int | None = None


class Rule(Trigger, tag_field="kind", tag=_snake):
    """A fault."""


# --- instead of the answer --------------------------------------------------------------


class Throttle(Rule):
    """429 or 503 with ``Retry-After`` in seconds, as an HTTP date, or without (null)."""

    status: Literal[429, 503] = 429
    retry_after: int | None = 1
    as_date: bool = False


class Error(Rule):
    """Any error status; an ``empty`` body, ``text``, a gateway's ``html`` or ``structured``."""

    status: int = 500
    body: Literal["empty", "text", "html", "structured"] = "empty"
    detail: str = "injected"


class Html(Rule):
    """A login page with status 200."""


class LoginRedirect(Rule):
    """302 to the login page on the same host."""


class Redirect(Rule):
    """A redirect to another host."""

    location: str
    status: Literal[301, 302, 307, 308] = 302


class EmptyBody(Rule):
    """Status 200 with an empty body."""


class Stall(Rule):
    """The answer stops at its ``start`` or ``middle``; after ``seconds`` the connection is cut."""

    seconds: float = 600.0
    at: Literal["start", "middle"] = "start"


# --- on the wire ------------------------------------------------------------------------


class Latency(Rule):
    """The answer is ``ms`` late, plus ``ms_per_1000_offset`` for each 1,000 of offset."""

    ms: float = 0.0
    ms_per_1000_offset: float = 0.0


class Pod(Rule):
    """A pod that serves ``at_once`` requests, each in ``ms``.

    What comes beyond, it throttles with ``status`` and ``retry_after`` as in `Throttle`, or it
    is ``slow``: all requests share what it can do.
    """

    at_once: int
    ms: float = 150.0
    beyond: Literal["throttle", "slow"] = "throttle"
    status: Literal[429, 503] = 429
    retry_after: int | None = 1


class Reset(Rule):
    """The connection is reset, before the first byte or in the ``middle`` of the body."""

    at: Literal["start", "middle"] = "start"


class Drip(Rule):
    """The body is sent byte by byte, with a pause of ``ms``."""

    ms: float = 100.0


class Truncate(Rule):
    """The connection closes before the body has its full length or its last chunk."""

    share: float = 0.5
    framing: Literal["length", "chunked"] = "length"


class InvalidJson(Rule):
    """The body is cut, but its announced length fits, so only the JSON is incomplete."""

    share: float = 0.5


# --- a wrong page -----------------------------------------------------------------------


class ShortPage(Rule):
    """The page has ``by`` rows less than ``limit`` (but at least one); ``hasMore`` is true."""

    by: int = 10


class DropItems(Rule):
    """The first ``count`` rows of the page are missing; nothing else in the page shows it."""

    count: int = 1


class RepeatRows(Rule):
    """The page repeats the last ``count`` rows of the page before, and lacks its own last ones."""

    count: int = 3


class HasMore(Rule):
    """``hasMore`` is ``value``, right or wrong."""

    value: bool


class TotalResults(Rule):
    """``totalResults`` is ``value``, or at most the page's limit (``page_cap``)."""

    value: int | Literal["page_cap"] = "page_cap"


AnyRule = Union[  # noqa: UP007  # msgspec reads it as a type of its own
    Throttle,
    Error,
    Html,
    LoginRedirect,
    Redirect,
    EmptyBody,
    Stall,
    Latency,
    Pod,
    Reset,
    Drip,
    Truncate,
    InvalidJson,
    ShortPage,
    DropItems,
    RepeatRows,
    HasMore,
    TotalResults,
]


class Command(msgspec.Struct, forbid_unknown_fields=True):
    """A command of the control interface; its path has no ``/_sandbox/``."""

    path: str
    body: dict[str, object] = {}
    method: str = "POST"


class Hook(Trigger, kw_only=True):
    """Commands that are executed after a request, so that the CRM changes during a read."""

    commands: list[Command]
    path: str = r"/opportunities$"


TriggerT = TypeVar("TriggerT", bound=Trigger)


class Armed(Generic[TriggerT]):
    """The active rules or hooks, with the number of times each matched and acted."""

    def __init__(self) -> None:
        self._entries: list[_Entry[TriggerT]] = []

    def add(self, triggers: Sequence[TriggerT]) -> None:
        """Activate more rules or hooks."""
        for trigger in triggers:
            re.compile(trigger.path)
            re.compile(trigger.query)
        self._entries += [_Entry(trigger) for trigger in triggers]

    def clear(self) -> None:
        """Delete all rules or hooks."""
        self._entries.clear()

    def fire(self, request: Request) -> list[TriggerT]:
        """Count the request and return the rules or hooks that act on it."""
        query = unquote_plus(request.query_string)
        return [entry.trigger for entry in self._entries if entry.fires(request.path, query)]

    def report(self) -> list[dict[str, object]]:
        """Return each with ``seen`` and ``fired``."""
        return [
            msgspec.to_builtins(entry.trigger) | {"seen": entry.seen, "fired": entry.fired}
            for entry in self._entries
        ]


@dataclass(slots=True)
class _Entry(Generic[TriggerT]):
    trigger: TriggerT
    seen: int = 0
    fired: int = 0

    def fires(self, path: str, query: str) -> bool:
        trigger = self.trigger
        if not re.search(trigger.path, path) or not re.search(trigger.query, query):
            return False
        self.seen += 1
        past = self.seen - trigger.after
        if past <= 0 or past % trigger.every:
            return False
        if trigger.next is not None and self.fired >= trigger.next:
            return False
        self.fired += 1
        return True


def under_load(rules: Sequence[Rule], at_once: int) -> list[Rule]:
    """Return the rules with what each pod does while it has so many requests."""
    return [_pod_under_load(rule, at_once) if isinstance(rule, Pod) else rule for rule in rules]


def _pod_under_load(pod: Pod, at_once: int) -> Rule:
    if at_once <= pod.at_once:
        return Latency(ms=pod.ms)
    if pod.beyond == "throttle":
        return Throttle(status=pod.status, retry_after=pod.retry_after)
    return Latency(ms=pod.ms * at_once / pod.at_once)


def delay(rules: Sequence[Rule], offset: int) -> float:
    """Return the sum of all delays for an answer, in seconds."""
    return sum(
        (rule.ms + rule.ms_per_1000_offset * offset / 1000) / 1000
        for rule in rules
        if isinstance(rule, Latency)
    )


def shape_of(rules: Sequence[Rule]) -> PageShape:
    """Combine all changes of the page."""
    shape = PageShape()
    for rule in rules:
        match rule:
            case ShortPage(by=by):
                shape.short_by = by
            case DropItems(count=count):
                shape.drop = count
            case RepeatRows(count=count):
                shape.repeat = count
            case HasMore(value=value):
                shape.has_more = value
            case TotalResults(value=total):
                shape.total_results = total
    return shape


def answer_instead(rules: Sequence[Rule], now: datetime) -> Answer | None:
    """Return the answer of the first rule that replaces the CRM's answer, if any."""
    for rule in rules:
        match rule:
            case Throttle(status=status, retry_after=seconds, as_date=as_date):
                headers = {}
                if seconds is not None:
                    moment = now + timedelta(seconds=seconds)
                    headers["Retry-After"] = (
                        format_datetime(moment, usegmt=True) if as_date else str(seconds)
                    )
                return Answer(status, b"Too many requests", "text/plain", headers)
            case Error(status=status, body=body, detail=detail):
                return _error(status, body, detail)
            case Html():
                return Answer(200, LOGIN_PAGE, "text/html")
            case LoginRedirect():
                return Answer(302, LOGIN_PAGE, "text/html", {"Location": LOGIN_PATH})
            case Redirect(status=status, location=location):
                return Answer(status, b"", "text/html", {"Location": location})
            case EmptyBody():
                return Answer(200, b"", "application/json")
    return None


def _error(status: int, body: str, detail: str) -> Answer:
    match body:
        case "empty":
            return Answer(status, b"", "text/plain")
        case "html":
            return Answer(status, _BAD_GATEWAY_PAGE, "text/html")
        case "structured":
            payload = {
                "title": detail,
                "status": str(status),
                "o:errorDetails": [{"detail": detail, "o:errorCode": "27024", "o:errorPath": ""}],
            }
            return Answer(status, msgspec.json.encode(payload), ERROR_TYPE)
    return Answer(status, detail.encode(), "text/plain")
