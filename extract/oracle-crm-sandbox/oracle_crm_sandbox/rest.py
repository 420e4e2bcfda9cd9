"""Oracle's REST protocol for :class:`~.crm.Crm`: one request in, one answer out."""

from __future__ import annotations

import base64
import secrets
from dataclasses import dataclass
from urllib.parse import parse_qs, unquote

from .collection import Call
from .crm import Crm, NotFoundError
from .protocol import (
    FRAMEWORK_VERSIONS,
    Answer,
    PageShape,
    Request,
    RequestError,
    Settings,
    error_answer,
    framework_version,
    json_answer,
    reply,
)
from .query import QueryError
from .refusals import check_parts
from .schema import COLLECTIONS

ROOT = "/crmRestApi/resources"
TOKEN_PATH = "/oauth2/v1/token"
_COLLECTIONS = tuple(resource.name for resource in COLLECTIONS)
VERSIONS = ("11.13.18.05", "11.12.1.0")


@dataclass(frozen=True, slots=True)
class Credentials:
    """The account's user and password, and the client's id and secret for bearer tokens."""

    user: str
    password: str
    client_id: str
    client_secret: str


class Rest:
    """The protocol. It stores the issued tokens; all other data is in the CRM."""

    def __init__(self, crm: Crm, credentials: Credentials) -> None:
        self.crm = crm
        self.credentials = credentials
        self.settings = Settings()
        self._tokens: dict[str, float] = {}

    def expire_tokens(self) -> int:
        """Make all bearer tokens invalid; return their number."""
        expired = len(self._tokens)
        self._tokens.clear()
        return expired

    def answer(self, request: Request, shape: PageShape | None = None) -> Answer:
        """Answer like the CRM."""
        if request.path == TOKEN_PATH:
            return self._token(request)
        version = 1
        try:
            version = framework_version(request)
            answer = self._authorized(request, version, shape or PageShape())
        except RequestError as error:
            answer = error_answer(error, request, version)
        except QueryError as error:
            refusal = RequestError(400, str(error), f"/{error.attribute}")
            answer = error_answer(refusal, request, version)
        except NotFoundError as error:
            answer = error_answer(RequestError(404, f"Not Found: {error}"), request, version)
        answer.headers["REST-Framework-Version"] = str(version)
        return answer

    # --- authentication -----------------------------------------------------------------

    def _token(self, request: Request) -> Answer:
        """Return a token for client credentials: id and secret by HTTP Basic."""
        if request.method != "POST":
            return _oauth_error(405, "invalid_request", "POST only")
        expected = (self.credentials.client_id, self.credentials.client_secret)
        if not _matches(_basic(request), expected):
            return _oauth_error(401, "invalid_client", "Client authentication failed.")
        form = parse_qs(request.body.decode("latin-1"))
        if form.get("grant_type") != ["client_credentials"]:
            return _oauth_error(400, "unsupported_grant_type", "client_credentials only")
        token = secrets.token_urlsafe(32)
        seconds = self.settings.token_seconds
        self._tokens[token] = self.crm.now().timestamp() + seconds
        return json_answer(
            200, {"access_token": token, "token_type": "Bearer", "expires_in": seconds}
        )

    def _authorize(self, request: Request) -> None:
        scheme, _, value = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "bearer":
            if self._tokens.get(value.strip(), 0.0) > self.crm.now().timestamp():
                return
        elif _matches(_basic(request), (self.credentials.user, self.credentials.password)):
            return
        raise RequestError(401, "401 Unauthorized")

    def _check_privilege(self, name: str) -> None:
        if name in self.settings.forbidden:
            raise RequestError(403, f"You do not have the privilege to view {name}.")

    # --- routing ------------------------------------------------------------------------

    def _authorized(self, request: Request, version: int, shape: PageShape) -> Answer:
        self._authorize(request)
        check_parts(request, self.settings)
        if request.method != "GET":
            raise RequestError(405, f"{request.method} is not offered here.")
        if not request.path.startswith(ROOT):
            raise RequestError(404, "Not Found")
        steps = [unquote(step) for step in request.path.removeprefix(ROOT).strip("/").split("/")]
        if steps == [""]:
            return reply(request, self._versions(request), "resourcecollection")
        if steps[0] not in ("latest", *VERSIONS):
            raise RequestError(404, f"Unknown version {steps[0]}.")
        base = f"{_origin(request)}{ROOT}/{VERSIONS[0] if steps[0] == 'latest' else steps[0]}"
        call = Call(self.crm, self.settings, request, version, shape, base)
        match steps[1:]:
            case [name] if name in _COLLECTIONS:
                self._check_privilege(name)
                return call.collection(self.crm.resource(name))
            case [name, "describe"] if name in _COLLECTIONS:
                self._check_privilege(name)
                self._check_privilege(f"{name}/describe")
                return call.describe(self.crm.resource(name))
            case [name, item] if name in _COLLECTIONS:
                self._check_privilege(name)
                return call.item(self.crm.resource(name), item)
            case ["optyStatusesLOV" as name]:
                self._check_privilege(name)
                return call.statuses()
            case ["opportunities", item, "child", child]:
                self._check_privilege("opportunities")
                return call.child(item, child)
        raise RequestError(404, f"Unknown resource {'/'.join(steps[1:])}.")

    def _versions(self, request: Request) -> dict[str, object]:
        base = f"{_origin(request)}{ROOT}"
        return {
            "items": [
                {
                    "version": version,
                    "isLatest": version == VERSIONS[0],
                    "adf:extension": {
                        "defaultFrameworkVersion": "1",
                        "allowedFrameworkVersions": [str(number) for number in FRAMEWORK_VERSIONS],
                    },
                    "links": [
                        {
                            "rel": "canonical",
                            "href": f"{base}/{version}",
                            "name": version,
                            "kind": "other",
                        }
                    ],
                }
                for version in VERSIONS
            ],
            "links": [{"rel": "self", "href": base, "name": "self", "kind": "other"}],
        }


def _oauth_error(status: int, error: str, description: str) -> Answer:
    return json_answer(status, {"error": error, "error_description": description})


def _origin(request: Request) -> str:
    return f"http://{request.headers.get('host', '127.0.0.1')}"


def _basic(request: Request) -> tuple[str, str]:
    scheme, _, value = request.headers.get("authorization", "").partition(" ")
    if scheme.lower() != "basic":
        return "", ""
    try:
        user, _, password = base64.b64decode(value, validate=True).decode().partition(":")
    except ValueError:  # not base64, or not UTF-8
        return "", ""
    return user, password


def _matches(given: tuple[str, str], expected: tuple[str, str]) -> bool:
    return all(
        secrets.compare_digest(one.encode(), other.encode())
        for one, other in zip(given, expected, strict=True)
    )
