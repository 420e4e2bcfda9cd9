"""Nothing that a client can send is an error of ours: headers, forms, JSON, addresses."""

import asyncio
import json
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import Iterator
from contextlib import AsyncExitStack
from datetime import timedelta
from typing import Any
from urllib.parse import quote, urlencode, urlsplit

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from api.addresses import own_path
from api.app import create_app
from api.auth import Role
from api.requests import BODY_BYTES_OF
from api.token import make_token
from runs import control, processes
from tests.api.conftest import Caller, DefaultSettings, fill
from tests.api.test_roles import ROUTES, VALUES

ODD = [
    "",
    "//[/",
    "http://[",
    "http://[::1",
    "//\u2100.example",
    "https://example.com:port/",
    "///evil.example",
    "\\",
    "%00",
    "%ff%fe",
    "a\tb",
    "１２",  # noqa: RUF001
    "٣",
    "²",
    "-1",
    "9" * 5000,
    "1e999",
    "NaN",
    "\x7f\x80\xff",
    "null",
    "undefined",
    "[" * 1500,
    '{"a":' * 300,
    "a=" * 1000,
    ";" * 1000,
    "=?utf-8?b?//8=?=",
    "bytes=0-,-1,9-1",
    "multipart/form-data",
    "multipart/form-data; boundary=a; charset=idna",
    "application/json; charset=punycode",
    "Basic ",
    "Bearer",
    "Mon, 99 Feb 99999 99:99:99",
    urlsafe_b64encode(b"[" * 1500).decode(),
    urlsafe_b64encode(b'["a",1,"\\ud800",1]').decode(),
    urlsafe_b64encode(b'["a",1e999,"",9999999999999999999]').decode(),
    urlsafe_b64encode(b"\xff\xfe").decode(),
]
# JSON and percent-encoding can hold what no header can.
TEXTS = [*ODD, "\0", "\ud800", "a\udfffb", "\u202e", "\r\n", "😀" * 60, "x" * 10_001]
HEADERS = [
    "accept", "accept-encoding", "access-control-request-method", "authorization", "connection",
    "content-encoding", "content-type", "cookie", "expect", "forwarded", "host", "hx-current-url",
    "hx-request", "hx-target", "if-match", "if-modified-since", "if-none-match", "if-range",
    "origin", "range", "referer", "sec-fetch-site", "x-forwarded-for", "x-forwarded-proto",
    "x-request-id", "x-webhook-secret", "x-webhook-signature", "x-webhook-timestamp",
]  # fmt: skip
COOKIES = ["session=", "session=;session=\xff", 'session="\\', "session=a b", "=;=", "session"]
PATHS = [
    *ROUTES,
    *(f"GET {path}" for path in ("/static/%00", "/docs/static/%00", "/static/..%2f", "/api/x/")),
    f"GET /static/{'a' * 5000}",
    "GET /docs/static/swagger-ui.css",
    "BREW /sign-in",
]
FIELDS = sorted(
    {name for call in ROUTES.values() for name in {**(call.form or {}), **(call.json or {})}}
    | {"next", "token", "etag", "comment", "summary", "recommendation", "score.risk", "full"}
)
PARAMETERS = [
    "next", "cursor", "search", "stage", "sort", "limit", "before", "min_value", "updated_since",
    "closing_after", "assigned_to", "columns", "currency", "subject", "subject_id", "remote_id",
    "resolved", "user_id", "format", "status", "opportunity_id",
]  # fmt: skip

values = st.sampled_from(ODD) | st.binary(max_size=50).map(lambda found: found.decode("latin-1"))
texts = st.sampled_from(TEXTS) | st.text(max_size=30)
headers = st.dictionaries(st.sampled_from(HEADERS), values | st.sampled_from(COOKIES), max_size=4)
queries = st.dictionaries(st.sampled_from(PARAMETERS), texts, max_size=3)
fields = st.dictionaries(st.sampled_from(FIELDS), texts, max_size=5)
documents = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | texts,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS) | texts, inner, max_size=5)
    ),
    max_leaves=8,
)


class Direct:
    """Calls the application without a server between, which would refuse some of it."""

    def __init__(self, database: str) -> None:
        self.database = database
        secret = SecretStr("of the webhook")
        self.app = create_app(DefaultSettings(oracle_webhook_secret=secret), database)
        self.runner = asyncio.Runner()
        self.life = AsyncExitStack()
        self.runner.run(self.life.enter_async_context(self.app.router.lifespan_context(self.app)))

    def close(self) -> None:
        """Stop the application."""
        self.runner.run(self.life.aclose())
        self.runner.close()

    def call(
        self, method: str, path: str, headers: list[tuple[bytes, bytes]], body: bytes = b""
    ) -> tuple[int, dict[str, str], bytes]:
        """Return the status, the headers and the body of an answer."""
        address, _, query = path.partition("?")
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": address.replace("%00", "\0").replace("%2f", "/"),
            "raw_path": address.encode(),
            "query_string": query.encode(),
            "root_path": "",
            "headers": [*headers, (b"content-length", str(len(body)).encode())],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
        }
        started: dict[str, Any] = {}
        parts: list[bytes] = []
        given = False
        streams = asyncio.Event()

        async def receive() -> dict[str, Any]:
            nonlocal given
            if given:
                await streams.wait()  # the client stays, unless the answer has no end
                return {"type": "http.disconnect"}
            given = True
            return {"type": "http.request", "body": body, "more_body": False}

        async def send(message: dict[str, Any]) -> None:
            started.update(message)
            parts.append(message.get("body", b""))
            if parts[-1].startswith(b"event: "):
                streams.set()

        answer = self.app(scope, receive, send)  # type: ignore[arg-type]
        self.runner.run(asyncio.wait_for(answer, 60))
        answered = {name.decode(): value.decode("latin-1") for name, value in started["headers"]}
        return started["status"], answered, b"".join(parts)


@pytest.fixture(scope="module")
def direct(
    postgres: str, migrated: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Direct]:
    """The application on a database of ten deals, whose syncs end at once."""
    with psycopg.connect(f"{postgres}/postgres", autocommit=True) as connection:
        connection.execute(f"create database odd template {migrated}")
    fill(f"{postgres}/odd", 10)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(control, "command", lambda full: ["true"])
        patch.setattr(processes, "LOGS", tmp_path_factory.mktemp("logs"))
        direct = Direct(f"{postgres}/odd")
        yield direct
        direct.close()


@pytest.fixture(scope="module")
def admin(direct: Direct) -> Iterator[Any]:
    """The header of an admin, who is one again for each request."""
    token = make_token(direct.database, Role.ADMIN, timedelta(hours=1))
    with psycopg.connect(direct.database, autocommit=True) as connection:

        def renewed() -> tuple[bytes, bytes]:
            connection.execute("update users set role = 'admin', active = true where id = 1")
            connection.execute("update tokens set revoked_at = null where id = 1")
            connection.execute("delete from sign_in_attempts")
            return b"authorization", f"Bearer {token}".encode()

        yield renewed


def check(status: int, answered: dict[str, str], body: bytes, what: object) -> None:
    """Assert that an answer is none of ours to be ashamed of."""
    assert status < 500 or status == 503, (what, body[:300])
    assert len(body) < 1_000_000 or "javascript" in answered["content-type"], what
    location = answered.get("location", answered.get("hx-redirect", "/"))
    assert urlsplit(location).netloc in ("", "127.0.0.1"), what
    assert not location.startswith("//"), what
    if answered.get("content-type") == "application/problem+json":
        json.loads(body)


@given(
    route=st.sampled_from(PATHS),
    signed_in=st.booleans(),
    headers=headers,
    query=queries,
    body=fields.map(lambda form: urlencode(form, errors="surrogatepass"))
    | documents.map(json.dumps)
    | texts,
    kind=st.sampled_from(["application/json", "application/x-www-form-urlencoded", None]),
)
@settings(
    max_examples=500,
    derandomize=True,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
def test_no_input_is_an_error_of_ours(
    direct: Direct,
    admin: Any,
    route: str,
    signed_in: bool,
    headers: dict[str, str],
    query: dict[str, str],
    body: str,
    kind: str | None,
) -> None:
    method, path = route.split(" ", 1)
    for name, value in VALUES.items():
        path = path.replace(name, "1" if value == "999" else value)
    path += "?" + urlencode(query, errors="surrogatepass")
    sent = [(name.encode(), value.encode("latin-1", "replace")) for name, value in headers.items()]
    if kind is not None:
        sent.insert(0, (b"content-type", kind.encode()))
    if signed_in:
        sent.insert(0, admin())
    answer = direct.call(method, path, sent, body.encode("utf-8", "surrogatepass"))
    check(*answer, (route, headers, query, body))


@pytest.mark.parametrize("odd", [*TEXTS, *COOKIES])
def test_each_odd_text_in_each_place(direct: Direct, admin: Any, odd: str) -> None:
    """What was found once stays found, whatever is drawn."""
    address = quote(odd, errors="surrogatepass")
    latin = odd.encode("latin-1", "replace")
    as_form = (b"content-type", b"application/x-www-form-urlencoded")
    as_json = (b"content-type", b"application/json")
    calls: list[tuple[str, str, list[tuple[bytes, bytes]], bytes]] = [
        ("GET", f"/sign-in?next={address}", [], b""),
        ("POST", "/sign-in", [as_form], f"next={address}&name={address}&password=x".encode()),
        ("POST", "/sign-in", [as_form], f"token={address}".encode()),
        ("POST", "/api/session", [as_json], json.dumps({"name": "a", "password": odd}).encode()),
        ("POST", "/api/session", [as_json], json.dumps({odd: odd, "name": odd}).encode()),
        ("POST", "/sign-out", [(b"origin", latin)], b""),
        ("POST", "/api/session", [as_json, (b"origin", latin)], b'{"name":"a","password":"b"}'),
        ("GET", "/opportunities", [(b"hx-request", b"1"), (b"hx-current-url", latin)], b""),
        ("GET", f"/api/opportunities?cursor={address}", [admin()], b""),
        ("GET", f"/api/opportunities?search={address}", [admin()], b""),
        ("GET", f"/opportunities?search={address}", [admin(), (b"host", latin)], b""),
        ("POST", "/score", [admin(), (b"content-type", latin)], f"summary={address}".encode()),
        ("POST", "/api/users", [admin(), as_json], json.dumps(
            {"name": odd, "role": "viewer", "password": "x" * 12 + odd, odd: odd}).encode()),
        ("POST", "/opportunities/1/status", [
            admin(), as_form, (b"hx-current-url", latin), (b"hx-target", b"deal-1")],
            f"workflow_status=ASSIGNED&seen={address}".encode()),
    ]  # fmt: skip
    for call in calls:
        admin()  # lifts the limit on wrong passwords, too
        check(*direct.call(*call), call)


def test_half_a_character_is_in_no_cursor(reader: Caller) -> None:
    real = reader.get("/api/opportunities?limit=1").json()["next_cursor"]
    digest, total, _, id_ = json.loads(urlsafe_b64decode(real + "=" * (-len(real) % 4)))
    for key in ("\ud800", "a\0b"):
        made = urlsafe_b64encode(json.dumps([digest, total, key, id_]).encode()).decode()
        answer = reader.get("/api/opportunities", params={"cursor": made})
        assert answer.status_code == 422


def test_errors_of_one_request_are_few(caller: Caller) -> None:
    many = {str(number): "1" for number in range(12_000)}
    for method, path, most in (
        ("POST", "/api/session", 300),
        ("POST", "/api/users", 9000),
        ("PUT", "/api/assessments/1", 12_000),
    ):
        given: dict[str, Any] = dict(list(many.items())[:most])
        if method == "PUT":
            given |= {"scores": many}
        answer = caller.request(method, path, json=given, headers={"If-Match": '"1"'})
        assert answer.status_code == 422
        assert len(answer.json()["errors"]) <= 10
        assert len(answer.content) < 5000
    long = caller.post("/api/users", json={"x" * 100_000: 1, "name": "a", "role": "viewer"})
    assert len(long.content) < 5000


def test_errors_beyond_ten_are_counted(caller: Caller) -> None:
    answer = caller.get("/api/opportunities", params={f"field_{number}": 1 for number in range(20)})
    problem = answer.json()
    assert len(problem["errors"]) == 10
    assert problem["more"] == 10
    assert problem["detail"].endswith("and 10 more")


def test_a_way_on_is_one_of_ours() -> None:
    ours = ["/", "/opportunities?stage=03+-+Proposal&search=%2F%2Fa", "/a//b", "/?next=//b"]
    others = [
        "//b", "///b", "////b/x", "/\\b", "\\\\b", "/\tb", "/\n/b", "/\t/b", "https://b", "https:b",
        "javascript:alert(1)", "data:,a", "", " /", "b", "?a", "#a", "/" + "a" * 1000,
    ]  # fmt: skip
    assert [own_path(path) for path in ours] == ours
    assert {own_path(path) for path in others} == {"/"}


def test_each_limit_of_a_body_is_of_a_route() -> None:
    paths = {route.split(" ")[1] for route in ROUTES}
    for name, value in VALUES.items():
        paths = {path.replace(name, value) for path in paths}
    for pattern, _ in BODY_BYTES_OF:
        for part in pattern.pattern.split("|"):
            assert any(re.fullmatch(part, path) for path in paths), part
