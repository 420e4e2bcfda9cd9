"""Administration: people, their tokens, and who changed what."""

import pytest
from playwright.sync_api import Dialog, expect

from tests.api.conftest import no_checks
from tests.console.conftest import Desk
from tests.receiver import Receiver
from tests.runs import add_run

__all__ = ["no_checks"]


def test_make_change_and_bar_a_user(desk: Desk) -> None:
    page = desk.open("/admin/users")
    page.get_by_label("Name to sign in with").fill("zoe")
    page.get_by_label("Full name").fill("Zoë Ilvonen")
    page.locator("select[name=role]").last.select_option(label="Assessor")
    page.get_by_role("button", name="Make the user").click()
    row = page.locator("tr", has_text="Zoë Ilvonen")
    expect(row.get_by_text("No password yet")).to_be_visible()
    expect(page.get_by_label("Name to sign in with")).to_have_value("")
    link = page.locator(".secret").inner_text()

    invited = desk.open("/sign-in", None)
    asked: list[str] = []
    invited.on("request", lambda request: asked.append(f"{request.url} {request.headers}"))
    invited.goto(link)
    expect(invited).to_have_url(f"{desk.address}/set-password")
    password = invited.get_by_label("New password")
    password.fill("zoe-zoe-zoe-zoe")
    password.press("Enter")
    expect(invited.locator("#messages")).to_contain_text("This password is easy to guess.")
    desk.expect_refusal(422)
    password.fill("a long enough passphrase")
    password.press("Enter")
    expect(invited.get_by_role("heading", name="Sign in")).to_be_visible()
    assert link.split("#")[1] not in str(asked)

    def signs_in() -> int:
        given = {"name": "zoe", "password": "a long enough passphrase"}
        return desk.call("POST", "/api/session", json=given).status_code

    assert signs_in() == 201
    row.get_by_label("Active").uncheck()
    row.get_by_role("button", name="Save zoe").click()
    expect(row.get_by_text("Barred")).to_be_visible()
    assert signs_in() == 401


def test_erase_a_user(desk: Desk) -> None:
    page = desk.open("/admin/users")
    page.get_by_label("Access of vera").click()
    page.get_by_role("link", name="Erase vera").click()
    expect(page.get_by_role("heading", name="Of vera this would be erased")).to_be_visible()
    expect(page.get_by_role("row", name="public.users 1")).to_be_visible()
    page.once("dialog", lambda dialog: dialog.dismiss())
    page.get_by_role("button", name="Erase for good").click()
    assert desk.query("select name from users where name = 'vera'")
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Erase for good").click()
    expect(page.locator("tbody tr").first).to_contain_text("Erase user")
    assert desk.query("select name from users where name = 'vera'") == []
    page.goto("/admin/users")
    expect(page.locator("#users")).to_contain_text("ada")
    expect(page.locator("#users")).not_to_contain_text("erased user")


def test_the_last_admin_stays(desk: Desk) -> None:
    page = desk.open("/admin/users")
    row = page.locator("tr", has_text="Olga Petrarch")
    row.get_by_label("Role of olga").select_option(label="Viewer")
    asked: list[str] = []

    def accept(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.accept()

    page.once("dialog", accept)
    row.get_by_role("button", name="Save olga").click()
    expect(page.locator("#messages")).to_contain_text("olga is the last admin who can sign in.")
    assert "It ends your sessions" in asked[0]
    desk.expect_refusal(409)
    page.reload()
    expect(page.get_by_label("Role of olga")).to_have_value("admin")


def test_saving_a_user_as_is_ends_no_session(desk: Desk) -> None:
    other = desk.open("/opportunities", "ada")
    page = desk.open("/admin/users")
    page.get_by_role("button", name="Save ada").click()
    expect(page.locator("#messages")).to_contain_text("Nothing to change.")
    other.reload()
    expect(other.get_by_role("heading", name="Opportunities")).to_be_visible()


def test_what_others_changed_since_the_page_was_loaded_stays(desk: Desk) -> None:
    first, second = desk.open("/admin/users"), desk.open("/admin/users")
    first.get_by_label("Role of ada").select_option(label="Viewer")
    row = first.locator("tr", has_text="Ada")
    row.get_by_label("Active").uncheck()
    row.get_by_role("button", name="Save ada").click()
    expect(row.get_by_text("Barred")).to_be_visible()
    second.get_by_label("Role of ada").select_option(label="Manager")
    second.get_by_role("button", name="Save ada").click()
    words = "It has been changed meanwhile: the role is viewer. Reload the page."
    expect(second.locator("#messages")).to_contain_text(words)
    desk.expect_refusal(409)
    second.reload()
    expect(second.locator("tr", has_text="Ada").get_by_text("Barred")).to_be_visible()
    expect(second.get_by_label("Role of ada")).to_have_value("viewer")
    # A page that has saved knows what it saved.
    second.get_by_label("Access of ada").click()
    for name in ("Ada King", "Ada Lovelace"):
        second.get_by_label("Full name").fill(name)
        with second.expect_response("**/tokens"):
            second.get_by_role("button", name="Save", exact=True).click()
    assert desk.query("select full_name from users where name = 'ada'") == [{"full_name": name}]


def test_revoke_the_token_of_another(desk: Desk) -> None:
    owner = desk.open("/account", "vera")
    owner.get_by_label("What is it for?").fill("report")
    owner.get_by_role("button", name="Make a token").click()
    token = owner.locator(".secret").inner_text()
    page = desk.open("/admin/users")
    page.get_by_label("Access of vera").click()
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Revoke").click()
    expect(page.get_by_text("Revoked")).to_be_visible()
    answer = desk.call("GET", "/api/session", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == 401
    owner.reload()
    expect(owner.get_by_role("heading", name="Account")).to_be_visible()
    page.get_by_role("button", name="End all access").click()
    expect(page.get_by_text("No session is under way.")).to_be_visible()
    owner.reload()
    expect(owner.get_by_role("heading", name="Sign in")).to_be_visible()


def test_unlock_a_name(desk: Desk) -> None:
    wrong = {"name": "vera", "password": "wrong"}
    answers = [desk.call("POST", "/api/session", json=wrong).status_code for _ in range(6)]
    assert answers == [401] * 5 + [429]
    page = desk.open("/admin/users")
    page.get_by_role("link", name="5 failed sign-ins").click()
    page.get_by_label("Full name").fill("Vera von Lindqvall")
    page.get_by_label("E-mail").fill("")
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#messages")).to_contain_text("vera is changed.")
    expect(page.get_by_role("region", name="Failed sign-ins")).to_contain_text("127.0.0.1")
    page.get_by_role("button", name="Unlock").click()
    expect(page.locator("#messages")).to_contain_text("vera can sign in again.")
    page.goto("/admin/users")
    expect(page.locator("#users")).not_to_contain_text("failed sign-ins")
    expect(page.locator("#users")).to_contain_text("Vera von Lindqvall")
    expect(page.locator("#users")).not_to_contain_text("vera@example.com")
    assert desk.call("POST", "/api/session", json=wrong).status_code == 401


def test_the_audit_tells_who_did_what(desk: Desk) -> None:
    deals = desk.open("/opportunities?workflow_status=NEW", "ada")
    row = deals.locator(".deals tbody tr").first
    deal = (row.get_attribute("id") or "")[5:]
    row.get_by_role("button", name="Workflow status").click()
    deals.get_by_role("menuitem", name="Assigned", exact=True).click()
    deals.get_by_role("button", name="Assign", exact=True).click()
    expect(deals.locator("#messages")).to_contain_text("Assigned")
    page = desk.open("/admin/audit")
    page.get_by_label("Of a kind").select_option(label="Opportunity")
    page.get_by_role("button", name="Show").click()
    entry = page.locator("tbody tr").first
    for words in ("ada", "Update opportunity", deal, "Workflow status NEW ASSIGNED"):
        expect(entry).to_contain_text(words)


def test_health(desk: Desk, no_checks: None, monkeypatch: pytest.MonkeyPatch) -> None:
    desk.query("update schedules set heartbeat_at = now()")
    add_run(desk.database, kind="other", job="dbt-postgres:build", error_message="A test failed.")
    other = desk.open("/opportunities", "ada")
    page = desk.open("/admin/health")
    schedules = page.locator("#schedules")
    expect(schedules).to_contain_text("Reads what has changed in the CRM: at 02:00 every day (UTC)")
    expect(schedules.locator("time[datetime*='T02:00']")).to_have_count(2)
    page.get_by_role("button", name="Pause nightly", exact=True).click()
    expect(schedules).to_contain_text("Paused")
    expect(schedules).to_contain_text("by olga")
    page.get_by_role("button", name="Resume nightly", exact=True).click()
    expect(schedules).not_to_contain_text("Paused")
    page.get_by_role("button", name="Run now: nightly", exact=True).click()
    expect(schedules).to_contain_text("Next: now, for olga")

    page.once("dialog", lambda dialog: dialog.accept())
    end = page.get_by_role("button", name="End test of ada", exact=True)
    end.click()
    expect(end).to_have_count(0)
    other.reload()
    expect(other.get_by_role("heading", name="Sign in")).to_be_visible()

    with Receiver() as receiver:
        monkeypatch.setenv("NOTIFY_URLS", receiver.url())
        page.get_by_role("button", name="Send a test message", exact=True).click()
        expect(page.locator("#sent")).to_contain_text("Accepted by service 1 (json)")
        assert receiver.titles() == ["Test"]

    found = page.get_by_role("region", name="What to look at", exact=True)
    expect(found).to_contain_text("→ an advice")
    page.get_by_text("OK: 1", exact=True).click()
    expect(page.get_by_role("region", name="What is well", exact=True)).to_be_visible()

    runs = page.get_by_role("region", name="List of runs", exact=True)
    expect(runs).to_contain_text("dbt-postgres:build")
    runs.get_by_role("link").first.click()
    expect(page.get_by_label("Cause", exact=True)).to_have_text("A test failed.")
