"""Nobody stops the server for others: bodies, headers, connections, searches, exports, streams."""

import json
import random
import re
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, suppress

import httpx
import pytest

from api.auth import Role
from tests.attack.conftest import Strangers, Target, received
from tests.runs import live_run

HEAD = "{} {} HTTP/1.1\r\nHost: a\r\n"
REFUSALS = {400, 401, 403, 404, 405, 408, 413, 415, 422, 428, 429, 431}
BUSY = 503


def works(target: Target, role: Role = Role.ASSESSOR) -> None:
    """Assert that somebody else is served as if nothing were."""
    with target.client(role) as other:
        started = time.monotonic()
        for path in ("/api/opportunities?limit=20", "/opportunities", "/health/ready"):
            assert other.get(path).status_code == 200
        given_back = other.patch("/api/opportunities/3", json={"assigned_to": None})
        assert given_back.status_code == 200
        assert time.monotonic() - started < 5


@pytest.mark.parametrize("path", ["/api/webhooks/oracle", "/score", "/sign-in", "/api/session"])
@pytest.mark.parametrize("framing", ["Content-Length: 977", "Transfer-Encoding: chunked"])
def test_bodies_that_do_not_come(
    target: Target, strangers: Strangers, path: str, framing: str
) -> None:
    first = HEAD.format("POST", path) + f"X-Webhook-Signature: a\r\n{framing}\r\n\r\n"
    waiting = [strangers.connect(first.encode(), f"127.0.9.{1 + n % 4}") for n in range(300)]
    works(target)
    statuses = Counter(received(connection)[9:12] for connection in waiting)
    assert statuses.keys() <= {b"408", b"429"}, statuses


def test_bodies_that_drip(target: Target, strangers: Strangers) -> None:
    first = HEAD.format("POST", "/sign-in") + "Content-Length: 4000\r\n\r\n"
    dripping = [strangers.connect(first.encode()) for _ in range(40)]
    ends = time.monotonic() + 12
    while time.monotonic() < ends:
        for connection in dripping:
            with suppress(OSError):
                connection.sendall(b"a")
        time.sleep(1)
    works(target)
    assert {received(connection)[9:12] for connection in dripping} == {b"408"}


@pytest.mark.parametrize("first", [b"", b"G", b"POST /sign-in HTTP/1.1\r\nHost: a\r\nX-A: "])
def test_connections_that_ask_nothing(target: Target, strangers: Strangers, first: bytes) -> None:
    waiting = [strangers.connect(first) for _ in range(3000)]
    works(target)
    assert target.process.num_fds() < 700
    started = time.monotonic()
    assert received(waiting[-1], 20) == b""
    assert time.monotonic() - started < 20


def flood(strangers: Strangers, first: bytes, more: Callable[[], bytes], size: int) -> int:
    """Send until the server closes, and return how many bytes it took."""
    connection = strangers.connect(first)
    sent = 0
    with suppress(OSError):
        while sent < size:
            part = more()
            connection.sendall(part)
            sent += len(part)
    return sent


CHUNKED = "Transfer-Encoding: chunked\r\n\r\n"


@pytest.mark.parametrize(
    ("first", "more"),
    [
        (HEAD.format("GET", "/health/live") + "X-A: ", "b" * 65_521),
        (HEAD.format("GET", "/sign-in") + "Cookie: ", "session=c; " * 7001),
        (HEAD.format("POST", "/sign-in"), "X-D: e\r\n" * 8009),
        (HEAD.format("GET", "/"), "F: \r\n" * 9001),
        ("GET /", "%41" * 20_011),
        ("GET /sign-in?next=", "/g" * 20_011),
        ("OPTIONS", "H" * 50_021),
        (HEAD.format("PUT", "/score") + CHUNKED + "7;", "i=j;" * 9001),
        (HEAD.format("POST", "/sign-in") + CHUNKED + "1\r\nk\r\n0\r\n", "X-L: m\r\n" * 8009),
        (HEAD.format("POST", "/api/users") + "Content-Length: 999999999\r\n\r\n", "n" * 65_521),
        (HEAD.format("POST", "/api/session") + CHUNKED, "400\r\n" + "o" * 1024 + "\r\n"),
        (HEAD.format("POST", "/score") + CHUNKED, "1\r\np\r\n" * 5003),
        ("\r\n", "\r\n" * 30_011),
    ],
)
def test_what_does_not_end(target: Target, strangers: Strangers, first: str, more: str) -> None:
    started = time.monotonic()
    flood(strangers, first.encode(), more.encode, 200_000_000)
    assert time.monotonic() - started < 30
    works(target)


def test_answers_that_nobody_takes(target: Target, strangers: Strangers) -> None:
    asked = HEAD.format("GET", "/docs/static/swagger-ui-bundle.js") + "\r\n"
    waiting = [strangers.connect(asked.encode() * 9) for _ in range(200)]
    works(target)
    assert waiting


def test_requests_sent_ahead(target: Target, strangers: Strangers) -> None:
    ahead = (HEAD.format("GET", "/sign-in") + "\r\n").encode() * 3000
    for _ in range(60):
        strangers.connect(ahead)
    works(target)


DOCUMENTS = {
    "keys": "{" + ",".join(f'"k{n}":0' for n in range(90_000)) + "}",
    "same key": "{" + ",".join('"name":"a"' for _ in range(90_000)) + "}",
    "scores": json.dumps({"scores": {f"s{n}": {"score": n} for n in range(20_000)}}),
    "deep": '{"scores":' * 50_000,
    "deep list": "[" * 120_000,
    "long name": json.dumps({"n" * 900_000: 1}),
    "long text": json.dumps({"summary": "t" * 900_000}),
    "digits": '{"opportunity_id":' + "9" * 100_000 + "}",
    "exponent": '{"opportunity_id":1e99999999}',
    "halves": json.dumps({f"\ud800{n}": "\udfff" for n in range(3000)}),
}


@pytest.mark.parametrize("role", [None, Role.VIEWER])
@pytest.mark.parametrize("name", DOCUMENTS)
def test_documents_that_make_work(target: Target, name: str, role: Role | None) -> None:
    """Of any size: the limits of the bodies are tried as well."""
    paths = ("POST /api/session", "PUT /api/assessments/1", "POST /api/users", "POST /score")
    with target.client(role) as client:
        for path in paths:
            method, path = path.split()
            for size in (4000, 130_000, 999_000):
                answer = client.request(
                    method,
                    path,
                    content=DOCUMENTS[name][:size].encode(),
                    headers={"Content-Type": "application/json", "If-Match": '"1"'},
                    follow_redirects=False,
                )
                assert answer.status_code < 300 or answer.status_code in REFUSALS | {303}
                assert len(answer.content) < 20_000


def test_forms_and_queries_that_make_work(target: Target) -> None:
    with target.client(Role.VIEWER) as client:
        form = {"Content-Type": "application/x-www-form-urlencoded"}
        files = "--a\r\nContent-Disposition: form-data; name=b; filename=c\r\n\r\n\r\n" * 9000
        for content, headers in (
            ("&".join(f"f{n}=1" for n in range(100_000)), form),
            ("&" * 900_000, form),
            ("%" * 900_000, form),
            (files, {"Content-Type": "multipart/form-data; boundary=a"}),
            ("a" * 900_000, {"Content-Type": "multipart/form-data; boundary=" + "a" * 60}),
        ):
            answer = client.post("/score", content=content, headers=headers)
            assert answer.status_code in REFUSALS | {200}
        for query in ("&".join(f"q{n}" for n in range(5000)), "stage=a&" * 3000, "search=" * 4000):
            for path in ("/api/opportunities", "/opportunities", "/sign-in"):
                assert client.get(f"{path}?{query}").status_code in REFUSALS | {200}


def test_bytes_that_are_no_requests(target: Target, strangers: Strangers) -> None:
    drawn = random.Random(20_261_128)
    post = "POST /sign-in HTTP/1.1\r\nHost: a\r\n"
    for first in (
        *(drawn.randbytes(drawn.randint(1, 3000)) for _ in range(300)),
        f"{post}Content-Length: 3\r\nContent-Length: 4\r\n\r\nabcd".encode(),
        f"{post}Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".encode(),
        f"{post}Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n".encode(),
        f"{post}Content-Length: -1\r\n\r\n".encode(),
        f"{post}Content-Length: 99999999999999999999999\r\n\r\n".encode(),
        b"GET / HTTP/1.1\nHost: a\n\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: a\r\n\r\n",
        b"CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: upgrade\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" * 30,
    ):
        given = received(strangers.connect(first), 0.2)
        statuses = {int(found) for found in re.findall(rb"HTTP/1\.1 (\d{3})", given)}
        assert statuses <= REFUSALS | {100, 200, 303, 307}, (first[:200], given[:300])
    works(target)


def test_tokens_that_are_none(target: Target) -> None:
    def ask(number: int) -> int:
        headers = {"Authorization": f"Bearer ocs_{number}"}
        address = f"127.0.8.{1 + number % 3}"
        # Not httpx.Client's own: to make a context of TLS for each costs more than the attack.
        transport = httpx.HTTPTransport(local_address=address, verify=False)
        with httpx.Client(transport=transport) as client:
            path = f"{target.address}/api/opportunities"
            return client.get(path, headers=headers, timeout=60).status_code

    with ThreadPoolExecutor(60) as pool:
        asked = pool.map(ask, range(600))
        works(target)
        assert set(asked) <= {401, 429, BUSY}


def test_sign_ins_from_everywhere(target: Target) -> None:
    def sign_in(number: int) -> int:
        transport = httpx.HTTPTransport(local_address=f"127.1.{number % 50}.7", verify=False)
        with httpx.Client(transport=transport, timeout=60) as client:
            given = {"name": f"nobody-{number}", "password": "a wrong password"}
            return client.post(f"{target.address}/api/session", json=given).status_code

    with ThreadPoolExecutor(60) as pool:
        asked = pool.map(sign_in, range(300))
        time.sleep(1)
        works(target)
        assert set(asked) <= {401, 429, BUSY}


def test_searches_of_one_user(target: Target) -> None:
    words = ["renewal", "cloud", "e", "a o", "corporation", "migration rollout"]

    def search(number: int) -> int:
        wanted: dict[str, str | int] = {
            "search": words[number % len(words)],
            "sort": "-relevance",
            "limit": 1000,
        }
        return greedy.get("/api/opportunities", params=wanted).status_code

    with target.client(Role.VIEWER) as greedy, ThreadPoolExecutor(60) as pool:
        greedy.get("/api/session")
        asked = pool.map(search, range(120))
        time.sleep(1)
        for _ in range(3):
            works(target)
        assert set(asked) <= {200, 429, BUSY}


def test_exports_of_one_user(target: Target) -> None:
    headers = {"Accept-Encoding": "identity"}
    with target.client(Role.VIEWER) as greedy, ExitStack() as opened:
        statuses = Counter(
            opened.enter_context(
                greedy.stream("GET", "/api/opportunities/export", headers=headers)
            ).status_code
            for _ in range(12)
        )
        assert statuses.keys() <= {200, 429}
        assert statuses[429]
        works(target)
        with target.client(Role.ASSESSOR) as other:
            assert other.get("/api/opportunities/export?limit=1&stage=none").status_code == 422
            assert other.get("/api/opportunities/export?stage=none").status_code == 200


def test_event_streams_of_one_user(target: Target) -> None:
    def open_streams(path: str) -> Iterator[int]:
        for _ in range(150):
            yield opened.enter_context(greedy.stream("GET", path)).status_code

    with (
        live_run(target.database) as (run, _),
        target.client(Role.VIEWER) as greedy,
        ExitStack() as opened,
    ):
        statuses = Counter(open_streams(f"/api/sync-runs/{run}/events"))
        assert statuses.keys() == {200, 429}
        works(target)
