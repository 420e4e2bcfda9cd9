"""The identity provider: its discovery document, its keys, and what it says of a user."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import httpx2
from authlib.common.urls import add_params_to_uri
from authlib.integrations.httpx_client import AsyncOAuth2Client, OAuthError
from authlib.oidc.core import CodeIDToken
from joserfc import jwt
from joserfc.errors import InvalidKeyIdError, JoseError
from joserfc.jwk import KeySet

from api.oidc.attempt import Attempt
from api.problems import ProblemError
from database.settings import Settings

log = logging.getLogger(__name__)

# One signs with a private key, so the application could not forge what it is given.
ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512"]
METADATA_SECONDS = 3600
NEW_KEYS_SECONDS = 60
"""Keys that nobody knows are not asked for more often."""
STEP_SECONDS = 5
WHOLE_SECONDS = 15
CLOCK_SECONDS = 60
"""How far the provider's clock may differ."""


class RefusedError(ProblemError):
    """The provider, or what it says, does not let a user in: 403."""

    def __init__(self, detail: str) -> None:
        super().__init__(403, detail)


@dataclass(frozen=True)
class Identity:
    """Who the provider says that a user is.

    Attributes:
        issuer: The provider, without a slash at the end.
        subject: The user's id there, for ever.
        claims: All that it says, of the ID token and where needed of its userinfo endpoint.
        id_token: As it came, for signing out.
    """

    issuer: str
    subject: str
    claims: dict[str, Any]
    id_token: str


class _Cached:
    """An answer of the provider, kept for some time; many who need it ask once."""

    def __init__(self, check: Callable[[dict[str, Any]], None]) -> None:
        self._check = check
        self._answer: dict[str, Any] | None = None
        self._asked_at = 0.0
        self._lock = asyncio.Lock()

    async def get(self, client: AsyncOAuth2Client, url: str, seconds: float) -> dict[str, Any]:
        async with self._lock:
            if self._answer is None or time.monotonic() - self._asked_at > seconds:
                response = await client.request("GET", url, withhold_token=True)
                answer = _json(response)
                self._check(answer)
                self._answer = answer
                self._asked_at = time.monotonic()
            return self._answer


class Provider:
    """The identity provider of `OIDC_ISSUER`."""

    def __init__(self, settings: Settings) -> None:
        """Take its settings; nothing is asked before somebody signs in."""
        assert settings.oidc_issuer is not None  # noqa: S101 - the caller's promise
        self._issuer = settings.oidc_issuer.rstrip("/")
        self._needed = {settings.oidc_name_claim, settings.oidc_groups_claim}
        secret = settings.oidc_client_secret
        self._id = settings.oidc_client_id
        self._client = AsyncOAuth2Client(
            client_id=self._id,
            client_secret=secret and secret.get_secret_value(),
            token_endpoint_auth_method=None if secret else "none",
            scope=settings.oidc_scopes,
            code_challenge_method="S256",
            timeout=STEP_SECONDS,
        )
        self._metadata, self._keys = _Cached(self._check_metadata), _Cached(_check_keys)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.aclose()

    async def authorization_url(self, attempt: Attempt, redirect_uri: str) -> str:
        """Return where a browser signs in.

        Raises:
            ProblemError: 503, the provider can't be asked.
        """
        async with _in_time():
            metadata = await self._discover()
            url, _ = self._client.create_authorization_url(
                metadata["authorization_endpoint"],
                state=attempt.state,
                nonce=attempt.nonce,
                code_verifier=attempt.code_verifier,
                redirect_uri=redirect_uri,
            )
            return str(url)

    async def identify(
        self, attempt: Attempt, code: str, issuer: str | None, redirect_uri: str
    ) -> Identity:
        """Return who has signed in, by the code that the browser brought back.

        Args:
            attempt: The one that the browser began.
            code: The provider's code.
            issuer: The provider's name for itself, if the browser brought it (RFC 9207).
            redirect_uri: The address that the browser was told to come back to.

        Raises:
            RefusedError: code or ID token are not good.
            ProblemError: 503, the provider can't be asked.
        """
        async with _in_time():
            metadata = await self._discover()
            if issuer is not None and issuer != metadata["issuer"]:
                raise RefusedError("This answer is of another identity provider.")
            try:
                token = await self._client.fetch_token(
                    metadata["token_endpoint"],
                    grant_type="authorization_code",
                    code=code,
                    code_verifier=attempt.code_verifier,
                    redirect_uri=redirect_uri,
                )
            except OAuthError as error:
                raise RefusedError(
                    f"The identity provider refused the sign-in ({error.error}). Start again."
                ) from error
            claims = await self._check(token, attempt.nonce)
            claims = await self._complete(claims, token)
            return Identity(self._issuer, claims["sub"], claims, token["id_token"])

    async def sign_out_url(self, id_token: str, back_to: str) -> str | None:
        """Return where a browser signs out of the provider; None if it offers that nowhere.

        Raises:
            ProblemError: 503, the provider can't be asked.
        """
        async with _in_time():
            endpoint = (await self._discover()).get("end_session_endpoint")
        if endpoint is None:
            return None
        parameters = {
            "id_token_hint": id_token,
            "client_id": self._id,
            "post_logout_redirect_uri": back_to,
        }
        return str(add_params_to_uri(endpoint, parameters.items()))

    async def _discover(self) -> dict[str, Any]:
        url = f"{self._issuer}/.well-known/openid-configuration"
        return await self._metadata.get(self._client, url, METADATA_SECONDS)

    def _check_metadata(self, metadata: dict[str, Any]) -> None:
        for name in ("issuer", "authorization_endpoint", "token_endpoint", "jwks_uri"):
            if not isinstance(metadata.get(name), str):
                raise ValueError(f"the discovery document has no {name}")
        if metadata["issuer"].rstrip("/") != self._issuer:
            raise ValueError(f"the issuer calls itself {metadata['issuer']!r}")

    async def _check(self, token: dict[str, Any], nonce: str) -> dict[str, Any]:
        """Return the claims of an ID token that is good; see OpenID Connect Core, 3.1.3.7."""
        metadata = await self._discover()
        try:
            decoded = await self._decode(token["id_token"])
            options = {
                "iss": {"value": metadata["issuer"]},
                "aud": {"value": self._id},
                "sub": {"essential": True},
            }
            given = {"nonce": nonce, "client_id": self._id, "access_token": token["access_token"]}
            claims = CodeIDToken(decoded.claims, decoded.header, options, given)
            claims.validate(leeway=CLOCK_SECONDS)
        except (JoseError, KeyError) as error:
            raise RefusedError(
                f"The identity provider's ID token is not good ({error}). Start again."
            ) from error
        return dict(claims)

    async def _decode(self, id_token: str) -> jwt.Token:
        uri = (await self._discover())["jwks_uri"]
        keys = await self._keys.get(self._client, uri, METADATA_SECONDS)
        try:
            return jwt.decode(id_token, _key_set(keys), algorithms=ALGORITHMS)
        except InvalidKeyIdError:  # the provider has new ones
            keys = await self._keys.get(self._client, uri, NEW_KEYS_SECONDS)
            return jwt.decode(id_token, _key_set(keys), algorithms=ALGORITHMS)

    async def _complete(self, claims: dict[str, Any], token: dict[str, Any]) -> dict[str, Any]:
        """Add what the userinfo endpoint says, if the ID token leaves something out."""
        endpoint = (await self._discover()).get("userinfo_endpoint")
        if endpoint is None or self._needed <= claims.keys():
            return claims
        bearer = {"Authorization": f"Bearer {token['access_token']}"}
        answer = await self._client.request("GET", endpoint, headers=bearer, withhold_token=True)
        more = _json(answer)
        if more.get("sub") != claims["sub"]:
            raise RefusedError("The identity provider speaks of two users. Start again.")
        return more | claims


def _check_keys(keys: dict[str, Any]) -> None:
    try:
        _key_set(keys)
    except JoseError as error:
        raise ValueError(f"the keys can't be read: {error}") from error


def _key_set(keys: dict[str, Any]) -> KeySet:
    return KeySet.import_key_set(keys)  # type: ignore[arg-type]


def _json(response: httpx2.Response) -> dict[str, Any]:
    response.raise_for_status()
    answer = response.json()
    if not isinstance(answer, dict):
        raise ValueError("the answer is no object")
    return answer


@asynccontextmanager
async def _in_time() -> AsyncIterator[None]:
    try:
        async with asyncio.timeout(WHOLE_SECONDS):
            yield
    except (httpx2.HTTPError, TimeoutError, ValueError, KeyError) as error:
        log.warning("the identity provider does not answer", extra={"reason": repr(error)})
        raise ProblemError(
            503,
            "The identity provider can't be reached, or does not answer as it should. Try again"
            " later; the API's log has the reason.",
        ) from error
