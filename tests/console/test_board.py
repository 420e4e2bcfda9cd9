"""The board: move a deal by mouse, by keyboard and by choice."""

import re

from playwright.sync_api import Locator, Page, Request, expect

from tests.console.conftest import Desk


def first(page: Page, state: str) -> tuple[int, Locator]:
    card = page.locator(f".lane[data-state={state}] .deal").first
    return int(card.get_attribute("data-deal") or ""), card


def in_lane(page: Page, state: str, deal: int) -> Locator:
    return page.locator(f".lane[data-state={state}] .deal[data-deal='{deal}']")


def test_drag_a_card_to_the_next_lane_and_undo(desk: Desk) -> None:
    page = desk.open("/board", "ada")
    deal, card = first(page, "NEW")
    desk.query("update opportunities set deal_value = 90000000 where id = %s", deal)
    question = page.get_by_role("dialog", name="Who is to work on it?")
    card.drag_to(page.locator(".lane[data-state=ASSIGNED] h2"))
    question.get_by_role("button", name="Cancel").click()
    expect(question).to_be_hidden()
    expect(in_lane(page, "NEW", deal)).to_be_visible()
    assert desk.deal(deal)["workflow_status"] == "NEW"
    card.drag_to(page.locator(".lane[data-state=ASSIGNED] h2"))
    # Who is no manager takes it, or nobody does.
    offered = question.locator("option:not([hidden])")
    expect(offered).to_have_text([re.compile("Nobody"), re.compile(r"Ada Bellweather\s*\(me\)")])
    question.get_by_role("button", name="Assign", exact=True).click()
    expect(in_lane(page, "ASSIGNED", deal)).to_contain_text("Ada Bellweather")
    assert (desk.deal(deal)["workflow_status"], desk.deal(deal)["assigned_to"]) == ("ASSIGNED", 2)
    page.get_by_role("button", name="Undo").click()
    expect(in_lane(page, "NEW", deal)).to_be_visible()
    assert (desk.deal(deal)["workflow_status"], desk.deal(deal)["assigned_to"]) == ("NEW", None)


def test_a_card_can_only_be_dropped_where_it_may_go(desk: Desk) -> None:
    page = desk.open("/board", "ada")
    deal, card = first(page, "NEW")
    requests: list[Request] = []
    page.on("request", lambda request: requests.append(request))
    card.drag_to(page.locator(".lane[data-state=PENDING_REVIEW] h2"))
    expect(page.locator(".dragged, .lane.open")).to_have_count(0)
    expect(in_lane(page, "NEW", deal)).to_be_visible()
    expect(page.locator("#messages")).to_contain_text(
        "From New it can't go to Pending review. It is reached by submitting the deal's assessment."
        " It may go to: Assigned."
    )
    # The titles of the lanes stay where they are seen.
    title = page.get_by_role("heading", name="New")
    page.locator(".lane[data-state=NEW] .deal").last.scroll_into_view_if_needed()
    expect(title).to_be_in_viewport()
    assert [request.url for request in requests if request.method != "GET"] == []
    assert desk.deal(deal)["workflow_status"] == "NEW"


def test_move_by_keyboard_and_keep_the_focus(desk: Desk) -> None:
    page = desk.open("/board", "ada")
    deal, card = first(page, "NEW")
    desk.query("update opportunities set deal_value = 90000000 where id = %s", deal)
    card.get_by_role("link").focus()
    for state in ("ASSIGNED", "UNDER_ASSESSMENT"):
        page.keyboard.press("Alt+ArrowRight")
        if state == "ASSIGNED":
            expect(page.get_by_label("Assign to")).to_be_focused()
            page.keyboard.press("Enter")
        expect(in_lane(page, state, deal).get_by_role("link")).to_be_focused()
    page.keyboard.press("Alt+ArrowLeft")
    expect(page.get_by_label("Assign to")).to_have_value("2")
    page.keyboard.press("Enter")
    expect(in_lane(page, "ASSIGNED", deal).get_by_role("link")).to_be_focused()
    page.keyboard.press("Alt+ArrowRight")
    expect(in_lane(page, "UNDER_ASSESSMENT", deal).get_by_role("link")).to_be_focused()
    assert desk.deal(deal)["workflow_status"] == "UNDER_ASSESSMENT"


def test_move_by_choice_among_filtered_deals(desk: Desk) -> None:
    page = desk.open("/board?geo=EMEA", "mira")
    deal, card = first(page, "PENDING_REVIEW")
    card.get_by_role("combobox").select_option(label="Under assessment")
    expect(page.locator("#messages")).to_contain_text("Under assessment")
    assert desk.deal(deal)["workflow_status"] == "UNDER_ASSESSMENT"
    expect(page.get_by_label("Remove the filter Geo: EMEA")).to_be_visible()
    deal, card = first(page, "NEW")
    choice = card.get_by_role("combobox")
    choice.select_option(label="Assigned")
    page.keyboard.press("Escape")
    expect(choice).to_have_value("NEW")
    choice.select_option(label="Assigned")
    page.get_by_label("Assign to").select_option(label="Ada Bellweather")
    page.get_by_role("button", name="Assign", exact=True).click()
    expect(page.locator("#messages")).to_contain_text("Assigned, Ada Bellweather")
    assert desk.deal(deal)["assigned_to"] == 2


def test_a_viewer_moves_nothing(desk: Desk) -> None:
    page = desk.open("/board", "vera")
    assert page.locator(".deal").count() > 20
    assert page.locator(".deal[draggable], .deal select").count() == 0


def test_what_the_crm_closed_is_not_on_the_board(desk: Desk) -> None:
    page = desk.open("/board", "ada")
    deal, _ = first(page, "NEW")
    other = int(page.locator(".lane[data-state=NEW] .deal").nth(1).get_attribute("data-deal") or "")
    desk.query("update opportunities set crm_outcome = 'LOST' where id = %s", deal)
    desk.query("update opportunities set crm_outcome = null where id = %s", other)
    page.reload()
    expect(in_lane(page, "NEW", other)).to_be_visible()
    expect(in_lane(page, "NEW", deal)).to_have_count(0)
