"""Sends requests to the CRM and its token endpoint: connections, proxies, certificates, time."""

from __future__ import annotations

import os
import re
import ssl
import threading
import time
from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any
from urllib.parse import urlsplit

import requests
import urllib3
from requests.adapters import BaseAdapter

from tap_oracle_crm.answers import RetryError, one_line
from tap_oracle_crm.config import LOOPBACK
from tap_oracle_crm.deadline import DeadlineAdapter, answer_within
from tap_oracle_crm.errors import OracleCrmError

CONNECT_TIMEOUT = 15
FIRST_CONTACT_RETRIES = 2
"""Number of retries for a host that cannot be reached and has never answered."""


class _Session(requests.Session):
    """Follows no redirect, and does not parse its target, which may not be a valid address."""

    def get_redirect_target(self, resp: requests.Response) -> None:
        """Return nothing."""


class Connection:
    """One pool of connections, for all threads of a run.

    Args:
        settings: as `config.resolve` returns them.
        end: when waiting for answers ends, on the monotonic clock.
        adapter: sends the requests instead of sockets.

    Attributes:
        requests: number of requests sent so far, with retries.
    """

    def __init__(
        self, settings: Mapping[str, Any], end: float, adapter: BaseAdapter | None = None
    ) -> None:
        self._timeout: float = settings["request_timeout"]
        self._end = end
        self.requests = 0
        self._reached: set[str] = set()
        self._lock = threading.Lock()
        self._session = _Session()
        self._session.headers.update(
            {
                "Accept-Encoding": "gzip",
                "User-Agent": settings["user_agent"],
            }
        )
        # This machine is always reached without a proxy.
        no_proxy = (os.environ.get("no_proxy") or os.environ.get("NO_PROXY") or "").strip()
        direct = no_proxy if no_proxy == "*" else ",".join([no_proxy, *LOOPBACK])
        # The environment is read here, once: requests would change the
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
        # Another adapter has time-outs of its own.
        self._within = answer_within if isinstance(adapter, DeadlineAdapter) else nullcontext
        self._session.mount("https://", adapter)
        self._session.mount("http://", adapter)

    def close(self) -> None:
        """Close the connections."""
        self._session.close()

    def send(
        self, method: str, url: str, setting: str, **options: Any
    ) -> tuple[requests.Response, bytes]:
        """Send a request to the host named in the setting `setting`; return the whole answer.

        Raises:
            RetryError: no whole answer came.
            OracleCrmError: the host cannot be reached, or its certificate is not trusted.
        """
        host = urlsplit(url).netloc
        with self._lock:
            self.requests += 1
        patience = min(self._timeout, max(0.1, self._end - time.monotonic()))

        def unreachable(text: str) -> RetryError:
            limit = None if host in self._reached else FIRST_CONTACT_RETRIES
            return RetryError(text, setting=setting, limit=limit)

        # A smaller page does not make the token endpoint faster.
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


def _cause(error: BaseException) -> str:
    """Return the cause of an error as text, without addresses and parameters."""
    while True:
        reason = getattr(error, "reason", None)
        inner = [item for item in (*error.args, reason) if isinstance(item, BaseException)]
        if not inner:
            break
        error = inner[0]
    text = getattr(error, "verify_message", "") or getattr(error, "strerror", "") or str(error)
    # urllib3 adds the connection's name, OpenSSL its own error codes.
    text = re.sub(r"\[[^\]]*\] ?|\(_ssl[^)]*\)|^\w+Connection\([^)]*\)", "", str(text))
    if isinstance(error, ssl.SSLCertVerificationError):
        text = f"certificate: {text}"
    return one_line(text.split(": ", 1)[-1])[:160] or type(error).__name__
