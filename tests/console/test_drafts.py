"""Nothing that is typed is lost: not with the session, not by a reload, not to somebody else."""

import json
import re

import pytest
from playwright.sync_api import Page, expect

from declared.assessment import SEVEN
from tests.console.conftest import Desk
from tests.console.demo import PASSWORD
from tests.console.test_deal import score
from tests.console.test_quality import violations

DEAL = "/opportunities/3"


def end_sessions(desk: Desk) -> None:
    desk.query("update tokens set revoked_at = now()")
    desk.expect_refusal(401)


def expect_drafts(page: Page, count: int) -> None:
    page.wait_for_function(
        "count => Object.keys(localStorage).filter((key) => key.startsWith('draft ')).length"
        " === count",
        arg=count,
    )


def sign_in_again(page: Page, password: str = PASSWORD) -> None:
    dialog = page.get_by_role("dialog", name="Sign in again")
    dialog.get_by_label("Password").fill(password)
    dialog.get_by_role("button", name="Sign in").click()


def test_a_session_that_ends_is_begun_again_on_the_page(desk: Desk) -> None:
    page = desk.open("/opportunities?geo=EMEA", "ada")
    end_sessions(desk)
    forms: list[str] = []
    page.on(
        "request", lambda request: forms.append(request.url) if "/sign-in" in request.url else None
    )
    # Two of the page's own requests are refused at once. A second form would come empty, on top.
    page.evaluate("() => void [askToSignIn(false), askToSignIn(false)]")
    page.get_by_label("Search names, customers, numbers").fill("alder bank")
    dialog = page.get_by_role("dialog", name="Sign in again")
    expect(dialog.get_by_label("Name")).to_have_value("ada")
    expect(dialog.get_by_label("Password")).to_be_focused()
    assert violations(page) == []
    assert len(forms) == 1
    sign_in_again(page, "not that")
    expect(dialog.get_by_role("alert")).to_have_text("The name or the password is wrong.")
    sign_in_again(page)
    expect(dialog).to_be_hidden()
    # What was asked for comes without being asked for again.
    expect(page.locator("td[data-label=Customer]").first).to_have_text("Alder Bank")
    expect(page).to_have_url(re.compile(r"search=alder\+bank"))
    expect(page.locator("#indicator")).to_contain_text("Synced")


def test_the_pages_own_questions_take_nothing_from_who_writes(desk: Desk) -> None:
    page = desk.open(DEAL, "ada")
    comment = page.get_by_label("Comment", exact=True)
    comment.press_sequentially("Half of")
    end_sessions(desk)
    dialog = page.get_by_role("dialog", name="Sign in again")
    expect(dialog).to_be_visible()
    page.keyboard.type(" a thought")
    expect(comment).to_have_value("Half of a thought")
    assert page.url.endswith(DEAL)
    dialog.get_by_role("button", name="Not now").click()
    expect(page.locator("#fresh")).to_contain_text("Live updates are interrupted.")
    expect(dialog).to_be_hidden()
    page.get_by_role("button", name="Comment", exact=True).click()
    sign_in_again(page)
    expect(page.locator(".comments li").last).to_contain_text("Half of a thought")


def test_another_tab_may_be_where_one_signs_in_again(desk: Desk) -> None:
    page = desk.open(DEAL, "ada")
    end_sessions(desk)
    page.get_by_label("Summary").fill("Mine")
    page.get_by_role("button", name="Save", exact=True).click()
    dialog = page.get_by_role("dialog", name="Sign in again")
    expect(dialog).to_be_visible()
    cookie = {"name": "session", "value": desk.session("mira"), "url": desk.address}
    page.context.add_cookies([cookie])  # type: ignore[list-item]
    tab = page.context.new_page()
    tab.goto("/signed-in")
    expect(dialog.get_by_role("alert")).to_contain_text("You are signed in as mira now.")
    cookie["value"] = desk.session("ada")
    page.context.add_cookies([cookie])  # type: ignore[list-item]
    tab.reload()
    expect(tab.get_by_role("heading", name="You are signed in")).to_be_visible()
    expect(dialog).to_be_hidden()
    expect(page.locator("#messages")).to_contain_text("Saved.")


def test_what_is_being_written_survives_a_reload_until_it_is_saved(desk: Desk) -> None:
    page = desk.open(DEAL, "ada")
    score(page, "Strategic fit", 1)
    score(page, "Risk", 3)
    page.get_by_label("Why: Risk").fill("Penalties are capped")
    # It can't be saved without a score.
    page.get_by_label("Why: Compliance").fill("To be checked")
    page.get_by_label("Comment", exact=True).fill("To be looked at")
    page.reload()
    expect(page.get_by_label("Why: Risk")).to_have_value("Penalties are capped")
    expect(page.get_by_label("Comment", exact=True)).to_have_value("To be looked at")
    fit = page.get_by_role("group", name="Strategic fit")
    expect(fit.get_by_role("radio", name="1")).to_be_checked()
    expect(page.locator(".assessment .kept")).to_contain_text("Not saved yet")
    assert violations(page) == []
    expect_drafts(page, 2)
    page.get_by_role("button", name="Save", exact=True).click()
    expect(page.locator("#messages")).to_contain_text("Saved.")
    expect(page.get_by_label("Why: Compliance")).to_have_value("To be checked")
    for form in (page.locator(".assessment"), page.locator("#comments")):
        form.get_by_role("button", name="Discard").click()
    expect(page.get_by_label("Why: Risk")).to_have_value("Penalties are capped")
    expect(page.get_by_label("Why: Compliance")).to_have_value("")
    expect(page.get_by_label("Comment", exact=True)).to_have_value("")
    expect_drafts(page, 0)


def test_drafts_are_their_writers_and_go_when_one_signs_out(desk: Desk) -> None:
    page = desk.open(DEAL, "ada")
    page.get_by_label("Summary").fill("Between us")
    expect_drafts(page, 1)
    cookie = {"name": "session", "value": desk.session("mira"), "url": desk.address}
    page.context.add_cookies([cookie])  # type: ignore[list-item]
    page.reload()
    expect(page.get_by_label("Summary")).not_to_have_value("Between us")
    expect_drafts(page, 1)
    cookie["value"] = desk.session("ada")
    page.context.add_cookies([cookie])  # type: ignore[list-item]
    page.reload()
    expect(page.get_by_label("Summary")).to_have_value("Between us")
    page.get_by_label("Account of ada").click()
    page.get_by_role("button", name="Sign out").click()
    expect(page.get_by_role("heading", name="Sign in")).to_be_visible()
    expect_drafts(page, 0)


def test_what_can_no_longer_be_saved_is_shown(desk: Desk) -> None:
    page = desk.open(DEAL, "ada")
    page.get_by_label("Summary").fill("Too late")
    scores = json.dumps({key: {"score": 1, "comment": ""} for key in SEVEN})
    desk.query(
        "update assessments set status = 'SUBMITTED', scores = %s, recommendation = 'NO_BID',"
        " submitted_by = 2, submitted_at = now(), weighted_score = 20, revision = revision + 1",
        scores,
    )
    page.get_by_role("button", name="Save", exact=True).click()
    desk.expect_refusal(412)
    left = page.locator("#leftovers")
    expect(left).to_contain_text("You wrote this, and it was not saved")
    expect(left.locator("dd")).to_have_text("Too late")
    assert violations(page) == []
    left.get_by_role("button", name="Discard").click()
    expect(left).to_be_empty()


@pytest.mark.parametrize("is_reloaded", [False, True])
def test_two_versions_are_chosen_from_field_by_field(desk: Desk, is_reloaded: bool) -> None:
    one, other = desk.open(DEAL, "mira"), desk.open(DEAL, "ada")
    other.get_by_label("Why: Risk").fill("Only ada's")
    other.get_by_label("Summary").fill("From ada")
    score(other, "Strategic fit", 1)
    score(other, "Risk", 2)
    one.get_by_label("Summary").fill("From mira")
    one.get_by_label("Don't bid").check()
    score(one, "Strategic fit", 0)
    one.get_by_role("button", name="Save", exact=True).click()
    expect(one.locator("#messages")).to_contain_text("Saved.")

    if is_reloaded:
        other.reload()
    else:
        other.get_by_role("button", name="Save", exact=True).click()
        desk.expect_refusal(412)
    dialog = other.get_by_role("dialog", name="Two of you")
    expect(dialog).to_contain_text("Mira Kowalchik saved another version")
    assert violations(other) == []
    row = dialog.get_by_role("row", name="Summary")
    expect(row.get_by_role("radio", name="From mira")).to_be_visible()
    expect(row.get_by_role("radio", name="From ada")).to_be_checked()
    risk = dialog.get_by_role("row", name="Why: Risk")
    expect(risk.get_by_role("radio", name="Only ada's")).to_be_checked()
    dialog.get_by_role("row", name="Strategic fit").get_by_role("radio", name="0").check()
    dialog.get_by_role("button", name="Save what is chosen").click()
    expect(other.locator("#messages")).to_contain_text("Saved.")
    (saved,) = desk.query("select * from assessments where opportunity_id = 3")
    assert saved["summary"] == "From ada"
    assert saved["recommendation"] == "NO_BID"
    assert saved["scores"]["risk"]["comment"] == "Only ada's"
    assert saved["scores"]["strategic_fit"]["score"] == 0
    expect_drafts(other, 0)


def test_one_may_take_all_of_the_others_version(desk: Desk) -> None:
    one, other = desk.open(DEAL, "mira"), desk.open(DEAL, "ada")
    for page in (one, other):
        page.get_by_label("Summary").fill("From mira" if page is one else "From ada")
        page.get_by_label("Why: Risk").fill("mira" if page is one else "ada")
        score(page, "Risk", 2)
    one.get_by_role("button", name="Save", exact=True).click()
    expect(one.locator("#messages")).to_contain_text("Saved.")
    other.get_by_role("button", name="Save", exact=True).click()
    desk.expect_refusal(412)
    other.get_by_role("button", name="Go on writing").click()
    expect(other.get_by_label("Summary")).to_have_value("From ada")
    other.get_by_role("button", name="Save", exact=True).click()
    other.get_by_role("button", name="Take all of theirs").click()
    other.get_by_role("button", name="Save what is chosen").click()
    expect(other.locator("#messages")).to_contain_text("Saved.")
    (saved,) = desk.query("select * from assessments where opportunity_id = 3")
    assert (saved["summary"], saved["scores"]["risk"]["comment"]) == ("From mira", "mira")
