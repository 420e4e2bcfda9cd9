"""Signing in with OpenID Connect: what is believed of a provider, and what becomes of its users."""

import json
import subprocess
import sys
import threading
import time
from base64 import urlsafe_b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import httpx
import psycopg
import pytest
from joserfc import jwt
from joserfc.jwk import ECKey
from psycopg.rows import dict_row

from api.auth import Role
from api.oidc.attempt import LIFE_SECONDS, Attempt
from database.environment import ROOT
from tests.api.conftest import Caller, DefaultSettings, calling, seen

PUBLIC = "http://127.0.0.1:8000"
PASSWORD = "correct horse battery"
CLIENT, SECRET = "bid-desk", "the client's secret"
ROLES = {"crm-admins": "admin", "bid-managers": "manager", "sales": "viewer"}


class IdentityProvider:
    """A provider that says of its user what a test wants, right or wrong."""

    def __init__(self) -> None:
        self.key = ECKey.generate_key("P-256", {"kid": "1"})
        self.signing_key = self.key
        self.claims: dict[str, Any] = {}
        self.header: dict[str, Any] = {}
        self.userinfo: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {}
        self.is_up = True
        self.asked: dict[str, str] = {}
        self.calls: list[str] = []
        self.forms: list[dict[str, str]] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(*provider.get(self.path))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"])).decode()
                self._answer(*provider.exchange(dict(parse_qsl(body))))

            def _answer(self, status: int, answer: dict[str, Any]) -> None:
                content = json.dumps(answer).encode()
                self.send_response(status if provider.is_up else 502)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                """Be quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self.server.server_port}"

    def get(self, path: str) -> tuple[int, dict[str, Any]]:
        self.calls.append(path)
        if path == "/keys":
            return 200, {"keys": [self.key.as_dict(private=False)]}
        if path == "/userinfo":
            return 200, self.userinfo
        return 200, {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/keys",
            "userinfo_endpoint": f"{self.issuer}/userinfo",
            "end_session_endpoint": f"{self.issuer}/sign-out",
        } | self.metadata

    def exchange(self, form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        self.calls.append("/token")
        self.forms.append(form)
        digest = sha256(form["code_verifier"].encode()).digest()
        challenge = urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (challenge, form["redirect_uri"]) != (
            self.asked["code_challenge"],
            self.asked["redirect_uri"],
        ):
            return 400, {"error": "invalid_grant"}
        claims = self.good_claims() | self.claims
        claims = {name: value for name, value in claims.items() if value is not None}
        header = {"alg": "ES256", "kid": "1"} | self.header
        token = jwt.encode(header, claims, self.signing_key, algorithms=["ES256", "HS256", "none"])
        return 200, {"access_token": "a", "token_type": "Bearer", "id_token": token}

    def good_claims(self) -> dict[str, Any]:
        now = int(time.time())
        return {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": "ada-1",
            "iat": now,
            "exp": now + 300,
            "nonce": self.asked["nonce"],
            "preferred_username": "ada",
            "name": "Ada Example",
            "email": "ada@example.com",
            "groups": ["everybody", "sales"],
        }


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    provider = IdentityProvider()
    thread = threading.Thread(target=provider.server.serve_forever, args=[0.01])
    thread.start()
    yield provider
    provider.server.shutdown()
    thread.join()
    provider.server.server_close()


@contextmanager
def desk(database: str, provider: IdentityProvider, **more: Any) -> Iterator[Caller]:
    """An API that knows the provider; its caller is a browser, of nobody yet."""
    settings = {
        "api_public_url": PUBLIC,
        "oidc_issuer": provider.issuer,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SECRET,
        "oidc_roles": ROLES,
    }
    with calling(database, DefaultSettings.model_validate(settings | more)) as caller:
        caller.follow_redirects = False
        yield caller.be(None)


@pytest.fixture
def browser(database: str, provider: IdentityProvider) -> Iterator[Caller]:
    with desk(database, provider) as caller:
        yield caller


def begin(browser: Caller, provider: IdentityProvider, after: str = "/board") -> dict[str, str]:
    """Go to the provider, and return what the browser was told to bring there."""
    answer = browser.get("/oidc/sign-in", params={"next": after})
    assert answer.status_code == 303, answer.text
    parts = urlsplit(answer.headers["location"])
    assert f"{parts.scheme}://{parts.netloc}{parts.path}" == f"{provider.issuer}/authorize"
    provider.asked = dict(parse_qsl(parts.query))
    return provider.asked


def come_back(browser: Caller, state: str, **more: str) -> httpx.Response:
    return browser.get("/oidc/callback", params={"state": state, "code": "c"} | more)


def sign_in(browser: Caller, provider: IdentityProvider, after: str = "/board") -> httpx.Response:
    return come_back(browser, begin(browser, provider, after)["state"])


def reason(answer: httpx.Response) -> str:
    """What the page says of a sign-in that was refused; there is no session."""
    assert "session" not in answer.cookies
    shown = answer.text.split('role="alert">')[1].split("</p>")[0]
    return " ".join(shown.replace("&#39;", "'").split())


def rows(database: str, query: str) -> list[dict[str, Any]]:
    with psycopg.connect(database, row_factory=dict_row) as connection:
        return connection.execute(query).fetchall()


def the_user(browser: Caller) -> dict[str, Any]:
    query = "select * from users where oidc_subject is not null"
    (user,) = rows(browser.database, query)
    return user


def audit(browser: Caller) -> list[tuple[str, str]]:
    """What the audit trail says of all who came by HTTP: actions and names."""
    query = "select action, user_name from audit_log where address is not null order by id"
    return [(row["action"], row["user_name"]) for row in rows(browser.database, query)]


def command(database: str, *arguments: str, **settings: str) -> str:
    """What `python -m api.users` prints; the password is the one of all."""
    done = subprocess.run(
        [sys.executable, "-m", "api.users", *arguments],
        cwd=ROOT,
        input=f"{PASSWORD}\n",
        env={"DATABASE_URL": database, "OIDC_ISSUER": ""} | settings,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def create(browser: Caller, name: str, role: str) -> None:
    """Make a local user in the console."""
    browser.make_user(name, role)
    browser.be(None)


def test_a_user_signs_in_and_is_made(browser: Caller, provider: IdentityProvider) -> None:
    asked = begin(browser, provider, "/board?practice=Data")
    assert asked["response_type"] == "code"
    assert asked["client_id"] == CLIENT
    assert asked["code_challenge_method"] == "S256"
    assert set(asked["scope"].split()) == {"openid", "profile", "email"}
    assert asked["redirect_uri"] == f"{PUBLIC}/oidc/callback"
    answer = come_back(browser, asked["state"])
    assert (answer.status_code, answer.headers["location"]) == (303, "/board?practice=Data")
    who = browser.get("/api/session").json()
    assert who | {"name": "ada", "role": "viewer", "email": "ada@example.com"} == who
    assert who["full_name"] == "Ada Example"
    assert audit(browser) == [("create", "ada"), ("sign in", "ada")]
    assert not rows(browser.database, "select from users where password_hash is not null")


def test_one_is_fresh_after_a_sign_in(browser: Caller, provider: IdentityProvider) -> None:
    sign_in(browser, provider)
    assert browser.post("/api/tokens", json={"name": "report"}).status_code == 201


def test_the_metadata_and_keys_are_asked_for_once(
    browser: Caller, provider: IdentityProvider
) -> None:
    for _ in range(3):
        assert sign_in(browser, provider).status_code == 303
    assert sorted(set(provider.calls)) == ["/.well-known/openid-configuration", "/keys", "/token"]
    assert len(provider.calls) == 2 + 3


# Claims that replace the good ones, and what the page names.
NOT_FOR_US: list[tuple[dict[str, Any], str]] = [
    ({"aud": "another-client"}, "aud"),
    ({"aud": ["another-client", "third"], "azp": CLIENT}, "aud"),
    ({"aud": [CLIENT, "another-client"], "azp": "another-client"}, "azp"),
    ({"aud": None}, "aud"),
    ({"iss": "https://evil.example"}, "iss"),
    ({"exp": 1_700_000_000}, "expired"),
    ({"exp": None}, "exp"),
    ({"nbf": 4_000_000_000}, "not yet valid"),
    ({"nonce": "of another sign-in"}, "nonce"),
    ({"nonce": None}, "nonce"),
    ({"sub": None}, "sub"),
    ({"sub": ""}, "sub"),
    ({"sub": 7}, "sub"),
    ({"at_hash": "of another token"}, "at_hash"),
]


def test_an_id_token_that_is_not_for_this_sign_in_is_refused(
    browser: Caller, provider: IdentityProvider
) -> None:
    for claims, named in NOT_FOR_US:
        provider.claims = claims
        answer = sign_in(browser, provider)
        assert answer.status_code == 403, claims
        assert named in reason(answer), claims
    assert not rows(browser.database, "select from users where oidc_subject is not null")


def test_an_id_token_that_the_provider_did_not_sign_is_refused(
    browser: Caller, provider: IdentityProvider
) -> None:
    own = provider.signing_key
    provider.signing_key = ECKey.generate_key("P-256", {"kid": "1"})
    assert sign_in(browser, provider).status_code == 403
    provider.signing_key = ECKey.generate_key("P-256", {"kid": "2"})
    provider.header = {"kid": "2"}
    assert sign_in(browser, provider).status_code == 403
    provider.signing_key = own
    provider.header = {"kid": "1"}
    assert sign_in(browser, provider).status_code == 303


def test_no_signature_that_anybody_could_make_is_taken(
    browser: Caller, provider: IdentityProvider
) -> None:
    good = provider.exchange
    algorithms = iter(("none", "HS256"))

    def exchange(form: dict[str, str]) -> tuple[int, dict[str, Any]]:
        status, answer = good(form)
        _, claims, signature = answer["id_token"].split(".")
        algorithm = next(algorithms)
        header = json.dumps({"alg": algorithm, "kid": "1"}).encode()
        encoded = urlsafe_b64encode(header).rstrip(b"=").decode()
        answer["id_token"] = f"{encoded}.{claims}.{'' if algorithm == 'none' else signature}"
        return status, answer

    provider.exchange = exchange  # type: ignore[method-assign]
    for _ in range(2):
        assert sign_in(browser, provider).status_code == 403


def test_new_keys_are_fetched(
    browser: Caller, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.oidc.provider.NEW_KEYS_SECONDS", 0)
    assert sign_in(browser, provider).status_code == 303
    provider.key = provider.signing_key = ECKey.generate_key("P-256", {"kid": "2"})
    provider.header = {"kid": "2"}
    assert sign_in(browser, provider).status_code == 303


def test_an_answer_belongs_to_the_browser_that_asked(
    browser: Caller, provider: IdentityProvider
) -> None:
    foreign = Attempt.begin("/")
    begin(browser, provider)
    assert come_back(browser, foreign.state).status_code == 400
    state = begin(browser, provider)["state"]
    browser.cookies.clear()
    assert "Start again" in reason(come_back(browser, state))
    assert "/token" not in provider.calls


def test_an_answer_works_once(browser: Caller, provider: IdentityProvider) -> None:
    state = begin(browser, provider)["state"]
    kept = browser.cookies["oidc"]
    assert come_back(browser, state).status_code == 303
    assert "oidc" not in browser.cookies
    browser.cookies.clear()
    browser.cookies.set("oidc", kept)
    # This provider takes the code again, as a real one must not.
    assert "used before" in reason(come_back(browser, state))
    assert audit(browser)[-1] == ("fail to sign in", "(not signed in)")


def test_an_answer_comes_in_time(
    browser: Caller, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = begin(browser, provider)["state"]
    later = time.time() + LIFE_SECONDS + 1
    monkeypatch.setattr("api.oidc.attempt.time.time", lambda: later)
    assert come_back(browser, state).status_code == 400


def test_a_cookie_of_a_stranger_is_no_error(browser: Caller) -> None:
    for cookie in ("", "x", "W10=", "bnVsbA==", "WzEsMiwzXQ==", "W1tbW1tb" * 300):
        browser.cookies.clear()
        browser.cookies.set("oidc", cookie)
        assert browser.get("/oidc/callback?state=\u00e4&code=x").status_code == 400, cookie


def test_an_answer_of_another_provider_is_refused(
    browser: Caller, provider: IdentityProvider
) -> None:
    state = begin(browser, provider)["state"]
    assert come_back(browser, state, iss="https://evil.example").status_code == 403
    assert "/token" not in provider.calls


def test_no_sign_in_leads_to_another_site(browser: Caller, provider: IdentityProvider) -> None:
    assert sign_in(browser, provider, "///evil.example").headers["location"] == "/"


def test_a_refusal_of_the_provider_is_said(browser: Caller, provider: IdentityProvider) -> None:
    state = begin(browser, provider)["state"]
    answer = come_back(browser, state, error="access_denied", error_description="<b>Call me</b>")
    assert answer.status_code == 403
    assert "Call me" not in answer.text
    state = begin(browser, provider)["state"]
    provider.asked["code_challenge"] = "of another browser"
    assert "invalid_grant" in reason(come_back(browser, state))


def test_a_provider_that_is_down_is_said(browser: Caller, provider: IdentityProvider) -> None:
    provider.is_up = False
    answer = browser.get("/oidc/sign-in")
    assert answer.status_code == 503
    assert "can't be reached" in reason(answer)
    provider.is_up = True
    state = begin(browser, provider)["state"]
    provider.is_up = False
    assert come_back(browser, state).status_code == 503


def test_a_discovery_document_that_is_wrong_is_not_kept(
    browser: Caller, provider: IdentityProvider
) -> None:
    for metadata in ({"issuer": "https://evil.example"}, {"jwks_uri": None}):
        provider.metadata = metadata
        assert browser.get("/oidc/sign-in").status_code == 503
    provider.metadata = {}
    assert browser.get("/oidc/sign-in").status_code == 303


def test_groups_come_from_userinfo_too(browser: Caller, provider: IdentityProvider) -> None:
    provider.claims = {"groups": None}
    provider.userinfo = {"sub": "ada-1", "groups": ["bid-managers"], "email": "else@example.com"}
    assert sign_in(browser, provider).status_code == 303
    assert the_user(browser)["role"] == "manager"
    assert the_user(browser)["email"] == "ada@example.com", "what is signed comes first"
    provider.userinfo = {"sub": "bob-1", "groups": ["crm-admins"]}
    assert sign_in(browser, provider).status_code == 403
    assert the_user(browser)["role"] == "manager"


def test_the_highest_role_counts_and_follows_the_groups(
    browser: Caller, provider: IdentityProvider
) -> None:
    provider.claims = {"groups": ["sales", "crm-admins", "bid-managers"]}
    sign_in(browser, provider)
    assert browser.get("/api/session").json()["role"] == "admin"
    first = dict(browser.cookies)
    provider.claims = {"groups": ["sales"], "name": "Ada Lovelace"}
    browser.cookies.clear()
    sign_in(browser, provider)
    who = browser.get("/api/session").json()
    assert (who["role"], who["full_name"]) == ("viewer", "Ada Lovelace")
    browser.cookies.clear()
    browser.cookies.update(first)
    assert browser.get("/api/session").status_code == 401, "begun as an admin"
    done = [action for action, _ in audit(browser)]
    assert done == ["create", "sign in", "update", "sign in"]


def test_no_group_ends_all_access(browser: Caller, provider: IdentityProvider) -> None:
    sign_in(browser, provider)
    token = browser.post("/api/tokens", json={"name": "report"}).json()["token"]
    kept = dict(browser.cookies)
    provider.claims = {"groups": ["everybody"]}
    answer = sign_in(browser, provider)
    assert answer.status_code == 403
    assert "in no group" in reason(answer)
    browser.cookies.update(kept)
    assert browser.get("/api/session").status_code == 401
    browser.cookies.clear()
    bearer = {"Authorization": f"Bearer {token}"}
    assert browser.get("/api/session", headers=bearer).status_code == 401
    assert [action for action, _ in audit(browser)[-2:]] == ["end access", "fail to sign in"]


def test_without_a_group_nobody_is_made(browser: Caller, provider: IdentityProvider) -> None:
    provider.userinfo = {"sub": "ada-1"}
    for groups in (None, [], "everybody", [7, {}], {"sales": 1}):
        provider.claims = {"groups": groups}
        assert sign_in(browser, provider).status_code == 403, groups
    assert not rows(browser.database, "select from users where oidc_subject is not null")


def test_who_is_barred_stays_out(browser: Caller, provider: IdentityProvider) -> None:
    sign_in(browser, provider)
    path = f"/api/users/{the_user(browser)['id']}"
    browser.be(Role.ADMIN)
    assert browser.patch(path, json={"active": False}).status_code == 200
    browser.be(None)
    answer = sign_in(browser, provider)
    assert answer.status_code == 403
    assert "barred" in reason(answer)


def test_the_provider_decides_about_role_and_password(
    browser: Caller, provider: IdentityProvider
) -> None:
    sign_in(browser, provider)
    path = f"/api/users/{the_user(browser)['id']}"
    browser.be(Role.ADMIN)
    assert browser.patch(path, json={"role": "admin"}).status_code == 409
    assert browser.patch(path, json={"password": PASSWORD}).status_code == 409
    assert browser.patch(path, json={"role": "viewer", "email": None}).status_code == 200
    shown = browser.get("/admin/users").text
    assert "Company account" in shown
    assert "Role of ada" not in shown
    user_id = the_user(browser)["id"]
    assert "Make a link" not in browser.get(f"/admin/users/{user_id}/tokens").text
    link = f"/api/users/{user_id}/password-link"
    assert browser.post(link, headers=browser.signed_in()).status_code == 409
    browser.be(None)
    account = browser.get("/account").text
    assert "Change the password" not in account
    assert "Your password" not in account


def test_an_old_page_bars_whose_groups_have_changed(
    browser: Caller, provider: IdentityProvider
) -> None:
    sign_in(browser, provider)
    path = f"/admin/users/{the_user(browser)['id']}"
    browser.be(Role.ADMIN)
    page = browser.get("/admin/users").text
    browser.be(None)
    provider.claims = {"groups": ["bid-managers"]}
    sign_in(browser, provider)
    browser.be(Role.ADMIN)
    # Active is not ticked any more, and the form has no role.
    answer = browser.post(path, data={"seen": seen(page, path)})
    assert answer.status_code == 200, answer.text
    found = the_user(browser)
    assert (found["role"], found["active"]) == ("manager", False)


def test_the_name_of_a_local_user_is_not_taken_over(
    browser: Caller, provider: IdentityProvider
) -> None:
    create(browser, "Ada", "manager")
    answer = sign_in(browser, provider)
    assert answer.status_code == 409
    assert "--oidc-subject ada-1" in reason(answer)
    command(
        browser.database,
        "ada",
        "--oidc-subject",
        "ada-1",
        OIDC_ISSUER=f"{provider.issuer}/",
        OIDC_CLIENT_ID=CLIENT,
        OIDC_ROLES="sales=viewer",
        API_PUBLIC_URL=PUBLIC,
    )
    assert sign_in(browser, provider).status_code == 303
    user = the_user(browser)
    assert (user["name"], user["role"], user["password_hash"]) == ("Ada", "viewer", None)


def test_users_are_told_apart_by_subject_alone(browser: Caller, provider: IdentityProvider) -> None:
    sign_in(browser, provider)
    provider.claims = {"preferred_username": "ada.lovelace", "email": "new@example.com"}
    assert sign_in(browser, provider).status_code == 303
    assert the_user(browser)["name"] == "ada"
    provider.claims = {"sub": "ada-2"}
    assert sign_in(browser, provider).status_code == 409


def test_a_name_that_cannot_be_one_is_refused(browser: Caller, provider: IdentityProvider) -> None:
    provider.userinfo = {"sub": "ada-1"}
    for name in (None, "", "Ada Lovelace", "\u0430da", "ada\u200b", ["ada"]):
        provider.claims = {"preferred_username": name}
        answer = sign_in(browser, provider)
        assert answer.status_code == 403, name
        assert "OIDC_NAME_CLAIM" in reason(answer), name


def test_what_does_not_fit_is_left_out(browser: Caller, provider: IdentityProvider) -> None:
    provider.claims = {"name": "x" * 300, "email": "no address"}
    assert sign_in(browser, provider).status_code == 303
    assert (the_user(browser)["full_name"], the_user(browser)["email"]) == (None, None)


def test_signing_out_goes_on_to_the_provider(browser: Caller, provider: IdentityProvider) -> None:
    sign_in(browser, provider)
    kept = dict(browser.cookies)
    answer = browser.post("/sign-out")
    url = answer.headers["refresh"].removeprefix("0; url=")
    assert url.startswith(f"{provider.issuer}/sign-out?")
    given = parse_qs(urlsplit(url).query)
    assert given["post_logout_redirect_uri"] == [f"{PUBLIC}/sign-in"]
    assert given["client_id"] == [CLIENT]
    assert jwt.decode(given["id_token_hint"][0], provider.key).claims["sub"] == "ada-1"
    assert not rows(browser.database, "select from tokens where id_token is not null")
    browser.cookies.update(kept)
    assert browser.get("/api/session").status_code == 401


def test_signing_out_ends_the_session_also_without_the_provider(
    browser: Caller, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("api.oidc.provider.METADATA_SECONDS", -1)
    provider.metadata = {"end_session_endpoint": None}
    for is_up in (True, False):
        provider.is_up = True
        sign_in(browser, provider)
        provider.is_up = is_up
        answer = browser.post("/sign-out")
        assert (answer.status_code, answer.headers["location"]) == (303, "/sign-in")
        assert browser.get("/api/session").status_code == 401


def test_passwords_can_be_off_but_for_emergencies(
    database: str, provider: IdentityProvider
) -> None:
    command(database, "rescue", "--role", "admin")

    def sign_in_as(browser: Caller, name: str) -> int:
        given = {"name": name, "password": PASSWORD}
        status = browser.post("/api/session", json=given).status_code
        assert browser.post("/sign-in", data=given).status_code == {201: 303, 401: 401}[status]
        return status

    with desk(database, provider) as browser:
        create(browser, "mary", "admin")
        assert sign_in_as(browser, "mary") == 201
    with desk(database, provider, password_sign_in=False) as browser:
        assert sign_in_as(browser, "mary") == 401
        assert sign_in_as(browser, "rescue") == 201
        assert audit(browser)[-1] == ("sign in", "rescue")
        with psycopg.connect(database) as connection:
            connection.execute("update users set role = 'manager' where name = 'rescue'")
        assert sign_in_as(browser, "rescue") == 401
        assert sign_in(browser, provider).status_code == 303


def test_without_a_provider_there_is_no_way_to_one(caller: Caller) -> None:
    caller.be(None)
    assert caller.get("/oidc/sign-in").status_code == 404
    assert "/oidc" not in caller.get("/sign-in").text
