"""Credentials: user and password, or an access token that is fetched and renewed."""

from __future__ import annotations

import threading
import time
from base64 import b64encode
from collections.abc import Mapping
from typing import Any
from urllib.parse import urlsplit

from tap_oracle_crm.answers import RetryError, json_of, retry_after
from tap_oracle_crm.connection import Connection
from tap_oracle_crm.errors import CredentialsError, OracleCrmError

TOKEN_MARGIN = 60
"""Seconds before its end at which a token is replaced."""


class Credentials:
    """The credentials of a run, for all its threads: one access token at a time."""

    def __init__(self, settings: Mapping[str, Any], connection: Connection) -> None:
        self._settings, self._connection = settings, connection
        self._lock = threading.Lock()
        self._token: tuple[str, float] | None = None

    def header(self) -> str:
        """Return the Authorization header, with a new access token if the old one expires.

        Raises:
            CredentialsError: the identity domain refuses the client.
            RetryError: the token endpoint gave no usable answer.
        """
        if "token_url" not in self._settings:
            return _basic(self._settings["username"], self._settings["password"])
        with self._lock:
            if self._token is None or time.monotonic() > self._token[1]:
                self._token = self._new_token()
            return self._token[0]

    def forget(self, refused: str) -> None:
        """Drop the access token unless another worker has already got a new one."""
        with self._lock:
            if self._token and self._token[0] == refused:
                self._token = None

    def _new_token(self) -> tuple[str, float]:
        url: str = self._settings["token_url"]
        host = urlsplit(url).netloc
        form = {"grant_type": "client_credentials"}
        if "scope" in self._settings:
            form["scope"] = self._settings["scope"]
        basic = _basic(self._settings["client_id"], self._settings["client_secret"])
        response, body = self._connection.send(
            "POST", url, "ORACLE_TOKEN_URL", headers={"Authorization": basic}, data=form
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


def _basic(user: str, password: str) -> str:
    # requests would encode as Latin-1, which cannot hold most characters.
    return "Basic " + b64encode(f"{user}:{password}".encode()).decode()
