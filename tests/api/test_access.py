"""Who gets in."""

import os
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta

import psycopg
import pytest

import api.token
from api.auth import Role
from api.token import make_token
from database.environment import ROOT
from tests.api.conftest import Caller, DefaultSettings, calling


def test_nothing_without_a_token(caller: Caller) -> None:
    caller.be(None)
    for path in ("/api/opportunities", "/api/sync-status", "/api/oracle-opportunity/1"):
        answer = caller.get(path)
        assert answer.status_code == 401
        assert answer.headers["www-authenticate"].startswith("Bearer")
        assert answer.headers["content-type"] == "application/problem+json"


def test_health_needs_none(caller: Caller) -> None:
    caller.be(None)
    assert caller.get("/health/live").json() == {"status": "ok"}
    assert caller.get("/health/ready").json() == {"status": "ok"}


def test_not_ready_with_an_old_database(caller: Caller) -> None:
    with psycopg.connect(caller.database) as connection:
        connection.execute("update alembic_version set version_num = '0001'")
    answer = caller.get("/health/ready")
    assert answer.status_code == 503
    assert "make setup" in answer.json()["detail"]


@pytest.mark.parametrize(
    "change",
    [
        "update tokens set revoked_at = now()",
        "update tokens set expires_at = now()",
        "update users set active = false",
    ],
)
def test_a_token_ends(caller: Caller, change: str) -> None:
    assert caller.get("/api/opportunities").status_code == 200
    with psycopg.connect(caller.database) as connection:
        connection.execute(change)
    answer = caller.get("/api/opportunities")
    assert answer.status_code == 401
    assert 'error="invalid_token"' in answer.headers["www-authenticate"]


def test_the_command_prints_a_token_alone_on_a_line(database: str) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api.token", "manager", "--scope", "sync", "--days", "7"],
        cwd=ROOT,
        text=True,
        check=True,
        env=os.environ | {"DATABASE_URL": database},
        stdout=subprocess.PIPE,
    )
    (token,) = done.stdout.splitlines()
    with psycopg.connect(database) as connection:
        ((stored, scopes, life),) = connection.execute(
            "select to_json(tokens)::text, scopes, expires_at - created_at from tokens"
        ).fetchall()
    assert token not in stored
    assert scopes == ["read", "sync"]
    assert life == timedelta(days=7)


@pytest.mark.parametrize("days", ["-3", "0", "367", "99999999999"])
def test_a_token_has_an_end(
    days: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["api.token", "viewer", "--days", days])
    with pytest.raises(SystemExit):
        api.token.main()
    assert "a token lives for 1 to 366 days" in capsys.readouterr().err


def test_pages_of_named_origins_only(database: str) -> None:
    settings = DefaultSettings.model_validate(
        {"api_cors_origins": "https://bid.example.com, https://crm.example.com/"}
    )
    with calling(database, settings) as caller:
        allowed = caller.get("/health/live", headers={"Origin": "https://bid.example.com"})
        other = caller.get("/health/live", headers={"Origin": "https://evil.example.com"})
    assert allowed.headers["access-control-allow-origin"] == "https://bid.example.com"
    assert "access-control-allow-origin" not in other.headers


@pytest.fixture
def browser(caller: Caller) -> Iterator[Caller]:
    caller.be(None)
    yield caller
    caller.cookies.clear()


def test_the_start_page_shows_data_to_who_is_signed_in(browser: Caller) -> None:
    with psycopg.connect(browser.database) as connection:
        connection.execute(
            "insert into opportunities (remote_id, name) values ('1', '<b>Bold & co</b>')"
        )
    assert "Bold" not in browser.get("/").text
    token = make_token(browser.database, Role.VIEWER, timedelta(hours=1))
    refused = browser.post("/sign-in", data={"token": "wrong"})
    assert refused.status_code == 401
    assert "unknown" in refused.text
    page = browser.post("/sign-in", data={"token": token})
    assert page.status_code == 200
    assert "&lt;b&gt;Bold &amp; co&lt;/b&gt;" in page.text
    assert browser.get("/api/opportunities").json()["total"] == 1
    browser.post("/sign-out")
    assert "Bold" not in browser.get("/").text


def test_a_page_of_another_site_changes_nothing_with_the_cookie(browser: Caller) -> None:
    token = make_token(browser.database, Role.ADMIN, timedelta(hours=1))
    browser.cookies.set("session", token)
    for headers in ({"Origin": "https://evil.example.com"}, {"Sec-Fetch-Site": "cross-site"}):
        answer = browser.post("/api/sync-database", headers=headers)
        assert answer.status_code == 403
        assert "another site" in answer.json()["detail"]


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("API_PORT", "eighty", "API_PORT: Input should be a valid integer"),
        ("NOTIFY_URLS", "mailto://a:swordfish@example.com nonsense://b", "NOTIFY_URLS: "),
        ("DATABASE_URL", "mysql://swordfish", "DATABASE_URL must look like postgresql://"),
    ],
)
def test_a_wrong_setting_is_named_and_not_quoted(
    database: str, name: str, value: str, message: str
) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "api"],
        cwd=ROOT,
        text=True,
        stderr=subprocess.PIPE,
        check=False,
        env=os.environ | {"DATABASE_URL": database, "API_PORT": "0"} | {name: value},
    )
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(message)
    assert value not in line
    assert "swordfish" not in line


def test_a_service_user_that_is_barred_gets_no_token(database: str) -> None:
    make_token(database, Role.MANAGER, timedelta(hours=1))
    with psycopg.connect(database) as connection:
        connection.execute("update users set active = false where name = 'service-manager'")
    with pytest.raises(ValueError, match="service-manager is barred"):
        make_token(database, Role.MANAGER, timedelta(hours=1))
