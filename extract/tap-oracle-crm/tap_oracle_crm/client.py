"""Everything that speaks HTTP: authentication, retries, throttling, pages.

One client serves all streams and worker threads of a run: one connection pool, one access
token, one idea of how much the server bears.
"""

from __future__ import annotations

import logging
import math
import os
import random
import re
import ssl
import threading
import time
from base64 import b64encode
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from typing import Any, NoReturn, TypeVar
from urllib.parse import quote, urlencode, urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter

from tap_oracle_crm.answers import (
    Page,
    RetryError,
    codes_of,
    detail_of,
    is_database_trouble,
    json_of,
    one_line,
    page_of,
    retry_after,
)
from tap_oracle_crm.config import LOOPBACK
from tap_oracle_crm.deadline import DeadlineAdapter, answer_within
from tap_oracle_crm.errors import (
    CredentialsError,
    GaveUpError,
    OracleCrmError,
    RefusedError,
    StoppedError,
)
from tap_oracle_crm.gate import Gate
from tap_oracle_crm.optional import HEADERS, OptionalParts, Parts

log = logging.getLogger("tap-oracle-crm")

ACCEPT = "application/json, application/vnd.oracle.adf.error+json"
CONNECT_TIMEOUT = 15
FIRST_CONTACT_RETRIES = 2
"""How often a host that never answered is tried again when it cannot be reached at all."""
LONGEST_RETRY_AFTER = 3_600
"""Seconds that are waited at most, whatever a server asks for."""
SMALLEST_PAGE = 25
GOOD_PAGES = 10
"""After so many in a row a page that was made smaller is doubled; after twice as many next time."""
TOKEN_MARGIN = 60
"""Seconds before its end at which a token is replaced."""
LONGEST_FIELDS = 6_000
"""Characters of `fields` beyond which URLs risk being refused: all attributes are asked for."""
ABOUT_WHO_ASKS = {401, 403, 404, 405, 407}
"""Statuses of refusals that no other form of the request changes."""
TOO_LONG = {413, 414, 431}
"""Statuses that are about the length of a request, not about an attribute in it."""
FEW_RETRIES = 2
"""How often something that can be done without is tried again."""

ALLOW_LIST = (
    "The same answer comes where this machine's address is not on the list of those that the CRM "
    "lets in."
)
SETTING_OF = {
    "finder": "finder",
    "limit": "page_size",
    "REST-Framework-Version": "framework_version",
    "Accept-Language": "accept_language",
}
"""The setting that a parameter or header comes from."""

_T = TypeVar("_T")


class _Session(requests.Session):
    """Follows no redirect, and does not look where one leads, which may be no address at all."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return nothing."""


class CrmClient:
    """Reads collections of the CRM's REST API.

    Args:
        settings: as `config.resolve` returns them.
        adapter: what carries requests, in place of sockets.
    """

    def __init__(self, settings: Mapping[str, Any], adapter: BaseAdapter | None = None) -> None:
        self._settings = settings
        self.page_size: int = settings["page_size"]
        self._good_pages, self._enough_good_pages = 0, GOOD_PAGES // 2
        self.requests = 0
        """How many requests were sent so far, repeated ones included."""
        self.stopping = threading.Event()
        self._end = math.inf
        if seconds := settings["max_runtime_seconds"]:
            self._end = time.monotonic() + seconds
            timer = threading.Timer(seconds, self.stopping.set)
            timer.daemon = True
            timer.start()
        self.gate = Gate(settings["concurrency"], self.stopping)
        self._reached: set[str] = set()
        self._version_checked = False
        self._lock = threading.Lock()
        self._token_lock = threading.Lock()
        self._token: tuple[str, float] | None = None
        parts = urlsplit(settings["base_url"])
        self.host = parts.netloc
        self._root = f"{settings['base_url']}/crmRestApi/resources/{settings['api_version']}"
        self._session = _Session()
        self._session.headers.update(
            {
                "Accept-Encoding": "gzip",
                "User-Agent": settings["user_agent"],
            }
        )
        self.optional = OptionalParts()
        self._headers = {
            "REST-Framework-Version": str(settings["framework_version"]),
            "Accept": ACCEPT,
        }
        if "accept_language" in settings:
            self._headers["Accept-Language"] = settings["accept_language"]
        # This machine is reached without a proxy, whatever else needs one.
        no_proxy = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").strip()
        direct = no_proxy if no_proxy == "*" else ",".join([no_proxy, *LOOPBACK])
        # What the environment says is looked up here, once: requests would change the
        # environment's no_proxy while other threads read it.
        self._network = {
            setting: self._session.merge_environment_settings(
                address, {"no_proxy": direct}, True, settings.get("ca_bundle"), None
            )
            for setting, address in (
                ("ORACLE_BASE_URL", settings["base_url"]),
                ("ORACLE_TOKEN_URL", settings.get("token_url", "")),
            )
        }
        self._session.trust_env = False
        if adapter is None:
            adapter = DeadlineAdapter(pool_connections=2, pool_maxsize=settings["concurrency"])
        # Another adapter keeps its own time.
        self._within = answer_within if isinstance(adapter, DeadlineAdapter) else nullcontext
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
        key: str | None = None,
        settle: bool = True,
        retries: int | None = None,
    ) -> Page:
        """Read one page of a collection; `check` may raise RetryError to have it read again.

        Where it is refused, and `settle` is left as it is, the parts of it that are refused are
        found out and left out; `key` is an attribute that the resource has for certain. `retries`
        says how often it is tried again, where that is less than the setting of this name.

        Raises:
            RefusedError: the server refuses for good.
            GaveUpError: it could not be read, however often tried.
            OracleCrmError: it cannot be asked at all.
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
                page = page_of(body, response)
            except RetryError as error:
                # A gateway that fails at once would do so with smaller pages, too.
                took_long = time.monotonic() - begun > self._settings["request_timeout"] / 2
                if error.slow and took_long and not self._is_over():
                    self._shrink_pages(int(parts.get("limit", self.page_size)))
                raise
            if check:
                check(page)
            self._grow_pages()
            return page

        if settle:
            return self._settle(resource, sized, attempt, key, retries)
        served = self.optional.served
        return self._persist(lambda: attempt(served(_kind(resource), sized())), resource, retries)

    def describe(self, resource: str) -> Any:
        """Return what the server says of a resource's attributes, as received.

        Raises:
            RefusedError: the server does not tell.
            OracleCrmError: it could not be read in a few attempts.
        """

        def attempt(parts: Parts) -> Any:
            response, body = self.get(f"{resource}/describe", parts)
            return json_of(body, response)

        return self._settle(
            f"{resource}/describe", lambda: self._headers, attempt, retries=FEW_RETRIES
        )

    # Parts that may be refused

    def _settle(
        self,
        path: str,
        parts: Callable[[], Parts],
        attempt: Callable[[Parts], _T],
        key: str | None = None,
        retries: int | None = None,
    ) -> _T:
        """Ask with all parts that the server takes; find out which it does not."""
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
                self._persist(lambda: read(some), path, 1)
            except RefusedError as error:
                if _is_about_who_asks(error):
                    raise
                return False
            except GaveUpError as error:
                if not error.is_this_request:
                    raise
                return False
            return True

        while True:
            try:
                return self._persist(ask, path, retries)
            except RefusedError as error:
                if error.part or _is_about_who_asks(error):
                    raise

                def refusal(part: str, error: RefusedError = error) -> RefusedError:
                    return _refusal_of(part, sent[part], path, error)

                known = None if error.status in TOO_LONG else key
                if not self.optional.search(kind, wanted, sent, known, serves, refusal):
                    raise

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    # Attempts and the pauses between them

    def _persist(self, attempt: Callable[[], _T], what: str, retries: int | None = None) -> _T:
        failures = 0
        has_renewed = has_asked_again = False
        while True:
            try:
                with self.gate.slot():
                    result = attempt()
                self.gate.answered()
                return result
            except RefusedError as error:
                # An access token may end early; a 400 without a word may be a hiccup.
                if error.status == 401 and "token_url" in self._settings and not has_renewed:
                    has_renewed = True
                elif error.status == 400 and not error.detail and not has_asked_again:
                    has_asked_again = True
                    self._wait(random.uniform(0.5, 1.5))  # noqa: S311
                else:
                    raise
            except RetryError as error:
                failures += 1
                self._pause_or_give_up(error, failures, what, retries)

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
                else "What was loaded so far stays; the next run goes on from there."
            )
            raise GaveUpError(
                f"Gave up on {what} of {self.host} {tries}: {error}.",
                advice=advice,
                cause=f"{error} ({tries})",
                is_this_request=is_this_request,
            ) from None
        longest: float = self._settings["max_backoff_seconds"]
        # Full jitter: workers that failed together do not come back together.
        pause = random.uniform(0.1, 1) * min(longest, 0.5 * 2 ** min(failures, 20))  # noqa: S311
        if error.after is not None:
            # Never less than without its advice: some servers always say "1".
            asked = min(error.after, LONGEST_RETRY_AFTER) + random.uniform(0, 0.25)  # noqa: S311
            pause = max(pause, asked)
        if error.throttled:
            self.gate.throttled(pause)
        log.warning(
            "%s: %s; attempt %d of %d in %.1f s", what, error, failures + 1, most + 1, pause
        )
        self._wait(pause)

    def _wait(self, seconds: float) -> None:
        if self.stopping.wait(seconds):
            raise StoppedError

    def _is_over(self) -> bool:
        return self.stopping.is_set() or time.monotonic() >= self._end

    def _shrink_pages(self, asked: int) -> None:
        with self._lock:
            # Only once for all requests that were under way with the same size.
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

    def get(self, path: str, parts: Parts) -> tuple[requests.Response, bytes]:
        """Ask for a resource with these parameters and headers, once.

        Raises:
            RetryError: no usable answer came.
            RefusedError: the server refuses.
            OracleCrmError: it cannot be asked at all.
        """
        params = {name: value for name, value in parts.items() if name not in HEADERS}
        headers = {name: value for name, value in parts.items() if name in HEADERS}
        query = urlencode(params, quote_via=quote, safe="")
        url = f"{self._root}/{path}?{query}"
        credentials = self._authorization()
        response, body = self._send(
            "GET",
            url,
            self.host,
            "ORACLE_BASE_URL",
            headers={**headers, "Authorization": credentials},
        )
        if response.status_code == 401:
            self._forget_token(credentials)
        if response.status_code != 200:
            self._refuse(response, body, path)
        if "REST-Framework-Version" in headers:
            self._check_version(response)
        return response, body

    def _send(
        self, method: str, url: str, host: str, setting: str, **options: Any
    ) -> tuple[requests.Response, bytes]:
        """Send a request to `host`, whose address is in `setting`; return the whole answer."""
        with self._lock:
            self.requests += 1
        patience = min(self._settings["request_timeout"], max(0.1, self._end - time.monotonic()))

        def unreachable(text: str) -> RetryError:
            limit = None if host in self._reached else FIRST_CONTACT_RETRIES
            return RetryError(text, setting=setting, limit=limit)

        # A smaller page makes no token come sooner.
        late = RetryError(f"no full answer within {patience:.3g} s", slow=method == "GET")
        try:
            with (
                self._within(patience),
                self._session.request(
                    method,
                    url,
                    allow_redirects=False,
                    timeout=(min(CONNECT_TIMEOUT, patience), patience),
                    **self._network[setting],
                    **options,
                ) as response,
            ):
                body: bytes = response.raw.read(decode_content=True)
        except requests.exceptions.SSLError as error:
            cause = _cause(error)
            if "certificate" not in cause:
                raise unreachable(f"no TLS connection to {host} ({cause})") from None
            raise OracleCrmError(
                f"{host} showed a TLS certificate that is not trusted ({cause}).",
                advice="If your company has a certificate authority of its own, set ca_bundle to "
                "its file.",
            ) from None
        except requests.exceptions.ConnectTimeout:
            raise unreachable(f"no connection to {host} in time") from None
        except (requests.exceptions.ReadTimeout, urllib3.exceptions.ReadTimeoutError):
            raise late from None
        except requests.exceptions.ProxyError as error:
            raise unreachable(f"the proxy failed ({_cause(error)})") from None
        except requests.exceptions.ConnectionError as error:
            cause = _cause(error)
            if any(word in cause for word in ("refused", "resolve", "unreachable", "No route")):
                raise unreachable(f"{host} cannot be reached ({cause})") from None
            raise RetryError(f"connection lost ({cause})") from None
        except (requests.exceptions.RequestException, OSError, ValueError) as error:
            raise OracleCrmError(
                f"Cannot ask {host}: {_cause(error)}.", advice=f"Check {setting}."
            ) from None
        except urllib3.exceptions.DecodeError:
            raise RetryError("the answer is damaged") from None
        except urllib3.exceptions.HTTPError:
            raise RetryError("the answer broke off") from None
        self._reached.add(host)
        return response, body

    def _check_version(self, response: requests.Response) -> None:
        wanted = self._headers["REST-Framework-Version"]
        got = response.headers.get("REST-Framework-Version", wanted)
        if got != wanted and not self._version_checked:
            log.warning(
                "Oracle answers with REST framework version %s instead of %s: if it refuses the "
                "query, set framework_version to %s", got, wanted, got,
            )  # fmt: skip
        self._version_checked = True

    def _refuse(self, response: requests.Response, body: bytes, path: str) -> NoReturn:
        status = response.status_code
        detail = detail_of(response, body)
        said = f": {detail}" if detail else ""
        passes = status == 400 and is_database_trouble(body)
        if passes or status in {408, 425, 429} or status >= 500:
            raise RetryError(
                f"HTTP {status}{said}",
                after=retry_after(response),
                throttled=status in {429, 503},
                slow=status in {408, 502, 504},
            )
        if 300 <= status < 400:
            target = _host(response.headers.get("Location", "")) or "another page"
            problem = (
                f"{self.host} sent a redirect ({status}) to {target}, most likely a login page; "
                "it was not followed."
            )
            advice = "Check ORACLE_BASE_URL, and that the account may use the REST API."
        elif status == 401 and "token_url" in self._settings:
            problem = f"Oracle refused the access token (401{said})."
            advice = (
                f"Check ORACLE_SCOPE, and that the client is mapped to a Fusion user. {ALLOW_LIST}"
            )
        elif status == 401:
            problem = "Oracle refused the user name or password (401)."
            advice = (
                "Check ORACLE_USER and ORACLE_PASS; it was not tried again, since wrong passwords "
                f"lock accounts. {ALLOW_LIST}"
            )
        elif status == 403:
            problem = f"Oracle knows the user but does not let it read {path} (403{said})."
            advice = (
                "Ask the CRM's administrator for a role that may view it through the REST API. "
                f"{ALLOW_LIST}"
            )
        elif status == 404:
            problem = (
                f"{self.host} has no {path} in version {self._settings['api_version']} of its CRM "
                f"API (404{said})."
            )
            advice = "Check ORACLE_BASE_URL and the setting api_version."
        elif status == 400:
            problem = f"Oracle refused the query of {path} (400{said or ', without a word'})."
            advice = _remedy_for(detail)
        else:
            problem = f"{self.host} refused to serve {path} (HTTP {status}{said})."
            advice = _remedy_for(detail)
        raise RefusedError(
            problem, advice=advice, status=status, detail=detail, codes=codes_of(body)
        )

    # Credentials

    def _authorization(self) -> str:
        if "token_url" not in self._settings:
            return _basic(self._settings["username"], self._settings["password"])
        with self._token_lock:
            if self._token is None or time.monotonic() > self._token[1]:
                self._token = self._new_token()
            return self._token[0]

    def _forget_token(self, refused: str) -> None:
        """Drop the access token unless another worker has already got a new one."""
        with self._token_lock:
            if self._token and self._token[0] == refused:
                self._token = None

    def _new_token(self) -> tuple[str, float]:
        url: str = self._settings["token_url"]
        host = urlsplit(url).netloc
        form = {"grant_type": "client_credentials"}
        if "scope" in self._settings:
            form["scope"] = self._settings["scope"]
        basic = _basic(self._settings["client_id"], self._settings["client_secret"])
        response, body = self._send(
            "POST", url, host, "ORACLE_TOKEN_URL", headers={"Authorization": basic}, data=form
        )
        status = response.status_code
        if status == 429 or status >= 500:
            raise RetryError(
                f"the token endpoint {host} answered HTTP {status}", after=retry_after(response)
            )
        if status != 200:
            raise CredentialsError(
                f"The token endpoint {host} refused the client (HTTP {status}).",
                advice="Check ORACLE_TOKEN_URL, ORACLE_CLIENT_ID, ORACLE_CLIENT_SECRET and "
                "ORACLE_SCOPE.",
            )
        try:
            answer = json_of(body, response)
        except RetryError as error:
            text = f"the token endpoint {host} sent {error}"
            raise RetryError(text, setting="ORACLE_TOKEN_URL") from None
        token = answer.get("access_token") if isinstance(answer, dict) else None
        if not isinstance(token, str) or not (token.isascii() and token.isprintable() and token):
            raise OracleCrmError(
                f"The token endpoint {host} gave no usable access token.",
                advice="Check ORACLE_TOKEN_URL.",
            )
        try:
            lifetime = float(answer.get("expires_in", 3_600))
        except (TypeError, ValueError, OverflowError):
            lifetime = 3_600.0
        return f"Bearer {token}", time.monotonic() + max(lifetime / 2, lifetime - TOKEN_MARGIN)


def _kind(path: str) -> str:
    """Return the kind of a resource, the same for the children of all opportunities."""
    first, *rest = path.split("/")
    return f"{first}/{rest[-1]}" if rest else first


def _is_about_who_asks(error: RefusedError) -> bool:
    """Tell whether no other form of the request would be served."""
    return error.status in ABOUT_WHO_ASKS or error.status < 400


def _remedy_for(detail: str) -> str:
    """Name the setting that a refusal is about, by the parameter or header that it names."""
    words = set(re.findall(r"[\w-]+", detail.lower()))
    named = [setting for word, setting in SETTING_OF.items() if word.lower() in words]
    if named:
        return f"Correct the setting {' or '.join(dict.fromkeys(named))}."
    return "Run tap-oracle-crm-probe: it tries each part of a request and says which settings work."


def _refusal_of(part: str, value: str, path: str, error: RefusedError) -> RefusedError:
    """Say what to do about a part that is refused and cannot be left out."""
    begin = f"Oracle serves {path} without {part}, and refuses it with {part}={value}"
    advice = {
        "finder": "The finder decides which records are seen, so it is not left out by itself. "
        "Set finder to one that this CRM has, or to none for what the account sees by default.",
        "orderBy": "Nothing can be set instead: ask who runs the CRM or the proxy before it.",
    }.get(part, _remedy_for(error.detail))
    return RefusedError(
        f"{begin} ({error.cause}).",
        advice=advice,
        status=error.status,
        detail=error.detail,
        codes=error.codes,
        part=part,
    )


def _basic(user: str, password: str) -> str:
    # requests would encode as Latin-1, which refuses most of the world's passwords.
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()


def _host(address: str) -> str:
    try:
        return urlsplit(address).hostname or ""
    except ValueError:
        return ""


def _cause(error: BaseException) -> str:
    """Say what lies at the bottom of an error, without addresses and their parameters."""
    while True:
        reason = getattr(error, "reason", None)
        inner = [item for item in (*error.args, reason) if isinstance(item, BaseException)]
        if not inner:
            break
        error = inner[0]
    text = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)
    # urllib3 puts the connection's name in front, OpenSSL its own error codes around.
    text = re.sub(r"\[[^\]]*\] ?|\(_ssl[^)]*\)|^\w+Connection\([^)]*\)", "", str(text))
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"certificate: {text}"
    return one_line(text.split(": ", 1)[-1])[:160] or type(error).__name__
