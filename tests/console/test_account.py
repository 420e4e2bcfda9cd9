"""The way in and out, one's own account, and what a role is offered."""

import re

import pytest
from playwright.sync_api import expect

from tests.console.conftest import Desk
from tests.console.demo import PASSWORD


def test_sign_in_lands_where_one_was_going_and_out_again(desk: Desk) -> None:
    page = desk.open("/opportunities?geo=EMEA&sort=-deal_value", None)
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("Name").fill("ada")
    page.get_by_label("Password").fill("not that")
    page.get_by_role("button", name="Sign in").click()
    expect(page.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    desk.expect_refusal(401)
    expect(page.get_by_label("Name")).to_have_value("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.keyboard.press("Enter")
    expect(page).to_have_url(re.compile(r"/opportunities\?geo=EMEA&sort=-deal_value$"))
    page.get_by_label("Account of ada").click()
    expect(page.get_by_text("Assessor", exact=True)).to_be_visible()
    page.get_by_role("button", name="Sign out").click()
    page.goto("/opportunities")
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()


@pytest.mark.parametrize(
    "elsewhere",
    [
        "//evil.example.com",
        "https://evil.example.com/",
        "/\\evil.example.com",
        "javascript:alert(1)",
    ],
)
def test_signing_in_leads_to_no_other_site(desk: Desk, elsewhere: str) -> None:
    given = {"name": "ada", "password": PASSWORD, "next": elsewhere}
    answer = desk.call("POST", "/sign-in", data=given)
    assert (answer.status_code, answer.headers["location"]) == (303, "/")


def test_a_link_of_another_site_opens_the_deal(desk: Desk) -> None:
    page = desk.open("/sign-in", None)
    page.get_by_label("Name", exact=True).fill("ada")
    page.get_by_label("Password").fill(PASSWORD)
    page.get_by_role("button", name="Sign in").first.click()
    page.wait_for_url("**/today")
    page.goto(f'data:text/html,<a href="{desk.address}/opportunities/1">A deal</a>')
    page.get_by_role("link", name="A deal").click()
    page.wait_for_url(f"{desk.address}/opportunities/1")


def test_make_use_and_revoke_a_token(desk: Desk) -> None:
    page = desk.open("/account", "vera")
    digest = page.get_by_label("Send me what the page Today shows")
    expect(page.get_by_text("if anything has changed, to vera@example.com.")).to_be_visible()
    digest.check()
    expect(page.locator("#messages")).to_contain_text("You get a digest from tomorrow on.")
    page.reload()
    expect(digest).to_be_checked()
    digest.uncheck()
    expect(page.locator("#messages")).to_contain_text("You get no digest any more.")
    assert desk.query("select * from digests") == []
    page.get_by_label("What is it for?").fill("nightly report")
    page.get_by_role("button", name="Make a token").click()
    token = page.locator(".secret").inner_text()
    call = {"headers": {"Authorization": f"Bearer {token}"}}
    assert desk.call("GET", "/api/session", **call).json()["name"] == "vera"
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("Revoked")).to_be_visible()
    assert desk.call("GET", "/api/session", **call).status_code == 401


def test_end_another_session(desk: Desk) -> None:
    other = desk.open("/account", "vera")
    page = desk.open("/account", "vera")
    sessions = page.get_by_role("region", name="Sessions")
    expect(sessions.get_by_text("This one")).to_have_count(1)
    sessions.get_by_role("button", name="End").click()
    expect(sessions.get_by_role("button", name="End")).to_have_count(0)
    other.goto("/opportunities")
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()


def test_change_the_password(desk: Desk) -> None:
    page = desk.open("/account", "vera")
    page.get_by_label("Present password").fill(PASSWORD)
    page.get_by_label("New password").fill("another good passphrase")
    page.get_by_role("button", name="Change the password").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    page.get_by_label("Name").fill("vera")
    page.get_by_label("Password").fill("another good passphrase")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Today")).to_be_visible()


@pytest.mark.parametrize(
    ("name", "is_offered"), [("vera", ""), ("ada", ""), ("mira", "start"), ("olga", "start admin")]
)
def test_what_a_role_may_not_do_is_not_offered(desk: Desk, name: str, is_offered: str) -> None:
    page = desk.open("/sync", name)
    expect(page.get_by_role("heading", name="History")).to_be_visible()
    assert bool(page.get_by_role("button", name="Sync what changed").count()) == (
        "start" in is_offered
    )
    admin = page.get_by_role("link", name="Admin", exact=True)
    assert bool(admin.count()) == ("admin" in is_offered)
    page.goto("/admin/users")
    if "admin" not in is_offered:
        expect(page.get_by_role("heading", name="Forbidden")).to_be_visible()
        desk.expect_refusal(403)
