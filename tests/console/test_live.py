"""Open pages: each says how fresh it is, and offers what has changed since it was read."""

import psycopg
import pytest
from playwright.sync_api import expect

from tests.api.conftest import Command, command
from tests.console.conftest import Desk

__all__ = ["command"]

CURRENT = "It is up to date."


def test_a_list_tells_of_deals_that_changed_and_shows_them(desk: Desk) -> None:
    page = desk.open("/opportunities?sort=-first_synced_at", "vera")
    changed = page.locator("#changed")
    expect(page.locator("#fresh")).to_contain_text(CURRENT)
    expect(changed).to_be_hidden()
    heading = page.get_by_role("columnheader", name="Customer")
    place = heading.bounding_box()
    # In the page's own time nothing was committed of this merge, which began before.
    with psycopg.connect(desk.database) as merge:
        merge.execute("update opportunities set stage = 'x' where id in (3, 4)")
        merge.execute("insert into opportunities (remote_id, name) values ('n', 'Just arrived')")
    expect(changed).to_contain_text("3 deals have changed since this page was read")
    assert heading.bounding_box() == place  # or a click would meet something else
    expect(page.locator("#fresh")).not_to_contain_text(CURRENT)
    desk.query("update opportunities set stage = 'y' where id = 4")
    desk.query("update opportunities set stage = 'y' where id = 5")
    expect(changed).to_contain_text("4 deals have changed")
    changed.get_by_role("button", name="Show").click()
    expect(page.locator(".deals tbody tr").first).to_contain_text("Just arrived")
    expect(changed).to_be_hidden()
    expect(page.locator("#fresh")).to_contain_text(CURRENT)


def test_a_merge_that_began_before_the_page_was_read_is_told_of(desk: Desk) -> None:
    with psycopg.connect(desk.database) as merge:
        merge.execute("update opportunities set stage = 'x' where id = 3")
        page = desk.open("/board", "vera")
        expect(page.locator("#fresh")).to_contain_text(CURRENT)
    expect(page.locator("#changed")).to_contain_text("1 deal has changed")


def test_a_deal_tells_of_itself_alone(desk: Desk) -> None:
    page = desk.open("/opportunities/3", "ada")
    page.get_by_label("Summary").fill("Half a thought")
    desk.query("update opportunities set stage = 'x' where id = 4")
    desk.query("update opportunities set stage = 'x' where id = 3")
    expect(page.locator("#changed")).to_contain_text("This deal has changed")
    page.get_by_role("button", name="Show").click()
    expect(page.locator(".facts")).to_contain_text("x")
    expect(page.get_by_label("Summary")).to_have_value("Half a thought")


@pytest.mark.parametrize("width", [390, 1280])
def test_what_a_page_tells_covers_nothing_at_its_end(desk: Desk, width: int) -> None:
    page = desk.open("/opportunities/3", "ada", viewport={"width": width, "height": 800})
    expect(page.locator("#fresh")).to_contain_text("Read")
    desk.query("update opportunities set stage = 'x' where id = 3")
    changed = page.locator("#changed")
    expect(changed).to_be_visible()
    page.evaluate("scrollTo(0, document.body.scrollHeight)")
    last = page.locator("#lineage").bounding_box()
    assert last
    notice = changed.bounding_box()
    assert notice
    assert notice["y"] >= last["y"] + last["height"]


def test_ones_own_moves_are_seen_anyway(desk: Desk) -> None:
    page = desk.open("/board", "ada")
    other = desk.open("/board", "mira")
    expect(page.locator("#fresh")).to_contain_text(CURRENT)
    expect(other.locator("#fresh")).to_contain_text(CURRENT)
    page.locator(".lane[data-state=NEW] .deal").first.get_by_role("link").focus()
    page.keyboard.press("Alt+ArrowRight")
    expect(page.get_by_role("combobox", name="Assign to", exact=True)).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    expect(other.locator("#changed")).to_contain_text("1 deal has changed")
    expect(page.locator("#changed")).to_be_hidden()


def test_a_list_that_is_filtered_anew_is_fresh(desk: Desk) -> None:
    page = desk.open("/opportunities", "vera")
    expect(page.locator("#fresh")).to_contain_text(CURRENT)
    desk.query("update opportunities set stage = 'x' where id = 3")
    expect(page.locator("#changed")).to_be_visible()
    page.get_by_label("Search names, customers, numbers").fill("alder bank")
    expect(page.locator("td[data-label=Customer]").first).to_have_text("Alder Bank")
    expect(page.locator("#changed")).to_be_hidden()
    desk.query("update opportunities set stage = 'y' where id = 3")
    expect(page.locator("#changed")).to_contain_text("1 deal has changed")


def test_a_page_has_one_stream(desk: Desk) -> None:
    page = desk.open("/sync", "vera")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.reload()
    expect(page.locator("#fresh")).to_contain_text("Read")
    page.wait_for_timeout(1500)
    assert len([url for url in asked if "/events" in url]) == 1


# How many deals the run found as they were, and what the page makes of it.
@pytest.mark.parametrize(
    ("unchanged", "words"),
    [
        (1, "The deal is as it is in the CRM."),
        (0, "The CRM does not show this deal"),
    ],
)
def test_a_deal_is_refreshed_on_its_page(
    desk: Desk, command: Command, unchanged: int, words: str
) -> None:
    viewer = desk.open("/opportunities/3", "vera")
    expect(viewer.get_by_role("button", name="Refresh this deal")).to_have_count(0)
    page = desk.open("/opportunities/3", "ada")
    page.get_by_role("button", name="Refresh this deal").click()
    expect(page.locator("#messages")).to_contain_text("Reading the deal from the CRM")
    page.get_by_role("button", name="Refresh this deal").click()
    expect(page.locator("#messages")).to_contain_text("A refresh of a deal is under way.")
    desk.expect_refusal(409)
    desk.query(
        "update sync_runs set transform_succeeded = true, transform_completed_at = now(),"
        " transform_started_at = now(), extraction_completed = true, ended_at = now(),"
        " new_records = 0, updated_records = 0, failed_records = 0, unchanged_records = %s"
        " where kind = 'refresh'",
        unchanged,
    )
    expect(page.locator("#messages")).to_contain_text(words)
