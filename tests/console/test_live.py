"""Open pages: each says how fresh it is, and offers what has changed since it was read."""

import psycopg
from playwright.sync_api import expect

from tests.console.conftest import Desk

CURRENT = "It is up to date."


def test_a_list_tells_of_deals_that_changed_and_shows_them(desk: Desk) -> None:
    page = desk.open("/opportunities?sort=-first_synced_at", "vera")
    changed = page.locator("#changed")
    expect(page.locator("#fresh")).to_contain_text(CURRENT)
    expect(changed).to_be_hidden()
    # In the page's own time nothing was committed of this merge, which began before.
    with psycopg.connect(desk.database) as merge:
        merge.execute("update opportunities set stage = 'x' where id in (3, 4)")
        merge.execute("insert into opportunities (remote_id, name) values ('n', 'Just arrived')")
    expect(changed).to_contain_text("3 deals have changed since this page was read")
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


def test_ones_own_moves_are_seen_anyway(desk: Desk) -> None:
    page = desk.open("/board", "ada")
    other = desk.open("/board", "mira")
    expect(page.locator("#fresh")).to_contain_text(CURRENT)
    expect(other.locator("#fresh")).to_contain_text(CURRENT)
    page.locator(".lane[data-state=NEW] .deal").first.get_by_role("link").focus()
    page.keyboard.press("Alt+ArrowRight")
    expect(page.get_by_role("button", name="Undo")).to_be_visible()
    expect(other.locator("#changed")).to_contain_text("1 deal has changed")
    expect(page.locator("#changed")).to_be_hidden()


def test_a_list_that_is_filtered_anew_is_fresh(desk: Desk) -> None:
    page = desk.open("/opportunities", "vera")
    expect(page.locator("#fresh")).to_contain_text(CURRENT)
    desk.query("update opportunities set stage = 'x' where id = 3")
    expect(page.locator("#changed")).to_be_visible()
    page.get_by_label("Search names and customers").fill("alder bank")
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
