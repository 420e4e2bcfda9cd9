"""The address under which browsers know the API: hosts, origins, redirects, the cookie, HEAD."""

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta

import httpx
import pytest

from api.auth import Role
from api.token import make_token
from database.environment import ROOT
from tests.api.conftest import Caller, DefaultSettings, calling, serving
from tests.api.test_roles import ROUTES, VALUES
from tests.runs import add_run

PUBLIC = "https://crm.example.com"


@contextmanager
def public(database: str, url: str = PUBLIC) -> Iterator[Caller]:
    """Call an API that is known by a public address, as a proxy does."""
    settings = DefaultSettings.model_validate({"api_public_url": url})
    with calling(database, settings) as caller:
        caller.follow_redirects = False
        yield caller


def sign_in(caller: httpx.Client, token: str, **headers: str) -> httpx.Response:
    return caller.post("/sign-in", data={"token": token}, headers=headers)


def token_for(caller: Caller) -> str:
    return make_token(caller.database, Role.VIEWER, timedelta(hours=1))


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("crm.example.com", 200),
        ("CRM.example.com:443", 200),
        ("127.0.0.1:8000", 200),
        ("localhost", 200),
        ("[::1]:8000", 200),
        ("evil.example", 421),
        ("crm.example.com.evil.example", 421),
        ("crm.example.com:8443", 421),
        ("127.0.0.1.evil.example", 421),
        ("127.0.0.1@evil.example", 421),
        ("192.0.2.1:8000", 421),
        ("[", 421),
        ("", 421),
    ],
)
def test_the_public_host_is_served_and_no_other(database: str, host: str, status: int) -> None:
    with public(database) as caller:
        for path in ("/api/opportunities", "/opportunities"):
            answer = caller.get(path, headers={"Host": host})
            assert answer.status_code == status
            assert host == "" or "evil" not in answer.text
        for path in ("/health/live", "/health/ready", "/metrics"):
            assert caller.get(path, headers={"Host": host}).status_code == 200, "probes"


@pytest.mark.parametrize("hosts", [[], ["crm.example.com", "evil.example"]])
def test_a_request_names_one_host(database: str, hosts: list[str]) -> None:
    with public(database) as caller:
        connection = http.client.HTTPConnection(caller.base_url.host, caller.base_url.port or 0)
        connection.putrequest("GET", "/sign-in", skip_host=True)
        for host in hosts:
            connection.putheader("Host", host)
        connection.endheaders()
        assert connection.getresponse().status in (400, 421)
        connection.close()


def test_a_redirect_leads_to_no_other_host(database: str, caller: Caller) -> None:
    with public(database) as known:
        for api in (known, caller):
            for host in ("127.0.0.1", "evil.example"):
                answer = api.get(
                    "/api/opportunities/?limit=1&search=%2F%2Fa",
                    headers={"Host": host},
                    follow_redirects=False,
                )
                if answer.status_code == 307:
                    location = "/api/opportunities?limit=1&search=%2F%2Fa"
                    assert answer.headers["location"] == location
                else:
                    assert (answer.status_code, host) == (421, "evil.example")


def test_by_https_the_cookie_and_all_answers_say_so(database: str) -> None:
    with public(database) as caller:
        token = token_for(caller)
        caller.be(None)
        answer = sign_in(caller, token, Origin=PUBLIC)
        assert answer.status_code == 303
        name, _, attributes = answer.headers["set-cookie"].partition("=")
        assert name == "__Host-session"
        flags = {part.strip().lower() for part in attributes.split(";")[1:]}
        assert flags >= {"secure", "httponly", "samesite=lax", "path=/"}
        assert not any(flag.startswith("domain") for flag in flags)
        assert "max-age" in answer.headers["strict-transport-security"]

        session = attributes.split(";")[0]
        for cookie, status in ((f"__Host-session={session}", 200), (f"session={session}", 401)):
            called = caller.get("/api/session", headers={"Cookie": cookie})
            assert called.status_code == status
        out = caller.post("/sign-out", headers={"Cookie": f"__Host-session={session}"})
        gone = out.headers["set-cookie"].lower()
        assert gone.startswith("__host-session=")
        assert "secure" in gone, "else browsers ignore it"


def test_without_a_public_address_the_cookie_is_a_plain_one(caller: Caller) -> None:
    token = token_for(caller)
    caller.be(None)
    cookie = sign_in(caller, token).history[0].headers["set-cookie"].lower()
    assert cookie.startswith("session=")
    assert "samesite=lax" in cookie
    assert "secure" not in cookie


SAME, CROSS = {"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "cross-site"}
PROXIED = {"Host": "127.0.0.1:8000"}


@pytest.mark.parametrize(
    ("headers", "by_setting", "without"),
    [
        ({"Origin": PUBLIC, "Host": "crm.example.com"}, 303, 303),
        ({"Origin": PUBLIC, "Host": "crm.example.com:443"}, 303, 303),
        ({"Origin": PUBLIC, **PROXIED}, 303, 403),
        ({"Origin": PUBLIC, **PROXIED, **SAME}, 303, 303),
        ({"Origin": PUBLIC, **PROXIED, **CROSS}, 403, 403),
        ({"Origin": PUBLIC, **PROXIED, "Sec-Fetch-Site": "same-site"}, 403, 403),
        ({"Origin": "https://evil.example", "Host": "crm.example.com"}, 403, 403),
        ({"Origin": "https://evil.example", **PROXIED, **SAME}, 403, 303),
        ({"Origin": "http://crm.example.com", "Host": "crm.example.com"}, 403, 303),
        ({"Origin": "https://crm.example.com:8443", "Host": "crm.example.com"}, 403, 403),
        ({"Origin": "null", "Host": "crm.example.com"}, 403, 403),
        ({"Origin": "http://[", "Host": "crm.example.com"}, 403, 403),
        (PROXIED, 303, 303),
    ],
)
def test_forms_work_behind_a_proxy_and_from_no_other_site(
    database: str, headers: dict[str, str], by_setting: int, without: int
) -> None:
    with public(database) as caller:
        assert sign_in(caller, token_for(caller), **headers).status_code == by_setting
    with serving(database, DefaultSettings()) as address, httpx.Client(base_url=address) as plain:
        token = make_token(database, Role.VIEWER, timedelta(hours=1))
        assert sign_in(plain, token, **headers).status_code == without


@pytest.mark.parametrize(
    ("given", "known"),
    [
        ("https://crm.example.com", PUBLIC),
        ("https://CRM.example.com:443/", PUBLIC),
        ("http://crm.example.com:8080", "http://crm.example.com:8080"),
        ("https://crm.müller.example", "https://crm.xn--mller-kva.example"),
    ],
)
def test_the_public_address_is_known_as_browsers_write_it(given: str, known: str) -> None:
    assert DefaultSettings.model_validate({"api_public_url": given}).api_public_url == known


@pytest.mark.parametrize(
    "wrong",
    ["bids.example.com", "ftp://crm.example.com", "https://bids.example.com/crm", "https://a:b@c"],
)
def test_a_public_address_that_is_none_is_refused_and_not_quoted(wrong: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api"],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        check=False,
        env=os.environ | {"API_PUBLIC_URL": wrong},
    )
    assert done.returncode == 1
    assert done.stderr.startswith("API_PUBLIC_URL: ")
    assert wrong not in done.stderr


def test_head_answers_like_get_without_a_body(caller: Caller) -> None:
    for route in ROUTES:
        method, path = route.split(" ")
        if method != "GET":
            continue
        for name, value in VALUES.items():
            path = path.replace(name, value)
        head = caller.head(path, follow_redirects=False)
        # Some answers never end.
        with caller.stream("GET", path, follow_redirects=False) as got:
            assert (head.status_code, head.content) == (got.status_code, b""), path
        for name in ("content-type", "etag", "location", "cache-control"):
            assert head.headers.get(name) == got.headers.get(name), path


def test_head_of_what_never_ends_ends(caller: Caller) -> None:
    run_id = add_run(caller.database, lasted=None)
    for path in (f"/api/sync-runs/{run_id}/events", "/api/opportunities/export"):
        for _ in range(12):  # more than one may have at once
            answer = caller.head(path, timeout=5)
            assert (answer.status_code, answer.content) == (200, b""), path
    assert caller.head("/api/sync-database").status_code == 405
