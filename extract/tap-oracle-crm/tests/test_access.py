"""Who may read, over which connection, and that no secret gets anywhere else."""

from __future__ import annotations

import http.server
import json
import socket
import ssl
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import certifi
import pytest
from oracle_crm_sandbox import CLIENT_ID, CLIENT_SECRET, PASSWORD, SCOPE
from tap_oracle_crm.config import resolve
from tap_oracle_crm.errors import ConfigError
from tap_oracle_crm.settings import SCHEMAS
from tap_user import TapUser, select

TLS = Path(__file__).parent / "tls"


def oauth(tap: TapUser, **settings: Any) -> dict[str, Any]:
    """Settings for bearer tokens, and none for basic authentication."""
    return {
        "username": "",
        "password": "",
        "token_url": f"{tap.crm.url}/oauth2/v1/token",
        "client_id": CLIENT_ID,
        "client_secret": CLIENT_SECRET,
        "scope": SCOPE,
        **settings,
    }


def test_bearer_tokens_are_got_once_a_run(tap: TapUser) -> None:
    output = tap.sync(**oauth(tap), page_size=100)
    assert len(output.by_key()) == 1000
    assert len(tap.requests("token")) == 1


def test_a_token_that_expires_in_mid_run_is_replaced_once(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.clear_requests()
    tap.crm.after_request(4, "tokens/expire")
    output = tap.sync(catalog=catalog, **oauth(tap), page_size=100)
    assert output.error is None
    assert len(output.by_key()) == 1000
    assert len(tap.requests("token")) == 2


def test_tokens_are_replaced_before_they_end(tap: TapUser) -> None:
    tap.crm.settings(token_seconds=2)
    catalog = tap.discover()
    tap.crm.fault("latency", ms=300)
    output = tap.sync(catalog=catalog, **oauth(tap), page_size=250, concurrency=1)
    assert len(output.by_key()) == 1000
    assert tap.crm.requests()["by_status"].get("401") is None


def test_a_refused_token_is_renewed_only_once(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.fault("error", status=401)
    output = tap.sync(catalog=catalog, **oauth(tap))
    assert "ORACLE_SCOPE" in str(output.error)
    assert len(tap.requests("token")) == 2


def test_a_token_endpoint_that_is_none_is_named(tap: TapUser) -> None:
    tap.crm.fault("html", path="/oauth2/")
    output = tap.sync(**oauth(tap), max_retries=1)
    assert "the token endpoint" in str(output.error)
    assert "ORACLE_TOKEN_URL" in str(output.error)


@pytest.mark.parametrize("gone", ["token_url", "base_url"])
def test_a_host_that_was_never_reached_is_given_up_soon(tap: TapUser, gone: str) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    output = tap.sync(**oauth(tap, **{gone: address}))
    assert "3 attempts" in str(output.error)
    assert f"ORACLE_{gone.upper()}" in str(output.error)


def test_a_wrong_client_secret_is_named(tap: TapUser) -> None:
    output = tap.sync(**oauth(tap, client_secret="wrong-secret"))
    assert "ORACLE_CLIENT_SECRET" in str(output.error)
    assert "wrong-secret" not in str(output.error) + output.log


def test_a_wrong_password_is_sent_once_and_never_shown(tap: TapUser) -> None:
    done = tap.cli(config=tap.config(password="not-the-password"))
    assert done.code == 1
    assert tap.crm.requests()["total"] == 1
    lines = [line for line in done.log.splitlines() if "CRITICAL" in line]
    assert len(lines) == 1
    assert "ORACLE_PASS" in lines[0]
    assert "Traceback" not in done.log
    assert "not-the-password" not in done.log


def test_a_password_that_ends_while_children_are_read_is_refused_a_few_times(tap: TapUser) -> None:
    tap.crm.reset(records=100)
    catalog = select(tap.discover(), "opportunities", "revenue_lines")
    tap.crm.clear_requests()
    tap.crm.fault("latency", ms=1000, path="/child/", next=1)
    tap.crm.fault("error", status=401, path="/child/", after=10)
    assert "ORACLE_PASS" in str(tap.sync(catalog=catalog, concurrency=4).error)
    assert tap.crm.requests()["by_status"]["401"] <= 4


@pytest.mark.parametrize(
    ("missing", "words"),
    [
        ("base_url", ("base_url", "ORACLE_BASE_URL")),
        ("username", ("username", "ORACLE_USER")),
        ("password", ("password", "ORACLE_PASS")),
    ],
)
def test_a_missing_setting_is_named_with_its_variable(
    tap: TapUser, missing: str, words: tuple[str, ...]
) -> None:
    for arguments in ([], ["--discover"]):
        done = tap.cli(*arguments, config=tap.config(**{missing: ""}))
        assert done.code == 1
        problems = [line for line in done.log.splitlines() if "CRITICAL" in line]
        assert len(problems) == 1
        assert all(word in problems[0] for word in words)
        assert "Traceback" not in done.log


def test_settings_come_from_the_environment_too(tap: TapUser) -> None:
    done = tap.cli("--discover", config={}, **tap.crm.env)
    assert done.code == 0, done.log


def test_a_number_in_the_environment_that_is_none_is_named(tap: TapUser) -> None:
    arguments, variable = ("--config", "ENV", "--discover"), "TAP_ORACLE_CRM_PAGE_SIZE"
    assert tap.cli(*arguments, config={}, **tap.crm.env, **{variable: ""}).code == 0
    for wrong in ("many", "501"):
        done = tap.cli(*arguments, config={}, **tap.crm.env, **{variable: wrong})
        assert done.code == 1
        assert "page_size must be a whole number from 1 to 500." in done.log
        assert "Traceback" not in done.log


OUT_OF_BOUNDS = [
    (name, value)
    for name, schema in SCHEMAS.items()
    if "integer" in schema["type"]
    for value in (schema["minimum"] - 1, schema["maximum"] + 1, "8 o'clock")
]


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *OUT_OF_BOUNDS,
        ("allow_http", "8 o'clock"),
        ("start_date", "8 o'clock"),
        ("custom_fields", 8),
        ("username", ["8 o'clock"]),
        ("password", ["8 o'clock"]),
        ("client_secret", {"8 o'clock": 1}),
    ],
)
def test_a_senseless_setting_is_named_and_not_shown(name: str, value: object) -> None:
    given = {"base_url": "https://crm.example.com", "username": "someone", "password": "hidden"}
    with pytest.raises(ConfigError) as caught:
        resolve({**given, name: value})
    assert str(caught.value).startswith(name)
    assert "8 o'clock" not in str(caught.value)


def test_text_becomes_the_kind_that_is_declared() -> None:
    given = {"base_url": "https://crm.example.com", "username": "someone", "password": 12345}
    found = resolve({**given, "page_size": "7", "allow_partial": "yes", "custom_fields": "A_c,B_c"})
    assert (found["page_size"], found["allow_partial"]) == (7, True)
    assert (found["custom_fields"], found["password"]) == (["A_c", "B_c"], "12345")
    assert resolve(found) == found
    for name, schema in SCHEMAS.items():
        if "default" in schema and name not in {"page_size", "allow_partial"}:
            assert found[name] == schema["default"]


def test_plain_http_is_for_this_machine_alone(tap: TapUser) -> None:
    output = tap.sync(base_url="http://crm.example.com")
    assert "allow_http" in str(output.error)
    output = tap.sync(**oauth(tap, token_url="http://login.example.com/token"))
    assert "token_url" in str(output.error)
    assert tap.crm.requests()["total"] == 0


def test_an_address_with_credentials_in_it_is_refused_unseen(tap: TapUser) -> None:
    output = tap.sync(base_url="https://someone:hidden@crm.example.com")
    assert "ORACLE_USER" in str(output.error)
    assert "hidden" not in str(output.error) + output.log


class Elsewhere(http.server.BaseHTTPRequestHandler):
    """Another host that a redirect leads to; remembers what it was sent."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(str(self.headers))
        self.send_response(200)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def elsewhere() -> Iterator[tuple[str, list[str]]]:
    """The address of another server, and the headers it was sent."""
    seen: list[str] = []
    handler = type("Handler", (Elsewhere,), {"seen": seen})
    server = http.server.HTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/login", seen
    server.shutdown()


@pytest.mark.parametrize("status", [301, 302, 307, 308])
def test_redirects_are_not_followed(
    tap: TapUser, elsewhere: tuple[str, list[str]], status: int
) -> None:
    address, seen = elsewhere
    catalog = tap.discover()
    tap.crm.clear_requests()
    tap.crm.fault("redirect", location=address, status=status)
    output = tap.sync(catalog=catalog)
    assert "redirect" in str(output.error)
    assert seen == []
    assert tap.crm.requests()["total"] == 1


@pytest.mark.parametrize("address", ["http://[", "https://crm..example.com:99999/", "\xff", ""])
def test_a_redirect_to_nowhere_is_a_redirect(tap: TapUser, address: str) -> None:
    catalog = tap.discover()
    tap.crm.fault("redirect", location=address)
    assert "redirect" in str(tap.sync(catalog=catalog).error)


def test_a_login_page_is_named_as_such(tap: TapUser) -> None:
    catalog = tap.discover()
    tap.crm.fault("login_redirect")
    assert "login page" in str(tap.sync(catalog=catalog).error)


class OnePage(http.server.BaseHTTPRequestHandler):
    """A CRM of one opportunity, without describe."""

    def do_GET(self) -> None:
        item = {"OptyId": 1, "LastUpdateDate": "2026-01-01T00:00:00+00:00"}
        body = json.dumps({"items": [item], "count": 1, "limit": 499, "hasMore": False}).encode()
        self.send_response(404 if "/describe" in self.path else 200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@pytest.fixture
def secure() -> Iterator[str]:
    """The address of a server with a certificate that only its own authority vouches for."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), OnePage)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(TLS / "server.pem")
    server.socket = context.wrap_socket(server.socket, server_side=True)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"https://127.0.0.1:{server.server_port}"
    server.shutdown()


def test_a_certificate_that_nobody_vouches_for_is_refused(tap: TapUser, secure: str) -> None:
    output = tap.sync(base_url=secure)
    assert "not trusted" in str(output.error)
    assert "ca_bundle" in str(output.error)
    assert "attempt" not in output.log


def test_an_authority_of_ones_own_can_be_trusted(
    tap: TapUser, secure: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = str(TLS / "authority.pem")
    assert len(tap.sync(base_url=secure, ca_bundle=authority).records()) == 1
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", authority)
    assert len(tap.sync(base_url=secure).records()) == 1
    # The setting has priority over the environment.
    output = tap.sync(base_url=secure, ca_bundle=certifi.where())
    assert "not trusted" in str(output.error)
    assert "ca_bundle" in str(tap.sync(base_url=secure, ca_bundle="/no/such/file").error)


def test_this_machine_is_reached_without_a_proxy(
    tap: TapUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert len(tap.sync().records()) == 1000


def test_no_proxy_for_any_host_is_honoured(tap: TapUser, monkeypatch: pytest.MonkeyPatch) -> None:
    server = http.server.ThreadingHTTPServer(("127.0.0.2", 0), OnePage)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    address = f"http://127.0.0.2:{server.server_port}"
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert "proxy" in str(tap.sync(base_url=address, allow_http=True, max_retries=0).error)
    monkeypatch.setenv("NO_PROXY", "*")
    assert len(tap.sync(base_url=address, allow_http=True).records()) == 1
    server.shutdown()


class Proxy(OnePage):
    """A proxy that answers for a CRM, whose first answer is that a new token is needed."""

    seen: list[str]

    def do_GET(self) -> None:
        self.seen.append(self.path)
        if len(self.seen) > 1:
            return super().do_GET()
        self.send_response(401)
        self.end_headers()
        return None

    def do_POST(self) -> None:
        self.do_GET()


def test_a_token_is_never_asked_for_through_a_proxy_that_is_not_for_it(
    tap: TapUser, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []
    proxy = http.server.ThreadingHTTPServer(
        ("127.0.0.1", 0), type("Handler", (Proxy,), {"seen": seen})
    )
    threading.Thread(target=proxy.serve_forever, daemon=True).start()
    for name in ("HTTP_PROXY", "http_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{proxy.server_port}")
    output = tap.sync(**oauth(tap), base_url="http://crm.example.com", allow_http=True)
    proxy.shutdown()
    assert len(output.records()) == 1
    assert len(tap.requests("token")) == 2
    assert all(path.startswith("http://crm.example.com/crmRestApi/") for path in seen)


def test_no_netrc_is_asked(tap: TapUser, monkeypatch: pytest.MonkeyPatch) -> None:
    netrc = tap.folder / "netrc"
    netrc.write_text("machine 127.0.0.1 login other password other\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert len(tap.sync().by_key()) == 1000


def test_no_secret_is_logged_or_kept(tap: TapUser) -> None:
    path = tap.folder / "catalog.json"
    path.write_text(json.dumps(tap.discover()))
    done = tap.cli("--catalog", str(path), LOGLEVEL="DEBUG")
    assert done.code == 0
    everything = done.log + json.dumps(done.messages)
    assert PASSWORD not in everything
    assert "Authorization" not in everything
    assert "Basic " not in everything
