"""Everything that speaks HTTP: authentication, retries, throttling, pages.

One client serves all streams and worker threads of a run: one connection pool, one access
token, one idea of how much the server bears.
"""

from __future__ import annotations

import json
import logging
import random
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from email.utils import parsedate_to_datetime
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import msgspec
import requests
from requests.adapters import HTTPAdapter

from tap_oracle_crm.errors import OracleCrmError, RefusedError, StoppedError

log = logging.getLogger("tap-oracle-crm")

ACCEPT = "application/json, application/vnd.oracle.adf.error+json"
CONNECT_TIMEOUT = 15
FIRST_CONTACT_RETRIES = 2
"""How often a host that never answered is tried again when it cannot be reached at all."""
LONGEST_RETRY_AFTER = 3_600
"""Seconds that a server may ask us to wait before it counts as down."""
SMALLEST_PAGE = 25
TOKEN_MARGIN = 60
"""Seconds before its end at which a token is replaced."""
LONGEST_FIELDS = 6_000
"""Characters of `fields` beyond which URLs risk being refused: all attributes are asked for."""

_T = TypeVar("_T")

_decode = msgspec.json.Decoder(float_hook=Decimal).decode


class RetryError(Exception):
    """This attempt failed in a way that another one may not.

    Attributes:
        after: seconds that the server asked to wait, or None.
        throttled: the server says that it has too much to do.
        slow: the answer took too long, so a smaller page may help.
        unreachable: no connection came about.
        limit: how many attempts are made at most, where fewer than usual.
    """

    def __init__(
        self,
        reason: str,
        *,
        after: float | None = None,
        throttled: bool = False,
        slow: bool = False,
        unreachable: bool = False,
        limit: int | None = None,
    ) -> None:
        super().__init__(reason)
        self.after = after
        self.throttled = throttled
        self.slow = slow
        self.unreachable = unreachable
        self.limit = limit


@dataclass(frozen=True)
class Page:
    """One page of a collection.

    Attributes:
        items: the rows as received.
        complete: nothing follows: it is empty, or shorter than the limit in force and the
            server does not claim that there is more.
        limit: the limit in force, where the server says so.
        total: how many rows the server claims, where asked and told.
        server_time: the server's clock when it answered.
    """

    items: list[Any]
    complete: bool
    limit: int | None
    total: int | None
    server_time: datetime


class Gate:
    """Lets so many requests through at once as the server bears.

    Halves on throttling, grows by one request for each round of answers, pauses all while the
    server asks for that.
    """

    def __init__(self, most: int, stopping: threading.Event) -> None:
        self.most = most
        self.allowed = float(most)
        self._stopping = stopping
        self._busy = 0
        self._not_before = 0.0
        self._changed = threading.Condition()

    @contextmanager
    def slot(self) -> Iterator[None]:
        """Wait for a turn.

        Raises:
            StoppedError: reading was told to stop meanwhile.
        """
        with self._changed:
            while True:
                if self._stopping.is_set():
                    raise StoppedError
                pause = self._not_before - time.monotonic()
                if pause <= 0 and self._busy < int(self.allowed):
                    break
                self._changed.wait(min(0.2, pause) if pause > 0 else 0.2)
            self._busy += 1
        try:
            yield
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify()

    def answered(self) -> None:
        """Note a good answer."""
        with self._changed:
            self.allowed = min(float(self.most), self.allowed + 1 / self.allowed)
            self._changed.notify()

    def throttled(self, pause: float) -> None:
        """Note that the server has too much to do, for `pause` seconds."""
        with self._changed:
            self.allowed = max(1.0, self.allowed / 2)
            self._not_before = max(self._not_before, time.monotonic() + pause)


class _BasicOrBearer(requests.auth.AuthBase):
    """Sets the header itself, so that requests looks into no .netrc."""

    def __init__(self, value: str) -> None:
        self._value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self._value
        return request


class CrmClient:
    """Reads collections of the CRM's REST API.

    Args:
        settings: as `settings.resolve` returns them.
    """

    def __init__(self, settings: Mapping[str, Any]) -> None:
        self._settings = settings
        self.page_size: int = settings["page_size"]
        self.requests = 0
        """How many requests were sent so far, repeated ones included."""
        self.stopping = threading.Event()
        self.gate = Gate(settings["concurrency"], self.stopping)
        self._reached = False
        self._version_checked = False
        self._lock = threading.Lock()
        self._token_lock = threading.Lock()
        self._token: tuple[str, float] | None = None
        parts = urlsplit(settings["base_url"])
        self.host = parts.netloc
        self._root = f"{settings['base_url']}/crmRestApi/resources/{settings['api_version']}"
        self._session = requests.Session()
        self._session.headers.update(
            {
                "Accept": ACCEPT,
                "Accept-Encoding": "gzip",
                "User-Agent": settings.get("user_agent", "tap-oracle-crm"),
            }
        )
        self._version_header = {"REST-Framework-Version": str(settings["framework_version"])}
        if settings.get("ca_bundle"):
            self._session.verify = settings["ca_bundle"]
        adapter = HTTPAdapter(pool_connections=2, pool_maxsize=settings["concurrency"])
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

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
    ) -> Page:
        """Read one page of a collection; `check` may raise RetryError to have it read again.

        Raises:
            RefusedError: the server refuses for good.
            OracleCrmError: it could not be read, however often tried.
            StoppedError: reading was told to stop.
        """
        params = {"onlyData": "true"}
        names = ",".join(fields or [])
        if names and len(names) <= LONGEST_FIELDS:
            params["fields"] = names
        if finder:
            params["finder"] = finder
        if q:
            params["q"] = q
        if order_by:
            params["orderBy"] = order_by
        if offset:
            params["offset"] = str(offset)
        if total:
            params["totalResults"] = "true"

        def attempt() -> Page:
            asked = min(limit or self.page_size, self.page_size)
            try:
                response, body = self._get(resource, {**params, "limit": str(asked)})
                page = _page(body, response)
            except RetryError as error:
                if error.slow:
                    self._shrink_pages(asked)
                raise
            if check:
                check(page)
            return page

        return self._persist(attempt, resource)

    def describe(self, resource: str) -> Any:
        """Return what the server says of a resource's attributes, as received.

        Raises:
            RefusedError: the server does not tell.
            OracleCrmError: it could not be read, however often tried.
        """

        def attempt() -> Any:
            response, body = self._get(f"{resource}/describe", {"metadataMode": "minimal"})
            return _json(body, response)

        return self._persist(attempt, f"{resource}/describe")

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    # Attempts and the pauses between them

    def _persist(self, attempt: Callable[[], _T], what: str) -> _T:
        failures = 0
        refusals = 0
        while True:
            try:
                with self.gate.slot():
                    result = attempt()
                self.gate.answered()
                return result
            except RefusedError as error:
                # An access token may end early; a 400 without a word may be a hiccup.
                renewed = error.status == 401 and self._forget_token()
                wordless = error.status == 400 and not error.detail
                refusals += 1
                if refusals > 1 or not (renewed or wordless):
                    raise
            except RetryError as error:
                failures += 1
                self._pause_or_give_up(error, failures, what)

    def _pause_or_give_up(self, error: RetryError, failures: int, what: str) -> None:
        most = self._settings["max_retries"]
        if error.limit is not None:
            most = min(most, error.limit)
        if error.unreachable and not self._reached:
            most = min(most, FIRST_CONTACT_RETRIES)
        if failures > most:
            tries = f" after {failures} attempts" if failures > 1 else ""
            advice = (
                " Check ORACLE_BASE_URL, the network and any proxy."
                if error.unreachable
                else " What was loaded so far stays; the next run goes on from there."
            )
            msg = f"Gave up reading {what} from {self.host}{tries}: {error}.{advice}"
            raise OracleCrmError(msg) from None
        longest: float = self._settings["max_backoff_seconds"]
        # Full jitter: workers that failed together do not come back together.
        pause = random.uniform(0.1, 1) * min(longest, 0.5 * 2 ** min(failures, 20))  # noqa: S311
        if error.after is not None:
            pause = max(pause if error.after == 0 else 0, min(error.after, LONGEST_RETRY_AFTER))
        if error.throttled:
            self.gate.throttled(pause)
        log.warning(
            "%s: %s; attempt %d of %d in %.1f s", what, error, failures + 1, most + 1, pause
        )
        if self.stopping.wait(pause):
            raise StoppedError

    def _shrink_pages(self, asked: int) -> None:
        with self._lock:
            # Only once for all requests that were under way with the same size.
            if asked >= self.page_size > SMALLEST_PAGE:
                self.page_size = max(SMALLEST_PAGE, self.page_size // 2)
                log.info("Asking for pages of %d rows from now on", self.page_size)

    # One request

    def _get(
        self, path: str, params: Mapping[str, str]
    ) -> tuple[requests.Response, bytes | bytearray]:
        query = urlencode(params, quote_via=quote, safe="")
        url = f"{self._root}/{path}?{query}"
        response, body = self._send(
            "GET", url, self.host, auth=self._authorization(), headers=self._version_header
        )
        if response.status_code != 200:
            self._refuse(response, body, path)
        self._check_version(response)
        return response, body

    def _send(
        self, method: str, url: str, host: str, **options: Any
    ) -> tuple[requests.Response, bytearray]:
        with self._lock:
            self.requests += 1
        patience: float = self._settings["request_timeout"]
        end = time.monotonic() + patience
        body = bytearray()
        try:
            with self._session.request(
                method,
                url,
                allow_redirects=False,
                stream=True,
                timeout=(min(CONNECT_TIMEOUT, patience), patience),
                **options,
            ) as response:
                for chunk in response.iter_content(1 << 18):
                    body += chunk
                    if time.monotonic() > end:
                        raise RetryError(f"no full answer within {patience} s", slow=True)
        except requests.exceptions.SSLError as error:
            msg = (
                f"The TLS certificate of {host} could not be verified ({_cause(error)}). If your "
                "company has its own certificate authority, set ca_bundle to its file."
            )
            raise OracleCrmError(msg) from None
        except requests.exceptions.ConnectTimeout:
            raise RetryError(f"no connection to {host} in time", unreachable=True) from None
        except requests.exceptions.ReadTimeout:
            raise RetryError(f"no answer within {patience} s", slow=True) from None
        except requests.exceptions.ProxyError as error:
            raise RetryError(f"the proxy failed ({_cause(error)})", unreachable=True) from None
        except requests.exceptions.ConnectionError as error:
            cause = _cause(error)
            unreachable = "refused" in cause or "resolve" in cause or "unreachable" in cause
            raise RetryError(
                f"{host} cannot be reached ({cause})" if unreachable else f"connection lost ({cause})",
                unreachable=unreachable,
            ) from None
        except requests.exceptions.ChunkedEncodingError:
            raise RetryError("the answer broke off") from None
        except requests.exceptions.ContentDecodingError:
            raise RetryError("the answer is damaged") from None
        except (requests.exceptions.RequestException, OSError) as error:
            raise OracleCrmError(f"Cannot ask {host}: {_cause(error)}.") from None
        self._reached = True
        return response, body

    def _check_version(self, response: requests.Response) -> None:
        wanted = self._version_header["REST-Framework-Version"]
        got = response.headers.get("REST-Framework-Version", wanted)
        if got != wanted and not self._version_checked:
            log.warning(
                "Oracle answers with REST framework version %s instead of %s: if it refuses the "
                "query, set framework_version to %s", got, wanted, got,
            )  # fmt: skip
        self._version_checked = True

    def _refuse(self, response: requests.Response, body: bytearray, path: str) -> NoReturn:
        status = response.status_code
        detail = _detail(response, body)
        said = f": {detail}" if detail else ""
        if status in {408, 425, 429} or status >= 500:
            raise RetryError(
                f"HTTP {status}{said}",
                after=_retry_after(response),
                throttled=status in {429, 503},
                slow=status in {408, 502, 504},
            )
        if 300 <= status < 400:
            target = urlsplit(response.headers.get("Location", "")).netloc or "another page"
            msg = (
                f"{self.host} sent a redirect ({status}) to {target}, most likely a login page; "
                "it was not followed. Check ORACLE_BASE_URL, and that the account may use the "
                "REST API."
            )
        elif status == 401 and "token_url" in self._settings:
            msg = (
                f"Oracle refused the access token (401{said}). Check ORACLE_SCOPE, and that the "
                "client is mapped to a Fusion user."
            )
        elif status == 401:
            msg = (
                "Oracle refused the user name or password (401). Check ORACLE_USER and "
                "ORACLE_PASS; it was not tried again, since wrong passwords lock accounts."
            )
        elif status == 403:
            msg = (
                f"Oracle knows the user but does not let it read {path} (403{said}). Ask the CRM's "
                "administrator for a role that may view it through the REST API."
            )
        elif status == 404:
            msg = (
                f"{self.host} has no {path} in version {self._settings['api_version']} of its CRM "
                f"API (404{said}). Check ORACLE_BASE_URL and the setting api_version."
            )
        elif status == 400:
            msg = (
                f"Oracle refused the query of {path} (400{said or ', without a word'}). Check the "
                "settings filter, finder, framework_version and timestamp_format."
            )
        else:
            msg = f"{self.host} refused to serve {path} (HTTP {status}{said})."
        raise RefusedError(msg, status=status, detail=detail)

    # Credentials

    def _authorization(self) -> _BasicOrBearer:
        if "token_url" not in self._settings:
            return _BasicOrBearer(_basic(self._settings["username"], self._settings["password"]))
        with self._token_lock:
            if self._token is None or time.monotonic() > self._token[1]:
                self._token = self._new_token()
            return _BasicOrBearer(f"Bearer {self._token[0]}")

    def _forget_token(self) -> bool:
        """Drop the access token; tell whether there was one to drop."""
        with self._token_lock:
            had_one, self._token = self._token is not None, None
            return had_one

    def _new_token(self) -> tuple[str, float]:
        url: str = self._settings["token_url"]
        host = urlsplit(url).netloc
        form = {"grant_type": "client_credentials"}
        if "scope" in self._settings:
            form["scope"] = self._settings["scope"]
        basic = _basic(self._settings["client_id"], self._settings["client_secret"])
        response, body = self._send("POST", url, host, auth=_BasicOrBearer(basic), data=form)
        status = response.status_code
        if status == 429 or status >= 500:
            raise RetryError(
                f"the token endpoint {host} answered HTTP {status}", after=_retry_after(response)
            )
        if status != 200:
            msg = (
                f"The token endpoint {host} refused the client (HTTP {status}). Check "
                "ORACLE_TOKEN_URL, ORACLE_CLIENT_ID, ORACLE_CLIENT_SECRET and ORACLE_SCOPE."
            )
            raise OracleCrmError(msg)
        answer = _json(body, response)
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not token:
            msg = f"The token endpoint {host} gave no access token. Check ORACLE_TOKEN_URL."
            raise OracleCrmError(msg)
        try:
            lifetime = float(answer.get("expires_in", 3_600))
        except (TypeError, ValueError):
            lifetime = 3_600.0
        return token, time.monotonic() + max(lifetime / 2, lifetime - TOKEN_MARGIN)


def _basic(user: str, password: str) -> str:
    # requests would encode as Latin-1, which refuses most of the world's passwords.
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def _cause(error: BaseException) -> str:
    """Say what lies at the bottom of an error, without addresses and their parameters."""
    while True:
        inner = next((arg for arg in error.args if isinstance(arg, BaseException)), None)
        inner = inner or getattr(error, "reason", None)
        if not isinstance(inner, BaseException):
            break
        error = inner
    text = str(error.args[-1] if error.args else error) or type(error).__name__
    text = text.split("(Caused by")[0].split("url:")[0]
    return " ".join(text.split(": ")[-1].split())[:160] or type(error).__name__


def _retry_after(response: requests.Response) -> float | None:
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
    return max(0.0, (moment - _server_time(response)).total_seconds())


def _server_time(response: requests.Response) -> datetime:
    try:
        moment = parsedate_to_datetime(response.headers["Date"])
    except (KeyError, ValueError):
        return datetime.now(UTC)
    return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(UTC)


def _detail(response: requests.Response, body: bytearray) -> str:
    """Return the server's own words on an error, one line."""
    if _is_html(response, body):
        return "an HTML page"
    try:
        answer = json.loads(body)
    except ValueError:
        text = body.decode(errors="replace")
    else:
        if isinstance(answer, dict):
            details = answer.get("o:errorDetails")
            texts = [
                str(item["detail"])
                for item in (details if isinstance(details, list) else [])
                if isinstance(item, dict) and item.get("detail")
            ]
            text = "; ".join(texts) or str(answer.get("detail") or answer.get("title") or "")
        else:
            text = str(answer or "")
    text = " ".join(text.split())
    return text if len(text) <= 300 else f"{text[:297]}..."


def _is_html(response: requests.Response, body: bytearray) -> bool:
    return "html" in response.headers.get("Content-Type", "") or body.lstrip()[:1] == b"<"


def _json(body: bytes | bytearray, response: requests.Response) -> Any:
    """Decode a body; integers and decimals stay exact.

    Raises:
        RetryError: it is empty, cut off, HTML or anything else but JSON.
    """
    try:
        return _decode(body)
    except (msgspec.DecodeError, ValueError, RecursionError):
        pass  # The standard library takes more: lone surrogates, NaN, raw control characters.
    try:
        return json.loads(
            body.decode("utf-8", errors="replace"),
            parse_float=Decimal,
            parse_int=lambda text: int(text) if len(text) < 4_000 else Decimal(text),
            parse_constant=Decimal,
            strict=False,
        )
    except (ValueError, RecursionError):
        pass
    if not body:
        raise RetryError("an empty answer instead of JSON")
    if _is_html(response, bytearray(body)):
        raise RetryError("an HTML page instead of JSON, as a login page or a proxy sends it")
    raise RetryError("an answer that is cut off or no JSON")


def _page(body: bytes | bytearray, response: requests.Response) -> Page:
    """Read the envelope of a collection.

    Raises:
        RetryError: it is none; what is broken must never pass for an empty page.
    """
    answer = _json(body, response)
    if not isinstance(answer, dict):
        raise RetryError("JSON that is no collection")
    items = answer.get("items")
    count = _whole(answer.get("count"))
    if items is None and count == 0:
        items = []
    if not isinstance(items, list) or (not items and count):
        raise RetryError("a collection without its items")
    limit = _whole(answer.get("limit"))
    more = answer.get("hasMore")
    if isinstance(more, str):
        more = {"true": True, "false": False}.get(more.lower())
    if limit:
        short = len(items) < limit
    else:
        short = more is False  # without a limit in force only the server can tell
    return Page(
        items=items,
        complete=not items or (short and more is not True),
        limit=limit,
        total=_whole(answer.get("totalResults")),
        server_time=_server_time(response),
    )


def _whole(value: object) -> int | None:
    if isinstance(value, bool):
        return None
    try:
        number = int(value)  # type: ignore[call-overload]
    except (TypeError, ValueError, OverflowError):
        return None
    return number if number >= 0 else None
