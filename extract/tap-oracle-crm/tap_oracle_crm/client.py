"""Requests pages from the CRM: retries, throttling, and parts of a request that may be refused.

One client serves all streams and worker threads of a run. They share one pool of connections, one
access token and one limit of concurrent requests.
"""

from __future__ import annotations

import logging
import math
import random
import threading
import time
from collections.abc import Callable, Hashable, Mapping
from typing import Any, TypeVar
from urllib.parse import quote, urlencode, urlsplit

from requests import Response
from requests.adapters import BaseAdapter

from tap_oracle_crm.answers import (
    Page,
    RetryError,
    json_of,
    page_of,
)
from tap_oracle_crm.budget import Budget
from tap_oracle_crm.connection import Connection
from tap_oracle_crm.credentials import Credentials
from tap_oracle_crm.errors import (
    GaveUpError,
    RefusedError,
    StoppedError,
)
from tap_oracle_crm.gate import Gate, Turn
from tap_oracle_crm.optional import HEADERS, OptionalParts, Parts
from tap_oracle_crm.refusals import refusal, refusal_of_part
from tap_oracle_crm.rows import RowType
from tap_oracle_crm.sharing import Sharing

log = logging.getLogger("tap-oracle-crm")

ACCEPT = "application/json, application/vnd.oracle.adf.error+json"
LONGEST_RETRY_AFTER = 3_600
"""The longest wait in seconds, even if a server asks for more."""
FIRST_PAUSE_SECONDS = 1.0
"""Longest pause before the first retry; it doubles each time."""
HICCUP_SECONDS = 1.0
"""Average pause before a retry, if a request was refused without a message."""
SMALLEST_PAGE = 25
GOOD_PAGES = 10
"""After so many good pages in a row, a reduced page size doubles; next time after twice as many."""
LONGEST_FIELDS = 6_000
"""Longest `fields` in characters. Servers may refuse longer URLs: then all attributes are read."""
ABOUT_ACCOUNT = {401, 403, 404, 405, 407}
"""Statuses of refusals that depend on the account, not on the request's parameters."""
TOO_LONG = {413, 414, 431}
"""Statuses that are about the length of a request, not about an attribute in it."""
FEW_RETRIES = 2
"""Number of retries for an optional request."""

_T = TypeVar("_T")


class CrmClient:
    """Reads collections of the CRM's REST API.

    Args:
        settings: as `config.resolve` returns them.
        adapter: sends the requests instead of sockets.
    """

    def __init__(self, settings: Mapping[str, Any], adapter: BaseAdapter | None = None) -> None:
        self._settings = settings
        self.page_size: int = settings["page_size"]
        self._good_pages, self._enough_good_pages = 0, GOOD_PAGES // 2
        self.stopping = threading.Event()
        self._end = math.inf
        if seconds := settings["max_runtime_seconds"]:
            self._end = time.monotonic() + seconds
            timer = threading.Timer(seconds, self.stopping.set)
            timer.daemon = True
            timer.start()
        self.host = urlsplit(settings["base_url"]).netloc
        calls = settings["calls_per_hour"]
        account = f"{settings.get('username') or settings.get('client_id')}@{self.host}"
        self.gate = Gate(
            settings["concurrency"],
            self.stopping,
            Budget(calls) if calls else None,
            Sharing(settings, account) if "limits_database_url" in settings else None,
        )
        self._version_checked = False
        self._lock = threading.Lock()
        self._connection = Connection(settings, self._end, adapter)
        self._credentials = Credentials(settings, self._connection)
        self._root = f"{settings['base_url']}/crmRestApi/resources/{settings['api_version']}"
        self.optional = OptionalParts()
        self._headers = {
            "REST-Framework-Version": str(settings["framework_version"]),
            "Accept": ACCEPT,
        }
        if "accept_language" in settings:
            self._headers["Accept-Language"] = settings["accept_language"]

    @property
    def requests(self) -> int:
        """Number of requests sent so far, with retries."""
        return self._connection.requests

    def page(
        self,
        resource: str,
        *,
        fields: list[str] | None = None,
        q: str | None = None,
        order_by: str | None = None,
        finder: str | None = None,
        limit: int | None = None,
        offset: int = 0,
        total: bool = False,
        check: Callable[[Page], None] | None = None,
        key: str | None = None,
        settle: bool = True,
        retries: int | None = None,
        row_type: RowType | None = None,
        row_retries: int | None = None,
    ) -> Page:
        """Read one page of a collection.

        Args:
            resource: the path below the version.
            fields: the attributes to ask for; all if none are given.
            q: the condition.
            order_by: the order, such as `OptyId:asc`.
            finder: the `finder` parameter.
            limit: the number of rows, at most `page_size`.
            offset: the number of rows to skip.
            total: ask for the number of rows.
            check: raises RetryError if the page must be read again.
            key: an attribute that the resource certainly has.
            settle: after a refusal, find the refused parts and retry without them.
            retries: the number of retries, if smaller than the setting of this name.
            row_type: reads the rows.
            row_retries: as `retries`, for an error that one of the rows may be the reason of.

        Raises:
            RefusedError: the server refuses for good.
            GaveUpError: all retries failed.
            OracleCrmError: the server cannot be reached, or it refuses the credentials.
            StoppedError: reading was told to stop.
        """
        parts = {
            **self._headers,
            "onlyData": "true",
            "q": q,
            "finder": finder,
            "orderBy": order_by,
            "offset": str(offset) if offset else None,
            "totalResults": "true" if total else None,
        }
        names = ",".join(fields or [])
        if len(names) <= LONGEST_FIELDS:
            parts["fields"] = names
        asked = {name: value for name, value in parts.items() if value}

        def sized() -> Parts:
            return {**asked, "limit": str(min(limit or self.page_size, self.page_size))}

        def attempt(parts: Parts) -> Page:
            begun = time.monotonic()
            try:
                response, body = self.get(resource, parts)
                page = page_of(body, response, row_type)
            except RetryError as error:
                # A gateway that fails at once would also fail with smaller pages.
                if error.slow and self._took_long(begun) and not self._is_over():
                    self._shrink_pages(int(parts.get("limit", self.page_size)))
                if error.about_rows and row_retries is not None:
                    error.limit = row_retries
                raise
            if check:
                check(page)
            self._grow_pages()
            return page

        if settle:
            return self._omit_refused_parts(resource, sized, attempt, key, retries)
        served = self.optional.served
        return self._retry(lambda: attempt(served(_kind(resource), sized())), resource, retries)

    def describe(self, resource: str) -> Any:
        """Return the server's description of a resource, as received.

        Raises:
            RefusedError: the server refuses to describe it.
            OracleCrmError: all attempts failed.
        """

        def attempt(parts: Parts) -> Any:
            response, body = self.get(f"{resource}/describe", parts)
            return json_of(body, response)

        return self._omit_refused_parts(
            f"{resource}/describe", lambda: self._headers, attempt, retries=FEW_RETRIES
        )

    # Parts that may be refused

    def _omit_refused_parts(
        self,
        path: str,
        parts: Callable[[], Parts],
        attempt: Callable[[Parts], _T],
        key: str | None = None,
        retries: int | None = None,
    ) -> _T:
        """Request with all parts that the server accepts; find out which it refuses."""
        kind = _kind(path)
        wanted, sent = parts(), dict[str, str]()

        def ask() -> _T:
            nonlocal wanted, sent
            wanted = parts()
            sent = self.optional.served(kind, wanted)
            return attempt(sent)

        def read(some: Parts) -> None:
            response, body = self.get(path, some)
            json_of(body, response)

        def serves(some: Parts) -> bool:
            try:
                self._retry(lambda: read(some), path, 1)
            except RefusedError as error:
                if _is_about_account(error):
                    raise
                return False
            except GaveUpError as error:
                if not error.is_this_request:
                    raise
                return False
            return True

        while True:
            try:
                return self._retry(ask, path, retries)
            except RefusedError as error:
                if error.part or _is_about_account(error):
                    raise

                def needed(part: str, error: RefusedError = error) -> RefusedError:
                    return refusal_of_part(part, sent[part], path, error)

                known = None if error.status in TOO_LONG else key
                if not self.optional.search(kind, wanted, sent, known, serves, needed):
                    raise

    def close(self) -> None:
        """Close the connections."""
        self.gate.close()
        self._connection.close()

    # Attempts and the pauses between them

    def _retry(self, attempt: Callable[[], _T], what: str, retries: int | None = None) -> _T:
        failures = 0
        has_renewed = has_asked_again = False
        while True:
            try:
                with self.gate.slot() as turn:
                    result = attempt()
                self.gate.answered(turn, _shape(what, result))
                return result
            except RefusedError as error:
                # An access token may expire early; a 400 without a message may be temporary.
                if error.status == 401 and "token_url" in self._settings and not has_renewed:
                    has_renewed = True
                elif error.status == 400 and not error.detail and not has_asked_again:
                    has_asked_again = True
                    self._wait(random.uniform(0.5, 1.5) * HICCUP_SECONDS)  # noqa: S311
                else:
                    raise
            except RetryError as error:
                # To find how many requests the server serves, the tap sends one too many: this
                # one is not to blame.
                if not self._is_one_too_many(error, turn):
                    failures += 1
                    self._pause_or_give_up(error, failures, what, retries)

    def _is_one_too_many(self, error: RetryError, turn: Turn) -> bool:
        """Lower the number of requests at once if the server is overloaded."""
        if error.slow and self._took_long(turn.begun):
            self.gate.timed_out(turn)
        if not error.throttled:
            return False
        is_one_too_many = self.gate.throttled(
            turn, 0.0 if error.after is None else _asked(error.after)
        )
        if is_one_too_many:
            log.info(
                "%s at %d requests at once: %d from now on", error, turn.at_once, self.gate.allowed
            )
        return is_one_too_many

    def _pause_or_give_up(
        self, error: RetryError, failures: int, what: str, retries: int | None
    ) -> None:
        most = self._settings["max_retries"]
        if error.limit is not None:
            most = min(most, error.limit)
        is_this_request = not error.throttled and error.setting is None
        if retries is not None and is_this_request:
            most = min(most, retries)
        if self._is_over():
            raise StoppedError
        if failures > most:
            tries = f"after {failures} attempts" if failures > 1 else "at once"
            advice = (
                f"Check {error.setting}, the network and any proxy."
                if error.setting
                else "All loaded records stay; the next run continues from there."
            )
            if error.about_rows:
                advice += " If that fails too, the CRM's administrator finds the reason in its log."
            raise GaveUpError(
                f"Gave up on {what} of {self.host} {tries}: {error}.",
                advice=advice,
                cause=f"{error} ({tries})",
                is_this_request=is_this_request,
                about_rows=str(error) if error.about_rows else None,
            ) from None
        longest: float = self._settings["max_backoff_seconds"]
        # Full jitter: workers that failed together do not retry together.
        growing = FIRST_PAUSE_SECONDS * 2 ** min(failures - 1, 20)
        pause = random.uniform(0.1, 1) * min(longest, growing)  # noqa: S311
        if error.after is not None:
            # Never shorter than our own pause: some servers always say "1".
            pause = max(pause, _asked(error.after))
        log.warning(
            "%s: %s; attempt %d of %d in %.1f s", what, error, failures + 1, most + 1, pause
        )
        self._wait(pause)

    def _wait(self, seconds: float) -> None:
        if self.stopping.wait(seconds):
            raise StoppedError

    def _took_long(self, begun: float) -> bool:
        timeout: float = self._settings["request_timeout"]
        return time.monotonic() - begun > timeout / 2

    def _is_over(self) -> bool:
        return self.stopping.is_set() or time.monotonic() >= self._end

    def _shrink_pages(self, asked: int) -> None:
        with self._lock:
            # Only once for all concurrent requests of the same size.
            if asked >= self.page_size > SMALLEST_PAGE:
                self.page_size = max(SMALLEST_PAGE, self.page_size // 2)
                self._good_pages = 0
                self._enough_good_pages *= 2
                log.info("Asking for pages of %d rows for now", self.page_size)

    def _grow_pages(self) -> None:
        with self._lock:
            if self.page_size < self._settings["page_size"]:
                self._good_pages += 1
                if self._good_pages >= self._enough_good_pages:
                    self.page_size = min(self._settings["page_size"], self.page_size * 2)
                    self._good_pages = 0
                    log.info("Asking for pages of %d rows again", self.page_size)

    # One request

    def get(self, path: str, parts: Parts) -> tuple[Response, bytes]:
        """Request a resource once, with these parameters and headers.

        Raises:
            RetryError: no usable answer came.
            RefusedError: the server refuses.
            OracleCrmError: the server cannot be reached, or it refuses the credentials.
        """
        params = {name: value for name, value in parts.items() if name not in HEADERS}
        headers = {name: value for name, value in parts.items() if name in HEADERS}
        query = urlencode(params, quote_via=quote, safe="")
        url = f"{self._root}/{path}?{query}"
        credentials = self._credentials.header()
        response, body = self._connection.send(
            "GET", url, "ORACLE_BASE_URL", headers={**headers, "Authorization": credentials}
        )
        if response.status_code == 401:
            self._credentials.forget(credentials)
        if response.status_code != 200:
            raise refusal(response, body, path, self._settings)
        if "REST-Framework-Version" in headers:
            self._check_version(response)
        return response, body

    def _check_version(self, response: Response) -> None:
        wanted = self._headers["REST-Framework-Version"]
        got = response.headers.get("REST-Framework-Version", wanted)
        if got != wanted and not self._version_checked:
            log.warning(
                "Oracle answers with REST framework version %s instead of %s: if it refuses the "
                "query, set framework_version to %s",
                got,
                wanted,
                got,
            )
        self._version_checked = True


def _asked(after: float) -> float:
    """Return the seconds to wait for a server that asks for so many; never all at one moment."""
    return min(after, LONGEST_RETRY_AFTER) + random.uniform(0, 0.25)  # noqa: S311


def _shape(what: str, result: object) -> Hashable:
    """Return the kind of a request: those of one kind take about as long."""
    if isinstance(result, Page):
        return _kind(what), result.limit, result.complete
    return _kind(what)


def _kind(path: str) -> str:
    """Return the kind of a resource; the children of all opportunities have the same."""
    first, *rest = path.split("/")
    return f"{first}/{rest[-1]}" if rest else first


def _is_about_account(error: RefusedError) -> bool:
    """Tell whether the refusal depends on the account, not on the request's parameters."""
    return error.status in ABOUT_ACCOUNT or error.status < 400
