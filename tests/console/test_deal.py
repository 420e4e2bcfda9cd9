"""One opportunity: facts and history, and an assessment from the first score to the decision."""

import json
import re

import pytest
from playwright.sync_api import Page, expect

from declared.assessment import SEVEN, Assessment
from tests.console.conftest import Desk
from tests.console.test_quality import violations


def score(page: Page, title: str, points: int) -> None:
    page.get_by_role("group", name=title).get_by_role("radio", name=str(points)).check()


def test_what_the_crm_says_and_what_became_of_it(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ORACLE_BASE_URL", "https://crm.example.com/")
    page = desk.open("/opportunities/3", "vera")
    facts = page.locator(".facts")
    expect(facts).to_contain_text(desk.deal(3)["remote_id"])
    expect(page.locator(".timeline li").first).to_contain_text("Assigned → to Under assessment")
    expect(page.locator(".timeline")).to_contain_text("€900,000")
    link = page.get_by_role("link", name="Open in the CRM")
    address = link.get_attribute("href") or ""
    assert address.startswith("https://crm.example.com/fscmUI/")
    assert desk.deal(3)["remote_id"] in address
    assert page.locator("form[hx-post*=assess], form.assign, select.move").count() == 0
    page.get_by_text("Where each value comes from", exact=True).click()
    stage = page.locator("#lineage tr", has=page.get_by_role("rowheader", name="Stage", exact=True))
    expect(stage).to_contain_text("SalesStage")
    expect(stage).to_contain_text("as it is in the CRM")
    workflow = page.locator("#lineage tr", has_text="the bid team's")
    expect(workflow).to_contain_text("Ada Bellweather")
    assert violations(page) == []


def test_a_move_to_assigned_asks_for_whom(desk: Desk) -> None:
    (deal,) = desk.query(
        "select id from opportunities where workflow_status = 'NEW' and assigned_to is null"
        " and crm_outcome = 'OPEN' and deleted_at is null limit 1"
    )
    page = desk.open(f"/opportunities/{deal['id']}", "ada")
    workflow = page.get_by_label("Workflow status of")
    workflow.select_option(label="Assigned")
    question = page.get_by_role("dialog", name="Who is to work on it?")
    question.get_by_role("button", name="Cancel").click()
    expect(workflow).to_have_value("NEW")
    assert desk.deal(deal["id"])["workflow_status"] == "NEW"
    workflow.select_option(label="Assigned")
    question.get_by_role("button", name="Assign", exact=True).click()
    expect(page.get_by_label("Assigned to", exact=True)).to_have_value("2")
    expect(workflow).to_have_value("ASSIGNED")
    after = desk.deal(deal["id"])
    assert (after["workflow_status"], after["assigned_to"]) == ("ASSIGNED", 2)


def test_a_long_history_comes_in_parts(desk: Desk) -> None:
    desk.query(
        "insert into opportunity_changes (opportunity_id, field, old_value, new_value, changed_by)"
        " select 9, 'deal_value', i::text, (i + 1)::text, 'sync' from generate_series(1, 70) as i"
    )
    page = desk.open("/opportunities/9", "vera")
    entries = page.locator(".timeline li")
    for shown in (31, 61):
        expect(entries).to_have_count(shown)
        page.get_by_role("button", name="Older changes").click()
    expect(entries).to_have_count(71)
    expect(page.get_by_text("First synced")).to_be_visible()


def test_from_the_first_score_to_a_bid(desk: Desk) -> None:
    (deal,) = desk.query(
        "select id from opportunities where workflow_status = 'NEW' and deleted_at is null limit 1"
    )
    path = f"/opportunities/{deal['id']}"
    page = desk.open(path, "ada")
    page.get_by_role("button", name="Begin an assessment").click()
    running = page.locator("#running-score")
    expect(running).to_contain_text("nothing scored yet")
    score(page, "Strategic fit", 5)
    expect(running).to_contain_text("100%")
    score(page, "Chance to win", 2)
    so_far = Assessment().weighted_score({"strategic_fit": 5, "win_chance": 2})
    expect(running).to_contain_text(f"{so_far:g}%")
    expect(running).to_contain_text("2 of 7 scored")
    expect(page.locator("#deal-head .state-under_assessment")).to_be_visible()

    page.get_by_role("button", name="Save and submit").click()
    needed = "Not complete: Competition, Financial value, Delivery, Risk, Compliance, the recommend"
    expect(page.locator("#messages")).to_contain_text(needed)
    desk.expect_refusal(409)
    missing = page.locator("fieldset.missing")
    expect(missing).to_have_count(6)
    expect(missing.first.get_by_role("radio").first).to_be_focused()
    score(page, "Competition", 4)
    expect(missing).to_have_count(5)
    for item in SEVEN.values():
        score(page, item.title, 4)
    page.get_by_label("Why: Risk").fill("Penalties are capped")
    page.get_by_label("Bid", exact=True).check()
    page.get_by_label("Summary").fill("Let us do it")
    page.get_by_role("button", name="Save and submit").click()
    expect(page.get_by_text("A manager decides.")).to_be_visible()
    assert desk.deal(deal["id"])["workflow_status"] == "PENDING_REVIEW"

    boss = desk.open(path, "mira")
    expect(boss.locator("#assessment")).to_contain_text("80%")
    expect(boss.locator("#assessment")).to_contain_text("Penalties are capped")
    boss.get_by_label("Comment on the decision").fill("Go for it")
    boss.get_by_role("button", name="Bid", exact=True).click()
    expect(boss.locator("#deal-head .state-approved")).to_be_visible()
    boss.get_by_text("Version 1:").click()
    expect(boss.get_by_text("Go for it")).to_be_visible()
    assert desk.deal(deal["id"])["workflow_status"] == "APPROVED"


def test_a_vote_is_ticked_off(desk: Desk) -> None:
    votes = [
        {"function": "head", "label": "Practice head", "value": "Cloud"},
        {"function": "management", "label": "Management", "value": None},
    ]
    desk.query(
        "update assessments set status = 'SUBMITTED', recommendation = 'BID', submitted_by = 2,"
        " submitted_at = now(), approvals = %s",
        json.dumps(votes),
    )
    desk.query("update opportunities set workflow_status = 'PENDING_REVIEW' where id = 3")
    desk.query("insert into user_functions values (1, 'management', ''), (3, 'head', 'cloud')")
    page = desk.open("/opportunities/3", "vera")
    listed = page.locator(".votes li")
    expect(listed.nth(0)).to_contain_text("Waits for يوسف الخطيب")
    expect(listed.nth(1)).to_contain_text("Waits for Vera Lindqvall")
    assert violations(page) == []
    page.get_by_label("Comment on the decision").fill("Go for it")
    page.get_by_role("button", name="Bid", exact=True).click()
    expect(listed.nth(1)).to_contain_text("Approved")
    expect(listed.nth(1)).to_contain_text("Go for it")
    expect(page.get_by_role("button", name="Bid", exact=True)).to_have_count(0)
    assert desk.deal(3)["workflow_status"] == "PENDING_REVIEW"
    other = desk.open("/opportunities?waiting_for=me", "yusuf")
    expect(other.locator(".deals tbody tr")).to_have_count(1)


@pytest.mark.parametrize(
    ("button", "outcome", "state"),
    [
        ("Don't bid", "Version 1: No bid", "REJECTED"),
        ("Return for more work", "Version 1: Returned", "UNDER_ASSESSMENT"),
    ],
)
def test_a_manager_declines_or_asks_for_more(
    desk: Desk, button: str, outcome: str, state: str
) -> None:
    scores = json.dumps({key: {"score": 1, "comment": ""} for key in SEVEN})
    desk.query(
        "update assessments set status = 'SUBMITTED', scores = %s, weighted_score = 20,"
        " recommendation = 'NO_BID', submitted_by = 2, submitted_at = now()",
        scores,
    )
    desk.query("update opportunities set workflow_status = 'PENDING_REVIEW' where id = 3")
    page = desk.open("/opportunities/3", "mira")
    expect(page.locator("#assessment")).to_contain_text("Recommendation: Don't bid")
    page.get_by_label("Comment on the decision").fill("The margin is too thin")
    page.get_by_role("button", name=button).click()
    expect(page.locator("#assessment")).to_contain_text(outcome)
    assert desk.deal(3)["workflow_status"] == state
    worker = desk.open("/opportunities/3", "ada")
    worker.get_by_text(outcome).click()
    expect(worker.get_by_text("The margin is too thin")).to_be_visible()
    again = worker.get_by_role("button", name="Assess again").or_(
        worker.get_by_role("button", name="Save and submit")
    )
    expect(again).to_have_count(1 if state == "UNDER_ASSESSMENT" else 0)


def test_a_deal_whose_newer_version_was_rejected_says_so(desk: Desk) -> None:
    page = desk.open("/opportunities/2", "vera")
    expect(page.locator("#deal-head")).to_contain_text("'2026-02-30' is no date")
    desk.query("update rejected_records set resolved_at = now()")
    page.reload()
    expect(page.locator("#deal-head")).not_to_contain_text("could not be loaded")


def test_two_assessors_do_not_overwrite_each_other(desk: Desk) -> None:
    one, other = desk.open("/opportunities/3", "ada"), desk.open("/opportunities/3", "yusuf")
    for page in (one, other):
        page.get_by_label("Summary").fill("From " + ("one" if page is one else "the other"))
    one.get_by_role("button", name="Save", exact=True).click()
    expect(one.locator("#messages")).to_contain_text("Saved.")
    other.get_by_role("button", name="Save", exact=True).click()
    expect(other.get_by_role("dialog", name="Two of you")).to_be_visible()
    desk.expect_refusal(412)
    expect(other.get_by_label("Summary")).to_have_value("From the other")
    (row,) = desk.query("select summary from assessments where opportunity_id = 3")
    assert row["summary"] == "From one"


def test_comment_and_keep_what_is_not_saved(desk: Desk) -> None:
    page = desk.open("/opportunities/3", "ada")
    page.get_by_label("Summary").fill("Half a thought")
    page.get_by_label("Comment", exact=True).fill("<b>Lot 9</b> is capped at 5 %\nשאלה")
    page.get_by_role("button", name="Comment", exact=True).click()
    expect(page.locator(".comments li").last).to_contain_text("<b>Lot 9</b> is capped at 5 %")
    expect(page.locator(".comments li").last).to_contain_text("Ada Bellweather")
    expect(page.get_by_label("Summary")).to_have_value("Half a thought")


def test_assign(desk: Desk) -> None:
    page = desk.open("/opportunities/4", "mira")
    page.get_by_label("Assigned to").select_option(label="Ada Bellweather")
    change = page.locator("#timeline li").first
    expect(change).to_contain_text(re.compile(r"Assigned to\s+nobody\s+→ to\s+Ada Bellweather"))
    expect(change).to_contain_text("Mira Kowalchik")
    assert desk.deal(4)["assigned_to"] == 2
    own = desk.open("/opportunities/4", "ada")
    assert own.get_by_label("Assigned to").locator("option").all_inner_texts() == [
        "Nobody",
        "Ada Bellweather (me)",
    ]
    own.get_by_label("Assigned to").select_option(label="Nobody")
    expect(own.locator("#messages")).to_contain_text("Given back.")
    assert desk.deal(4)["assigned_to"] is None
    own.get_by_role("button", name="Undo").click()
    expect(own.locator("#messages")).to_contain_text("Assigned.")
    expect(own.get_by_label("Assigned to")).to_have_value("2")
    assert desk.deal(4)["assigned_to"] == 2


def test_a_deal_that_is_not_there(desk: Desk) -> None:
    page = desk.open("/opportunities/999999", "vera")
    expect(page.get_by_role("heading", name="Not Found")).to_be_visible()
    desk.expect_refusal(404)
