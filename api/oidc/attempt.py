"""A sign-in under way: what the browser keeps while it is at the identity provider."""

import hashlib
import hmac
import json
import secrets
import time
from base64 import urlsafe_b64decode, urlsafe_b64encode
from dataclasses import dataclass
from typing import Self

from api.addresses import own_path

LIFE_SECONDS = 10 * 60


@dataclass(frozen=True)
class Attempt:
    """A secret of one browser, from which all else is derived.

    Nobody can make the state that fits another browser's cookie. So nothing has to be stored
    before the browser is back, and no stranger can fill the database.

    Attributes:
        secret: 256 random bits.
        started: When, in seconds since 1970.
        next: Our own path to go on to.
    """

    secret: str
    started: int
    next: str

    @classmethod
    def begin(cls, wanted: str) -> Self:
        """Return a new attempt that leads to a wanted path."""
        return cls(secrets.token_urlsafe(32), int(time.time()), own_path(wanted))

    @classmethod
    def of_cookie(cls, cookie: str) -> Self | None:
        """Return what a cookie holds; None if it is none of ours, or too old."""
        try:
            secret, started, wanted = json.loads(urlsafe_b64decode(cookie.encode()))
            attempt = cls(str(secret), int(started), own_path(str(wanted)))
        except (ValueError, TypeError, RecursionError):
            return None
        is_young = 0 <= time.time() - attempt.started <= LIFE_SECONDS
        return attempt if is_young else None

    @property
    def cookie(self) -> str:
        """The value of the cookie."""
        return urlsafe_b64encode(
            json.dumps([self.secret, self.started, self.next]).encode()
        ).decode()

    @property
    def state(self) -> str:
        """What ties the provider's answer to this browser."""
        return self._derive("state")

    @property
    def nonce(self) -> str:
        """What ties the ID token to this attempt."""
        return self._derive("nonce")

    @property
    def code_verifier(self) -> str:
        """The secret of PKCE (RFC 7636): who has only seen the code can't use it."""
        return self._derive("verifier")

    def has_state(self, given: str) -> bool:
        """Tell whether an answer of the provider belongs to this attempt."""
        return hmac.compare_digest(given.encode("utf-8", "replace"), self.state.encode())

    def _derive(self, purpose: str) -> str:
        message = f"{purpose} {self.started} {self.next}".encode("utf-8", "surrogatepass")
        key = self.secret.encode("utf-8", "surrogatepass")
        return urlsafe_b64encode(hmac.digest(key, message, hashlib.sha256)).rstrip(b"=").decode()
