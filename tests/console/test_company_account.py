"""Signing in at a real identity provider, in a browser: npm's oidc-provider, `make test-oidc`."""

import json
import re
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect

from api.app import create_app
from database.environment import ROOT
from tests.api.conftest import DefaultSettings, running
from tests.conftest import free_port

pytestmark = pytest.mark.oidc

FOLDER = ROOT / ".data" / "oidc"


@dataclass
class Company:
    """A desk, the identity provider of its company, and a browser."""

    page: Page
    address: str
    provider: subprocess.Popen[str]
    wishes: Path
    database: str

    def wish(self, groups: list[str], **claims: object) -> None:
        """Say in which groups all users are, and what is to be wrong in ID tokens."""
        self.wishes.write_text(json.dumps({"groups": groups, "claims": claims or None}))

    def sign_in(self, path: str = "/") -> None:
        """Ask for a page, and sign in as ada where that leads."""
        self.page.goto(self.address + path)
        self.page.get_by_role("link", name="Sign in with your company account").click()
        login = self.page.get_by_placeholder("Enter any login")
        button = self.page.get_by_role("button", name="Continue")
        alert = self.page.get_by_role("alert").and_(self.page.locator(".alert"))
        menu = self.page.get_by_label("Account of ada")
        expect(login.or_(button).or_(alert).or_(menu)).to_be_visible()
        if login.is_visible():
            login.fill("ada")
            self.page.get_by_placeholder("and password").fill("x")
            self.page.get_by_role("button", name="Sign-in").click()
            expect(button.or_(alert).or_(menu)).to_be_visible()
        if button.is_visible():
            button.click()

    def expect_role(self, role: str) -> None:
        menu = self.page.get_by_label("Account of ada")
        expect(menu).to_be_visible()
        menu.click()
        expect(self.page.locator(".who")).to_contain_text(role)

    def expect_refusal(self, words: str) -> None:
        expect(self.page.locator(".alert")).to_contain_text(words)
        self.page.goto(self.address + "/opportunities")
        expect(self.page).to_have_url(re.compile("/sign-in"))


@pytest.fixture
def company(browser: Browser, database: str, tmp_path: Path) -> Iterator[Company]:
    """Both on different sites: 127.0.0.1 and localhost."""
    port, own_port = free_port(), free_port()
    address = f"http://127.0.0.1:{own_port}"
    wishes = tmp_path / "wishes.json"
    given: dict[str, Any] = {
        "port": port,
        "redirect": f"{address}/oidc/callback",
        "signedOut": f"{address}/sign-in",
        "wishes": str(wishes),
    }
    provider = subprocess.Popen(
        ["node", "provider.js", json.dumps(given)], cwd=FOLDER, stdout=subprocess.PIPE, text=True
    )
    settings = DefaultSettings.model_validate(
        {
            "api_public_url": address,
            "oidc_issuer": f"http://localhost:{port}",
            "oidc_client_id": "bid-desk",
            "oidc_client_secret": "of-the-tests",
            "oidc_roles": "managers=manager,sales=viewer",
        }
    )
    context = browser.new_context()
    context.set_default_timeout(15_000)
    try:
        assert provider.stdout is not None
        assert provider.stdout.readline() == "ready\n"
        with running(create_app(settings, database), int(own_port)):
            company = Company(context.new_page(), address, provider, wishes, database)
            company.wish(["managers"])
            yield company
    finally:
        context.close()
        provider.kill()
        provider.wait()


def test_one_signs_in_and_out(company: Company) -> None:
    company.sign_in("/opportunities?stage=x")
    expect(company.page).to_have_url(f"{company.address}/opportunities?stage=x")
    company.expect_role("Manager")
    company.page.get_by_role("button", name="Sign out").click()
    company.page.get_by_role("button", name="Yes, sign me out").click()
    expect(company.page).to_have_url(re.compile(f"^{company.address}/sign-in"))
    company.page.goto(company.address + "/opportunities")
    expect(company.page).to_have_url(re.compile("/sign-in"))
    company.page.get_by_role("link", name="Sign in with your company account").click()
    expect(company.page.get_by_placeholder("Enter any login")).to_be_visible()


def test_a_session_that_ends_is_begun_again_in_another_tab(company: Company) -> None:
    company.sign_in("/opportunities")
    company.expect_role("Manager")
    page = company.page
    page.context.clear_cookies(name="session")
    page.get_by_label("Search names, customers, numbers").fill("bank")
    dialog = page.get_by_role("dialog", name="Sign in again")
    with page.context.expect_page() as opened:
        dialog.get_by_role("link", name="Sign in with your company account").click()
    expect(opened.value.get_by_role("heading", name="You are signed in")).to_be_visible()
    opened.value.close()
    expect(dialog).to_be_hidden()
    expect(page).to_have_url(re.compile("search=bank"))


def test_another_group_is_another_role_and_none_is_no_way_in(company: Company) -> None:
    company.sign_in()
    company.expect_role("Manager")
    company.wish(["sales"])
    company.page.context.clear_cookies(domain="127.0.0.1")
    company.sign_in()
    company.expect_role("Viewer")
    company.wish(["lunch"])
    company.page.goto(company.address + "/oidc/sign-in")
    company.expect_refusal("You are in no group that may use this")


def test_an_id_token_for_another_client_is_refused(company: Company) -> None:
    company.wish(["managers"], aud="another-client", azp="another-client")
    company.sign_in()
    company.expect_refusal("aud")


def test_an_id_token_that_has_expired_is_refused(company: Company) -> None:
    company.wish(["managers"], exp=int(time.time()) - 3600)
    company.sign_in()
    company.expect_refusal("expired")


def test_an_answer_that_was_used_is_refused(company: Company) -> None:
    asked: list[str] = []
    company.page.on("request", lambda request: asked.append(request.url))
    company.page.goto(company.address + "/sign-in")
    company.sign_in()
    company.expect_role("Manager")
    (url,) = (url for url in asked if "/oidc/callback" in url)
    company.page.context.clear_cookies(name="session")
    company.page.goto(url)
    company.expect_refusal("Start again")


def test_a_provider_that_is_down_is_told_of_and_passwords_go_on(company: Company) -> None:
    company.provider.kill()
    company.provider.wait()
    company.page.goto(company.address + "/sign-in")
    company.page.get_by_role("link", name="Sign in with your company account").click()
    expect(company.page.locator(".alert")).to_contain_text("can't be reached")
    expect(company.page.get_by_label("Password")).to_be_visible()
    with psycopg.connect(company.database) as connection:
        found = connection.execute("select count(*) from users").fetchone()
    assert found == (0,)
