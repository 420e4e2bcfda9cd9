"""The address under which browsers know the API: `API_PUBLIC_URL`, or what each request says."""

from dataclasses import dataclass
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import Scope

from api.addresses import split
from api.problems import ProblemError

DEFAULT_PORTS = {"http": ":80", "https": ":443"}
# No page of another site can be at these names, so a proxy or a command beside us may use them.
LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
# Probes and scrapers call each process by its own address. No link or cookie is given here.
BY_ANY_ADDRESS = ("/health/", "/metrics")


@dataclass(frozen=True)
class PublicAddress:
    """What `API_PUBLIC_URL` decides; without it, each request's Host and scheme are believed.

    Attributes:
        url: scheme, host and port, without a slash at the end.
    """

    url: str | None

    @property
    def session_cookie(self) -> str:
        """The name of the session's cookie."""
        return self.cookie("session")

    def cookie(self, name: str) -> str:
        """Return a cookie's name: browsers take `__Host-` from this host by TLS only."""
        return f"__Host-{name}" if (self.url or "").startswith("https:") else name

    def refusal(self, scope: Scope) -> ProblemError | None:
        """Return the error for a request that names another host; None if it may go on."""
        if self.url is None or scope["path"].startswith(BY_ANY_ADDRESS):
            return None
        named = Headers(scope=scope).getlist("host")
        scheme, _, own = self.url.partition("://")
        if len(named) == 1:
            (host,) = named
            name = split(f"//{host}").hostname
            if _without_default_port(host, scheme) == own or name in LOOPBACK:
                return None
        return ProblemError(HTTPStatus.MISDIRECTED_REQUEST, f"This server is {self.url}.")

    def apply(self, scope: Scope) -> Scope:
        """Return a request as if it had come by the public address, whatever proxies made of it."""
        if self.url is None:
            return scope
        scheme, _, host = self.url.partition("://")
        headers = [(name, value) for name, value in scope["headers"] if name != b"host"]
        return {**scope, "scheme": scheme, "headers": [*headers, (b"host", host.encode())]}

    def is_own_origin(self, origin: str, host: str) -> bool:
        """Tell whether a page of an origin is ours, for a request to a host."""
        if self.url is not None:
            return origin == self.url
        parts = split(origin)
        return parts.netloc != "" and (
            _without_default_port(parts.netloc, parts.scheme)
            == _without_default_port(host, parts.scheme)
        )


def _without_default_port(host: str, scheme: str) -> str:
    """Return a host as browsers write it in an origin.

    >>> _without_default_port("CRM.example.com:443", "https")
    'crm.example.com'
    """
    return host.lower().removesuffix(DEFAULT_PORTS.get(scheme, ""))
