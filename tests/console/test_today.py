"""Today: what became of the deals since one looked last, and that each count is its rows."""

import re

import psycopg
import pytest
from playwright.sync_api import Page, expect

from tests.console.conftest import Desk

# What a sync may bring, and people do, to deals of the demo data that are open.
CHANGES = """
    insert into opportunities (remote_id, name, deal_value, currency)
    select 'late ' || i, 'Late deal ' || i, 1000 * i, 'EUR' from generate_series(1, 70) as i;
    update opportunities set deal_value = 100, currency = 'EUR', close_date = '2026-01-01',
        stage = '01 - Qualification', crm_outcome = 'OPEN', deleted_at = null
    where id between 20 and 29;
    truncate opportunity_changes;
    update opportunities set deal_value = 150 where id in (20, 21);
    update opportunities set deal_value = 20 where id = 22;
    update opportunities set close_date = '2026-09-30' where id = 23;
    update opportunities set stage = '04 - Proposal' where id between 24 and 25;
    update opportunities set crm_outcome = 'WON' where id = 26;
    update opportunities set crm_outcome = 'LOST' where id = 27;
    update opportunities set deleted_at = now() where id = 28;
    update opportunities set deal_value = 999 where id = 29;
    update opportunities set deal_value = 100 where id = 29;
    update opportunities set deal_value = 7, currency = 'JPY' where id = 30
"""


@pytest.fixture
def busy(desk: Desk) -> Desk:
    """A desk where nothing was before, and a good deal has happened since."""
    desk.query("update opportunities set currency = 'EUR', deal_value = 5 where id = 30")
    desk.query("truncate opportunity_changes, opportunity_arrivals")
    for statement in CHANGES.split(";"):
        desk.query(statement)
    return desk


def tiles(page: Page) -> dict[str, int]:
    found = page.locator(".tiles a")
    return {
        tile.locator("span").inner_text(): int(tile.locator("strong").inner_text().replace(",", ""))
        for tile in found.all()
    }


def test_each_count_leads_to_just_its_rows(busy: Desk) -> None:
    page = busy.open("/", "mira")
    expect(page).to_have_url(re.compile("/today$"))
    counts = tiles(page)
    assert counts | {"Waiting for me": 0} == {
        "Waiting for me": 0,
        "New": 70,
        "Won": 1,
        "Lost": 1,
        "Value up": 2,
        "Value down": 1,
        "Currency changed": 1,
        "Date moved": 1,
        "Stage moved": 2,
        "Deleted": 1,
    }
    up = page.get_by_role("region", name="Value up", exact=True)
    expect(up.locator("tbody tr")).to_have_count(2)
    expect(up.locator("tbody tr").first).to_contain_text("€100 → to €150")
    expect(page.get_by_role("region", name="Currency changed", exact=True)).to_contain_text(
        "EUR → to JPY"
    )
    for kind, count in counts.items():
        page.get_by_role("link", name=re.compile(f"^[0-9,]+ {kind}$")).click()
        expect(page.locator(".tiles [aria-current]")).to_contain_text(kind)
        rows = page.locator("tbody tr:not(.more)")
        while rows.count() < count:  # the others come when the end of these is seen
            page.mouse.wheel(0, 10_000)
        assert rows.count() == count, kind
        assert len(set(page.locator("tbody th a").all_inner_texts())) <= count
        page.get_by_role("link", name="All kinds").click() if count else page.goto("/today")


def test_a_visit_begins_where_the_last_one_ended(busy: Desk) -> None:
    page = busy.open("/today", "vera")
    assert tiles(page)["New"] == 70
    busy.query("insert into opportunities (remote_id) values ('later')")
    page.reload()
    assert tiles(page)["New"] == 71  # the visit goes on
    busy.query("update visits set seen_at = now() - interval '31 minutes'")
    busy.query("insert into opportunities (remote_id, name) values ('after lunch', 'After lunch')")
    page.reload()
    assert tiles(page)["New"] == 1
    expect(page.get_by_role("region", name="New", exact=True)).to_contain_text("After lunch")
    page.get_by_role("button", name="Begin anew from now").click()
    expect(page.get_by_text("Nothing has changed")).to_be_visible()
    # Other people have visits of their own.
    assert tiles(busy.open("/today", "mira"))["New"] == 72


def test_what_commits_late_is_not_missed_by_a_visit(busy: Desk) -> None:
    page = busy.open("/today", "vera")
    with psycopg.connect(busy.database) as merge:
        merge.execute("update opportunities set stage = 'late' where id = 21")
        page.get_by_role("button", name="Begin anew from now").click()
        expect(page.get_by_text("Nothing has changed")).to_be_visible()
    page.reload()
    assert tiles(page)["Stage moved"] == 1


def test_a_time_and_a_run(busy: Desk) -> None:
    busy.query("update opportunity_arrivals set arrived_at = now() - interval '3 days'")
    busy.query("update opportunity_changes set changed_at = now() - interval '8 days'")
    page = busy.open("/today?since=day", "vera")
    assert set(tiles(page).values()) == {0}
    page.get_by_role("link", name="Look at the last 7 days").click()
    expect(page.locator(".tabs [aria-current]")).to_have_text("7 days")
    assert tiles(page)["New"] == 70
    (run,) = busy.query("select id, run_id, completed_at from sync_logs order by id limit 1")
    busy.query(
        "update opportunity_changes set run_id = %s, changed_at = %s where field = 'stage'",
        run["run_id"],
        run["completed_at"],
    )
    page.get_by_label("Run").fill(str(run["id"]))
    page.get_by_role("button", name="Show").click()
    expect(page.get_by_text("brought")).to_be_visible()
    assert {kind: count for kind, count in tiles(page).items() if count} == {"Stage moved": 2}
    page.goto("/today?run=999999")
    expect(page.get_by_role("heading", name="Not Found")).to_be_visible()
    busy.expect_refusal(404)


def test_what_waits_for_me(desk: Desk) -> None:
    desk.query("update opportunities set assigned_to = null, workflow_status = 'ASSIGNED'")
    desk.query("update opportunities set crm_outcome = 'OPEN', deleted_at = null")
    desk.query("update opportunities set assigned_to = 2 where id in (7, 8)")
    desk.query("update opportunities set workflow_status = 'PENDING_REVIEW' where id in (8, 9)")
    assert tiles(desk.open("/today", "ada"))["Waiting for me"] == 1
    page = desk.open("/today", "mira")
    assert tiles(page)["Waiting for me"] == 2
    expect(page.get_by_role("region", name="Waiting for me", exact=True)).to_contain_text(
        "Pending review"
    )
    # A submitted assessment waits for those who vote, whatever their role.
    desk.query(
        "update assessments set status = 'SUBMITTED', opportunity_id = 9, submitted_by = 2,"
        """ submitted_at = now(), approvals = '[{"function": "head", "label": "Head"}]'"""
    )
    desk.query("insert into user_functions values (1, 'head', '')")
    desk.query("insert into opportunity_parts values (7, 'architect', 3)")
    assert tiles(desk.open("/today", "mira"))["Waiting for me"] == 1
    assert tiles(desk.open("/today", "vera"))["Waiting for me"] == 1
    assert tiles(desk.open("/today", "yusuf"))["Waiting for me"] == 1
