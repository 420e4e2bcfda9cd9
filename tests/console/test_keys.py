"""Keys: through the deals of a page, and to anything by its name."""

import re

from playwright.sync_api import expect

from tests.console.conftest import Desk
from tests.console.demo import OWNERS


def test_a_list_is_worked_by_single_keys(desk: Desk) -> None:
    page = desk.open("/opportunities", "ada")
    names = page.locator(".deals a.name")
    for key, place in (("j", 0), ("j", 1), ("j", 2), ("k", 1)):
        page.keyboard.press(key)
        expect(names.nth(place)).to_be_focused()
    page.keyboard.press("x")
    expect(page.get_by_role("region", name="Chosen deals")).to_contain_text("1 chosen")
    page.keyboard.press("/")
    search = page.get_by_label("Search names, customers, numbers")
    expect(search).to_be_focused()
    page.keyboard.type("jk?")
    expect(search).to_have_value("jk?")
    page.get_by_role("heading", name="Opportunities").click()
    page.keyboard.press("?")
    keys = page.get_by_role("dialog", name="Keys")
    keys.get_by_label("Keys without Ctrl work").uncheck()
    keys.get_by_role("button", name="Close").click()
    page.keyboard.press("?")
    expect(keys).to_be_hidden()


def test_ctrl_k_leads_to_deals_numbers_people_and_pages(desk: Desk) -> None:
    (deal,) = desk.query(
        "select id, opty_number, remote_id from opportunities"
        " where deleted_at is null order by id offset 50 limit 1"
    )
    page = desk.open("/dashboard", "ada")
    field = page.get_by_role("searchbox", name="Deals, numbers, people and pages")
    found = page.locator("#found")

    def look_for(words: str) -> None:
        page.keyboard.press("Control+k")
        expect(field).to_be_focused()
        page.keyboard.type(words)

    look_for("mira")
    expect(found.get_by_role("link", name="Mira Kowalchik Assigned deals")).to_be_visible()
    field.fill(OWNERS[3])
    expect(found.get_by_role("link", name=f"{OWNERS[3]} Owner of deals")).to_be_visible()
    field.fill("waiting")
    expect(found.get_by_role("link", name="Deals: Waiting for me")).to_be_visible()
    field.fill("audit trail")  # a page of admins
    expect(found).to_contain_text("Nothing fits “audit trail”.")
    page.keyboard.press("Escape")
    for number in (deal["opty_number"], deal["remote_id"]):
        page.goto("/dashboard")  # the next page is another one than this
        look_for(number)
        page.keyboard.press("Enter")
        expect(page).to_have_url(re.compile(f"/opportunities/{deal['id']}$"))
    look_for("boa")
    expect(found.get_by_role("link", name="Board", exact=True)).to_be_visible()
    page.keyboard.press("ArrowDown")
    expect(found.locator("a:focus")).to_have_count(1)
    found.get_by_role("link", name="Board", exact=True).press("Enter")
    expect(page).to_have_url(re.compile("/board$"))
