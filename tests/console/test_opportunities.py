"""The table: find, sort, choose, page on, export, and move a deal."""

import csv
import re

import pytest
from openpyxl import load_workbook
from playwright.sync_api import Locator, Page, Route, expect

from tests.console.conftest import Desk
from tests.console.demo import LONG, ODD_NAMES, OWNERS


def names(page: Page) -> list[str]:
    return page.locator(".deals tbody .name").all_inner_texts()


def move(row: Locator, state: str) -> None:
    row.get_by_role("button", name="Workflow status").click()
    row.page.get_by_role("menu").get_by_role("menuitem", name=state, exact=True).click()


def for_whom(page: Page) -> Locator:
    return page.get_by_role("dialog", name="Who is to work on it?")


def assign(page: Page) -> None:
    for_whom(page).get_by_role("button", name="Assign", exact=True).click()


def test_search_as_you_type(desk: Desk) -> None:
    page = desk.open("/opportunities", "vera")
    expect(page.get_by_text("395 opportunities")).to_be_visible()
    page.get_by_label("Search names, customers, numbers").press_sequentially("kestral airline")
    expect(page).to_have_url(re.compile(r"search=kestral\+airline"))
    customers = page.locator("td[data-label=Customer]")
    expect(page.get_by_label("Remove the filter “kestral airline”")).to_be_visible()
    expect(customers.filter(has_text="Kestrel Airlines")).not_to_have_count(0)
    expect(customers.filter(has_not_text="Kestrel Airlines")).to_have_count(0)
    page.get_by_label("Remove the filter “kestral airline”").click()
    expect(page.get_by_text("395 opportunities")).to_be_visible()
    (deal,) = desk.query(
        "select id, opty_number, remote_id from opportunities"
        " where deleted_at is null order by id limit 1 offset 200"
    )
    for number in (deal["opty_number"], deal["remote_id"]):
        page.get_by_label("Search names, customers, numbers").fill(number)
        expect(page).to_have_url(re.compile(f"search={number}"))
        first = page.locator(".deals tbody .name").first
        expect(first).to_have_attribute("href", f"/opportunities/{deal['id']}")


def test_filters_add_up_and_the_address_holds_them(desk: Desk) -> None:
    page = desk.open("/opportunities", "vera")
    page.locator("summary", has_text="Stage").click()
    page.get_by_label("04 - Proposal").check()
    page.keyboard.press("Escape")
    expect(page).to_have_url(re.compile("stage=04"))
    page.locator("summary", has_text="Value").click()
    page.get_by_role("spinbutton", name="From").fill("1000000")
    page.keyboard.press("Tab")
    expect(page).to_have_url(re.compile(r"min_value=1000000"))
    counted = desk.query(
        "select count(*) from opportunities where stage = '04 - Proposal'"
        " and deal_value >= 1000000 and deleted_at is null"
    )[0]["count"]
    expect(page.get_by_role("status").first).to_have_text(re.compile(rf"^{counted} opportunit"))
    shown = names(page)
    page.reload()
    assert names(page) == shown
    assert page.locator("summary", has_text="Stage").locator(".count").inner_text() == "1"
    page.get_by_role("link", name="Clear").click()
    expect(page).to_have_url(re.compile("/opportunities$"))


@pytest.mark.parametrize(
    ("title", "choice", "condition"),
    [
        ("Workflow", "Pending review", "workflow_status = 'PENDING_REVIEW'"),
        ("Stage", "02 - Discovery", "stage = '02 - Discovery'"),
        ("Practice", "Data & AI", "practice = 'Data & AI'"),
        ("Geo", "APAC", "geo = 'APAC'"),
        ("Owner", OWNERS[3], "sales_owner = '300000000010003'"),
        ("Assigned", "يوسف الخطيب", "assigned_to = (select id from users where name = 'yusuf')"),
    ],
)
def test_a_filter_leaves_what_it_says(desk: Desk, title: str, choice: str, condition: str) -> None:
    page = desk.open(
        "/opportunities?limit=1000&region=Region+0&region=Region+1&region=Region+3", "vera"
    )
    page.locator("summary", has_text=title).click()
    page.get_by_role("group", name=title).get_by_label(choice, exact=True).check()
    expect(page.get_by_label("Filters that are set")).to_contain_text(choice)
    ids = "select array_agg('deal-' || id order by id) as ids from opportunities"
    regions = "region in ('Region 0', 'Region 1', 'Region 3')"
    (expected,) = desk.query(f"{ids} where {condition} and {regions} and deleted_at is null")
    shown = [row.get_attribute("id") for row in page.locator(".deals tbody tr").all()]
    assert shown == expected["ids"]


def test_value_range_and_closing_window(desk: Desk) -> None:
    page = desk.open("/opportunities?limit=1000", "vera")
    (window,) = desk.query("select current_date + 10 as first, current_date + 120 as last")
    for title, first, last in (
        ("Value", "50000", "900000"),
        ("Closing", str(window["first"]), str(window["last"])),
    ):
        page.locator("summary", has_text=title).click()
        group = page.get_by_role("group", name=title)
        group.get_by_label("From").fill(first)
        group.get_by_label("To", exact=True).fill(last)
        page.keyboard.press("Tab")
        page.keyboard.press("Escape")
    expect(page.get_by_label("Filters that are set").get_by_role("listitem")).to_have_count(5)
    (expected,) = desk.query(
        "select array_agg('deal-' || id order by id) as ids from opportunities"
        " where deal_value between 50000 and 900000 and close_date between %s and %s"
        " and deleted_at is null",
        window["first"],
        window["last"],
    )
    shown = [row.get_attribute("id") for row in page.locator(".deals tbody tr").all()]
    assert shown == expected["ids"]


def test_sort_by_choice_on_a_phone(desk: Desk) -> None:
    page = desk.open("/opportunities?geo=EMEA", "vera", viewport={"width": 390, "height": 844})
    page.get_by_label("Sort").select_option(label="Value ▼")
    expect(page).to_have_url(re.compile(r"geo=EMEA&sort=-deal_value$"))
    expect(page.get_by_label("Sort")).to_have_value("-deal_value")
    values = page.locator("td[data-label=Value] data")
    read = [float(value.get_attribute("value") or 0) for value in values.all()]
    assert len(read) > 20
    assert read == sorted(read, reverse=True)


def test_a_phone_has_the_filters_behind_a_button(desk: Desk) -> None:
    page = desk.open("/opportunities", "vera", viewport={"width": 390, "height": 844})
    stage = page.locator("#filters summary", has_text="Stage")
    expect(stage).to_be_hidden()
    page.get_by_label("Search names, customers, numbers").focus()
    page.keyboard.press("Tab")
    button = page.get_by_role("button", name="Filters")
    expect(button).to_be_focused()
    page.keyboard.press("Enter")
    expect(button).to_have_attribute("aria-expanded", "true")
    stage.click()
    page.get_by_label("04 - Proposal").check()
    expect(page).to_have_url(re.compile("stage=04"))
    page.keyboard.press("Escape")
    expect(stage.locator(".count")).to_have_text("1")
    button.click()
    expect(stage).to_be_hidden()
    expect(page.get_by_label("Remove the filter Stage: 04 - Proposal")).to_be_visible()
    page.set_viewport_size({"width": 1280, "height": 800})
    expect(stage).to_be_visible()
    expect(button).to_be_hidden()


def test_an_answer_that_comes_late_replaces_no_newer_one(desk: Desk) -> None:
    page = desk.open("/opportunities", "vera")
    held: list[Route] = []
    page.route(re.compile("search=alder&"), lambda route: held.append(route))
    search = page.get_by_label("Search names, customers, numbers")
    with page.expect_request(re.compile("search=alder&")):
        search.fill("alder")
    expect(page.locator("#filters.htmx-request")).to_be_visible()
    search.fill("kestrel")
    for route in held:
        route.continue_()
    expect(page).to_have_url(re.compile("search=kestrel$"))
    expect(page.locator("#filters.htmx-request")).to_have_count(0)
    expect(page.locator("td[data-label=Customer]").first).to_have_text("Kestrel Airlines")


def test_closing_window_and_presets(desk: Desk) -> None:
    page = desk.open("/opportunities", "ada")
    page.get_by_role("link", name="Closing in 30 days").click()
    expect(page.get_by_role("link", name="Closing in 30 days")).to_have_attribute(
        "aria-current", "true"
    )
    (counted,) = desk.query(
        "select count(*) from opportunities where deleted_at is null and close_date"
        " between (now() at time zone 'UTC')::date and (now() at time zone 'UTC')::date + 30"
    )
    expect(page.get_by_role("status").first).to_have_text(
        re.compile(rf"^{counted['count']} opportunit")
    )
    page.get_by_role("link", name="Mine").click()
    expect(page.get_by_role("link", name="Mine")).to_have_attribute("aria-current", "true")
    assigned = page.locator("td[data-label=Assigned]")
    expect(assigned.filter(has_text="Ada Bellweather")).not_to_have_count(0)
    expect(assigned.filter(has_not_text="Ada Bellweather")).to_have_count(0)


def test_sort_by_a_column_both_ways(desk: Desk) -> None:
    page = desk.open("/opportunities?min_value=1", "vera")
    values = page.locator("td[data-label=Value] data")
    page.get_by_role("link", name="Value", exact=True).click()
    expect(page.locator("th[aria-sort=ascending]")).to_have_text(re.compile("Value"))
    page.locator("th[aria-sort=ascending]").get_by_role("link").click()
    expect(page.locator("th[aria-sort=descending]")).to_have_text(re.compile("Value"))
    read = [float(value.get_attribute("value") or 0) for value in values.all()]
    assert read == sorted(read, reverse=True)
    assert read[0] == desk.query("select max(deal_value) as most from opportunities")[0]["most"]


def test_columns_are_a_choice(desk: Desk) -> None:
    page = desk.open("/opportunities", "vera")
    page.locator("summary", has_text="Columns").click()
    page.get_by_role("checkbox", name="Sector", exact=True).check()
    expect(page.get_by_role("columnheader", name="Sector")).to_be_visible()
    page.get_by_label("Win", exact=True).uncheck()
    expect(page.get_by_role("columnheader", name="Win")).to_have_count(0)
    page.get_by_label("Deleted deals too").check()
    expect(page.get_by_text("400 opportunities")).to_be_visible()
    page.get_by_role("button", name="Move the column Stage up").click()
    headers = ["Opportunity", "Stage", "Customer", "Workflow", "Value", "Closes", "Assigned"]
    expect(page.get_by_role("columnheader")).to_have_text([*headers, "Sector"])
    page.keyboard.press("Escape")
    page.get_by_role("link", name="Value", exact=True).click()
    expect(page.locator("th[aria-sort=ascending]")).to_have_text(re.compile("Value"))
    # They are there again on the next visit, and a row that is swapped alone has them, too.
    page.goto("/opportunities?geo=EMEA")
    expect(page.get_by_role("columnheader")).to_have_text(
        [*headers[:4], re.compile("Value"), *headers[5:], "Sector"]
    )
    expect(page.locator("th[aria-sort=ascending]")).to_have_text(re.compile("Value"))


def test_a_view_is_saved_by_name(desk: Desk) -> None:
    page = desk.open("/opportunities?geo=EMEA&sort=-deal_value&columns=sector", "vera")
    views = page.get_by_role("navigation", name="Views")
    page.locator("summary", has_text="Save view").click()
    page.get_by_label("Name", exact=True).fill("Our region")
    page.get_by_label("For everybody").check()
    page.get_by_role("button", name="Save", exact=True).click()
    expect(views.get_by_role("link", name="Our region")).to_have_attribute("aria-current", "true")
    page.locator("summary", has_text="Geo").click()
    page.get_by_label("APAC", exact=True).check()
    expect(views.locator("[aria-current]")).to_have_count(0)
    other = desk.open("/opportunities", "ada")
    views = other.get_by_role("navigation", name="Views")
    expect(views.get_by_role("link", name="All", exact=True)).to_have_attribute(
        "aria-current", "true"
    )
    expect(other.get_by_role("button", name="Delete the view Our region")).to_have_count(0)
    views.get_by_role("link", name="Our region").click()
    expect(other).to_have_url(re.compile(r"geo=EMEA"))
    expect(other.get_by_role("columnheader")).to_have_text(["Opportunity", "Sector"])
    assert "sort=-deal_value" in other.url
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Delete the view Our region").click()
    expect(page.get_by_role("link", name="Our region")).to_have_count(0)
    # Versions before kept views in the browser alone.
    page.evaluate(
        """localStorage.setItem(
            "views", JSON.stringify([{name: "Old one", query: "?geo=APAC"}])
        )"""
    )
    page.goto("/opportunities")
    expect(page.get_by_role("link", name="Old one")).to_have_attribute("href", re.compile("APAC"))


def test_each_deal_comes_once_page_by_page(desk: Desk) -> None:
    page = desk.open("/opportunities?limit=100", "vera")
    rows = page.locator(".deals tbody tr:not(.more)")
    formatted = page.locator(".deals [data-format]").first
    formatted.evaluate("element => element.textContent = 'written once'")
    for shown in (100, 200, 300, 395):
        expect(rows).to_have_count(shown)
        if shown < 395:
            page.locator("#more").scroll_into_view_if_needed()
    expect(page.locator("#more")).to_have_count(0)
    ids = [row.get_attribute("id") for row in rows.all()]
    assert len(ids) == len(set(ids)) == 395
    # What comes in does not make the browser write again what stands there.
    expect(formatted).to_have_text("written once")
    # One comes back to the row from which one went, among all that were there.
    rows.nth(300).get_by_role("link").click()
    expect(page.get_by_role("navigation", name="Views")).to_have_count(0)
    page.go_back()
    expect(rows).to_have_count(395)
    expect(rows.nth(300).get_by_role("link")).to_be_focused()
    expect(rows.nth(300)).to_be_in_viewport()


def test_what_is_shown_is_exported(desk: Desk) -> None:
    page = desk.open("/opportunities?geo=APAC&sort=-deal_value&columns=sector", "vera")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    with download.value.path().open(newline="") as file:
        exported = [row["remote_id"] for row in csv.DictReader(file)]
    (expected,) = desk.query(
        "select array_agg(remote_id order by coalesce(deal_value, '-infinity') desc, id desc)"
        " as ids from opportunities where geo = 'APAC' and deleted_at is null"
    )
    assert exported == expected["ids"]
    page.locator("summary", has_text="CSV options").click()
    page.get_by_label("Separator").select_option(label="Semicolon")
    page.get_by_label("Byte order mark").check()
    page.get_by_label("Only the columns that are shown").check()
    page.reload()  # it remembers them
    with page.expect_download() as download:
        page.get_by_role("link", name="Export CSV").click()
    head, *lines = download.value.path().read_text(encoding="utf-8").splitlines()
    assert head == "\ufeffremote_id;name;sector"
    assert [line.split(";")[0] for line in lines] == expected["ids"]
    with page.expect_download() as download:
        page.get_by_role("link", name="Export Excel").click()
    with download.value.path().open("rb") as workbook:
        (sheet,) = load_workbook(workbook).worksheets
    titles, *rows = sheet.iter_rows(values_only=True)
    assert titles == ("Remote id", "Name", "Sector")
    assert [row[0] for row in rows] == expected["ids"]


def test_move_and_undo(desk: Desk) -> None:
    page = desk.open("/opportunities?workflow_status=NEW&sort=-deal_value", "ada")
    row = page.locator(".deals tbody tr").first
    deal = int((row.get_attribute("id") or "").removeprefix("deal-"))
    row = page.locator(f"#deal-{deal}")
    desk.query("update opportunities set assigned_to = null where id = %s", deal)
    page.reload()
    move(row, "Assigned")
    expect(for_whom(page)).to_contain_text(desk.deal(deal)["name"])
    for_whom(page).get_by_role("button", name="Cancel").click()
    expect(row.locator("button.move")).to_be_focused()
    expect(row.locator("button.move")).to_have_text("New")
    assert desk.deal(deal)["workflow_status"] == "NEW"
    move(row, "Assigned")
    assign(page)
    expect(page.locator("#messages")).to_contain_text("Assigned, Ada Bellweather")
    expect(row.locator("button.move")).to_have_text("Assigned")
    expect(row.locator("button.move")).to_be_focused()
    expect(row.locator("td[data-label=Assigned]")).to_have_text("Ada Bellweather")
    assert (desk.deal(deal)["workflow_status"], desk.deal(deal)["assigned_to"]) == ("ASSIGNED", 2)
    page.get_by_role("button", name="Undo").click()
    expect(row.locator("button.move")).to_have_text("New")
    assert (desk.deal(deal)["workflow_status"], desk.deal(deal)["assigned_to"]) == ("NEW", None)


def test_many_are_moved_to_whom_one_says(desk: Desk) -> None:
    page = desk.open("/opportunities?workflow_status=NEW&sort=-deal_value", "mira")
    rows = page.locator(".deals tbody tr[data-state]")
    ids = [int(row.get_attribute("data-deal") or "") for row in rows.all()[:2]]
    desk.query("update opportunities set assigned_to = null where id = any(%s)", ids)
    page.reload()
    chosen = page.get_by_role("region", name="Chosen deals")

    def move_chosen() -> None:
        chosen.get_by_label("Move the chosen deals to").select_option(label="Assigned")
        chosen.get_by_role("button", name="Move", exact=True).click()

    def states() -> list[tuple[str, int | None]]:
        deals = [desk.deal(id_) for id_ in ids]
        return [(deal["workflow_status"], deal["assigned_to"]) for deal in deals]

    for id_ in ids:
        page.locator(f"#deal-{id_} [data-pick]").click()
    move_chosen()
    expect(for_whom(page)).to_contain_text("2 chosen")
    expect(for_whom(page).get_by_label("Assign to")).to_have_value("4")  # nobody has them: me
    page.keyboard.press("Escape")
    expect(for_whom(page)).to_be_hidden()
    assert states() == [("NEW", None), ("NEW", None)]
    move_chosen()
    for_whom(page).get_by_label("Assign to").select_option(label="Ada Bellweather")
    assign(page)
    expect(page.locator("#messages")).to_contain_text("2 deals changed.")
    assert states() == [("ASSIGNED", 2), ("ASSIGNED", 2)]
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#messages")).to_contain_text("Taken back: 2 deals changed.")
    assert states() == [("NEW", None), ("NEW", None)]
    # Those of several people stay theirs, unless one says otherwise.
    desk.query("update opportunities set assigned_to = 2 where id = %s", ids[0])
    page.reload()
    for id_ in ids:
        page.locator(f"#deal-{id_} [data-pick]").click()
    move_chosen()
    kept = for_whom(page).locator("option:checked")
    expect(kept).to_have_text("Those who have them now")
    assign(page)
    expect(page.locator("#messages")).to_contain_text("2 deals changed.")
    assert states() == [("ASSIGNED", 2), ("ASSIGNED", None)]


def test_many_are_moved_assigned_and_exported_at_once(desk: Desk) -> None:
    page = desk.open(
        "/opportunities?workflow_status=NEW&sort=-deal_value&columns=assigned_to", "mira"
    )
    rows = page.locator(".deals tbody tr[data-state]")
    ids = [int((row.get_attribute("id") or "")[5:]) for row in rows.all()[:4]]
    page.get_by_role("checkbox", name="Choose", exact=False).nth(1).check()
    page.locator(f"#deal-{ids[3]} [data-pick]").click(modifiers=["Shift"])
    chosen = page.get_by_role("region", name="Chosen deals")
    expect(chosen.get_by_role("status")).to_have_text("4 chosen")
    page.locator(f"#deal-{ids[2]} [data-pick]").uncheck()
    page.locator(f"#deal-{ids[2]} [data-pick]").check()
    desk.query("update opportunities set workflow_status = 'APPROVED' where id = %s", ids[1])
    chosen.get_by_label("Assign the chosen deals to").select_option(label="Ada Bellweather")
    chosen.get_by_role("button", name="Assign", exact=True).click()
    expect(page.locator("#messages")).to_contain_text("4 deals changed.")
    for id_ in ids:
        expect(page.locator(f"#deal-{id_} td[data-label=Assigned]")).to_have_text("Ada Bellweather")
    chosen.get_by_label("Assign the chosen deals to").select_option(label="Nobody")
    chosen.get_by_role("button", name="Assign", exact=True).click()
    for id_ in ids:
        expect(page.locator(f"#deal-{id_} td[data-label=Assigned] .none")).to_be_visible()
    page.locator(f"#deal-{ids[1]}").evaluate("row => row.dataset.state = 'NEW'")  # as it was seen
    chosen.get_by_label("Move the chosen deals to").select_option(label="Assigned")
    chosen.get_by_role("button", name="Move", exact=True).click()
    for_whom(page).get_by_label("Assign to").select_option(label="Nobody")
    assign(page)
    refused = page.get_by_role("dialog", name="3 deals changed, 1 refused.")
    expect(refused.get_by_role("listitem")).to_have_count(1)
    expect(refused).to_contain_text("moved meanwhile: it is Approved")
    refused.get_by_role("button", name="Close").click()

    def states() -> list[str]:
        return [desk.deal(id_)["workflow_status"] for id_ in ids]

    assert states() == ["ASSIGNED", "APPROVED", "ASSIGNED", "ASSIGNED"]
    # Taken back, but what has changed since.
    desk.query("update opportunities set win_probability = 1 where id = %s", ids[2])
    page.get_by_role("button", name="Undo").last.click()
    kept = page.get_by_role("dialog", name="Taken back: 2 deals changed, 1 refused.")
    expect(kept.get_by_role("listitem")).to_contain_text("It has changed since you read it")
    expect(kept.get_by_role("link")).to_have_attribute("href", f"/opportunities/{ids[2]}")
    kept.get_by_role("button", name="Close").click()
    assert states() == ["NEW", "APPROVED", "ASSIGNED", "NEW"]
    with page.expect_download() as download:
        chosen.get_by_role("link", name="CSV").click()
    with download.value.path().open(newline="") as file:
        assert [int(row["id"]) for row in csv.DictReader(file)] == ids
    chosen.get_by_role("button", name="Choose none").click()
    expect(chosen).to_be_hidden()


def test_all_that_match_are_chosen_moved_and_taken_back(desk: Desk) -> None:
    page = desk.open("/opportunities?limit=25&workflow_status=NEW", "ada")
    ids = [
        row["id"]
        for row in desk.query(
            "select id from opportunities where workflow_status = 'NEW' and deleted_at is null"
        )
    ]
    count = len(ids)
    chosen = page.get_by_role("region", name="Chosen deals")
    page.get_by_role("checkbox", name="Choose all that are shown").click()
    expect(chosen.get_by_role("status")).to_have_text("25 chosen")
    chosen.get_by_role("button", name=f"Choose all {count}", exact=True).click()
    expect(chosen.get_by_role("status")).to_have_text(f"{count} chosen")
    # It knows the status of those that have no row, too, and what became of them.
    for state in ("Assigned", "Under assessment"):
        chosen.get_by_label("Move the chosen deals to").select_option(label=state)
        with page.expect_response("**/opportunities/bulk"):
            chosen.get_by_role("button", name="Move", exact=True).click()
            if state == "Assigned":
                assign(page)
        expect(page.locator("tbody button.move", has_text=state)).to_have_count(25)
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("#messages")).to_contain_text(f"Taken back: {count} deals changed.")
    expect(page.locator("tbody button.move", has_text="Assigned")).to_have_count(25)
    (found,) = desk.query(
        "select count(*) from opportunities where id = any(%s) and workflow_status = 'ASSIGNED'",
        ids,
    )
    assert found["count"] == count
    desk.query(
        "insert into opportunities (remote_id, name)"
        " select 'more ' || i, 'More' from generate_series(1, 501) as i"
    )
    page.reload()
    page.get_by_role("checkbox", name="Choose all that are shown").click()
    chosen.get_by_role("button", name="Choose the first 500 of 501", exact=True).click()
    expect(chosen.get_by_role("status")).to_have_text("500 chosen")
    expect(page.locator("#messages")).to_contain_text("The first 500 of 501 deals are chosen")


def test_a_move_of_what_has_moved_meanwhile_is_refused(desk: Desk) -> None:
    page = desk.open("/opportunities?workflow_status=NEW&sort=-deal_value", "mira")
    row = page.locator(".deals tbody tr").first
    deal = int((row.get_attribute("id") or "").removeprefix("deal-"))
    desk.query("update opportunities set workflow_status = 'APPROVED' where id = %s", deal)
    move(row, "Assigned")
    assign(page)
    expect(page.locator("#messages")).to_contain_text("moved meanwhile: it is Approved")
    expect(row.locator("button.move")).to_have_text("New")
    assert desk.deal(deal)["workflow_status"] == "APPROVED"
    desk.expect_refusal(409)


def test_only_moves_that_a_role_may_make_are_offered(desk: Desk) -> None:
    pending = "/opportunities?workflow_status=PENDING_REVIEW"
    page = desk.open(pending, "mira")
    page.locator("button.move").first.press("Enter")
    menu = page.get_by_role("menu", name="Move to")
    expect(menu.get_by_role("menuitem")).to_have_text(["Under assessment"])
    expect(menu.get_by_role("menuitem")).to_be_focused()
    page.keyboard.press("Escape")
    expect(menu).to_be_hidden()
    expect(page.locator("button.move").first).to_be_focused()
    # A browser would look through all fields of a long table for some to fill in.
    assert page.locator(".deals").locator("input, select, textarea, form").count() == 0
    assert desk.open(pending, "ada").locator("button.move").count() == 0
    viewer = desk.open("/opportunities", "vera")
    assert viewer.locator(".deals tbody tr").count() > 0
    assert viewer.locator("button.move").count() == 0
    closed = desk.open("/opportunities?workflow_status=WON", "mira")
    assert closed.locator(".deals tbody tr").count() > 0
    assert closed.locator("button.move").count() == 0


def test_badges(desk: Desk) -> None:
    page = desk.open("/opportunities?include_deleted=true&limit=1000", "vera")
    for badge, condition in (
        ("Deleted", "deleted_at is not null"),
        ("Closed", "crm_outcome in ('WON', 'LOST', 'CLOSED')"),
        ("Rejected", "remote_id in (select remote_id from rejected_records)"),
        (
            "Stale",
            "crm_outcome = 'OPEN' and deleted_at is null"
            " and remote_updated_at < now() - interval '90 days'",
        ),
    ):
        (counted,) = desk.query(f"select count(*) from opportunities where {condition}")  # noqa: S608
        assert counted["count"] > 0
        expect(page.locator(".badge", has_text=badge)).to_have_count(counted["count"])
    (past,) = desk.query(
        "select count(*) from opportunities where crm_outcome = 'OPEN' and deleted_at is null"
        " and close_date < current_date"
    )
    assert past["count"] > 0
    expect(page.locator("td[data-label=Closes]", has_text="(past)")).to_have_count(past["count"])


def test_odd_names_are_shown_as_they_are(desk: Desk) -> None:
    page = desk.open("/opportunities", "vera")
    assert names(page)[: len(ODD_NAMES)] == [
        (name or "").strip() or "(no name)" for name in ODD_NAMES
    ]
    assert page.locator(".deals b").count() == 0
    long = page.get_by_role("link", name=LONG)
    assert long.bounding_box()["width"] < 400  # type: ignore[index]
