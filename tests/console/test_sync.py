"""The syncs: start, follow live, cancel, look back, and see what was rejected."""

import re
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from importlib import import_module
from pathlib import Path

import psycopg
import pytest
from playwright.sync_api import Dialog, expect

from tests.api.conftest import Command, command
from tests.console.conftest import Desk
from tests.console.demo import add_run

__all__ = ["command"]


@pytest.fixture
def running(desk: Desk) -> Iterator[str]:
    """The id of a sync that is under way."""
    with psycopg.connect(desk.database, autocommit=True) as connection:
        run_id = add_run(connection, datetime.now(UTC) - timedelta(seconds=20), None, 250)
        stop = threading.Event()
        heart = threading.Thread(target=beat, args=(desk.database, run_id, stop))
        heart.start()
        yield run_id
        stop.set()
        heart.join()


def beat(database: str, run_id: str, stop: threading.Event) -> None:
    """Let a run live, as its recorder does."""
    with psycopg.connect(database, autocommit=True) as connection:
        while not stop.wait(2):
            connection.execute(
                "update sync_runs set heartbeat_at = clock_timestamp() where run_id = %s", [run_id]
            )


def test_follow_a_sync_to_its_end(desk: Desk, running: str) -> None:
    page = desk.open("/sync", "vera")
    now = page.locator("[data-follow]")
    expect(now).to_contain_text("250 read of about 1,000")
    desk.query("update sync_runs set records_fetched = 640 where run_id = %s", running)
    expect(now).to_contain_text("640 read")
    assert float(now.locator("progress").get_attribute("value") or 0) == 64
    desk.query("update sync_runs set transform_started_at = now() where run_id = %s", running)
    expect(now.locator("[data-phase]")).to_have_text("Merging")
    expect(now.get_by_text("dbt merges what was loaded")).to_be_visible()
    expect(now.get_by_text("The reader asks the CRM")).to_be_hidden()
    now.get_by_role("link", name="This run", exact=True).click()
    expect(page.locator("h1 .outcome")).to_have_text("Running")
    expect(page.locator("[data-phase]")).to_have_text("Merging")
    desk.query(
        "update sync_runs set transform_succeeded = true, transform_completed_at = now(),"
        " extraction_completed = true, records_fetched = 1000 where run_id = %s",
        running,
    )
    expect(page.locator("#messages")).to_contain_text("The sync has ended: 1,000 records read.")
    expect(page.locator("h1 .outcome")).to_have_text("Success")
    expect(page.locator("#indicator")).to_contain_text("Synced")
    page.goto("/sync")
    expect(page.get_by_text("No sync is under way.")).to_be_visible()


def test_what_a_sync_has_made_good_leaves_the_rejects(desk: Desk, running: str) -> None:
    page = desk.open("/sync", "mira")
    expect(page.locator(".rejects li")).to_have_count(3)
    desk.query("update rejected_records set resolved_at = now() where remote_id like '%%1'")
    desk.query(
        "update sync_runs set transform_succeeded = true, transform_completed_at = now(),"
        " transform_started_at = now(), extraction_completed = true where run_id = %s",
        running,
    )
    expect(page.locator("#messages")).to_contain_text("The sync has ended")
    expect(page.locator(".rejects li")).to_have_count(2)


def test_a_page_that_is_open_follows_what_another_starts(desk: Desk) -> None:
    page = desk.open("/sync", "vera")
    expect(page.locator("#indicator")).to_contain_text("Synced")
    expect(page.locator("#fresh")).to_be_visible()
    with psycopg.connect(desk.database, autocommit=True) as connection:
        add_run(connection, datetime.now(UTC), None, 250)
        expect(page.locator("#indicator")).to_contain_text("Syncing…")
        expect(page.locator("[data-follow]")).to_contain_text("250 read of about 1,000")


def test_the_console_works_while_a_sync_runs(desk: Desk, running: str) -> None:
    page = desk.open("/opportunities?workflow_status=NEW", "ada")
    expect(page.locator("#indicator")).to_contain_text("Syncing…")
    for_whom = page.get_by_role("dialog", name="Who is to work on it?")
    with psycopg.connect(desk.database) as merge:
        deal = int((page.locator(".deals tbody tr").first.get_attribute("id") or "")[5:])
        merge.execute("update opportunities set stage = 'new stage' where id = %s", [deal])
        page.locator(f"#move-{deal}").click()
        page.get_by_role("menuitem", name="Assigned", exact=True).click()
        for_whom.get_by_role("button", name="Assign", exact=True).click()
        expect(page.locator("#messages")).to_contain_text("A sync is merging this row")
        desk.expect_refusal(503)
        merge.commit()
    page.locator(f"#move-{deal}").click()
    page.get_by_role("menuitem", name="Assigned", exact=True).click()
    for_whom.get_by_role("button", name="Assign", exact=True).click()
    expect(page.locator("#messages")).to_contain_text("Assigned")
    after = desk.deal(deal)
    assert (after["stage"], after["workflow_status"]) == ("new stage", "ASSIGNED")


def test_start_and_cancel(desk: Desk, command: Command) -> None:
    page = desk.open("/sync", "mira")
    page.get_by_role("button", name="Sync what changed").click()
    expect(page.get_by_text("Starting", exact=True)).to_be_visible()
    other = desk.open("/sync", "olga")
    page.on("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Cancel the sync").click()
    expect(page.get_by_text("No sync is under way.")).to_be_visible()
    expect(other.locator("#messages")).to_contain_text("Cancelled by mira.")
    assert command.full == [False]
    row = page.locator("tbody tr").first
    expect(row.locator(".outcome")).to_have_text("Cancelled")
    row.locator("summary").click()
    expect(row.locator("pre")).to_have_text("Cancelled by mira.")


def test_sync_everything_asks_first(desk: Desk, command: Command) -> None:
    page = desk.open("/sync", "mira")
    asked: list[str] = []

    def refuse(dialog: Dialog) -> None:
        asked.append(dialog.message)
        dialog.dismiss()

    page.once("dialog", refuse)
    page.get_by_role("button", name="Sync everything").click()
    assert command.full == []
    page.once("dialog", refuse)
    page.get_by_role("button", name="Retry all").click()
    assert command.full == []
    page.once("dialog", lambda dialog: dialog.accept())
    page.get_by_role("button", name="Retry all").click()
    expect(page.get_by_text("Starting", exact=True)).to_be_visible()
    assert "Read everything" in asked[0]
    assert "the rest stays here with its reason" in asked[1]
    assert command.full == [True]


def test_failures_stand_out_and_say_why(desk: Desk) -> None:
    page = desk.open("/sync", "vera")
    expect(page.locator("tr.failed")).to_have_count(2)
    expect(page.locator(".chart .bad")).to_have_count(4)
    expect(page.locator(".chart .bar-fill")).to_have_count(2 * 26)
    row = page.locator("tr.failed").first
    expect(row.locator("pre")).to_be_hidden()
    row.get_by_text("503 Service Unavailable").first.click()
    expect(row.locator("pre")).to_contain_text("503 Service Unavailable")


def test_the_page_of_a_failed_run_says_why_and_retries(desk: Desk, command: Command) -> None:
    with psycopg.connect(desk.database, autocommit=True) as connection:
        add_run(connection, datetime.now(UTC) - timedelta(minutes=2), 9, 30, "The CRM is away.")
    page = desk.open("/sync", "mira")
    expect(page.locator("#indicator .dot.bad")).to_be_visible()
    expect(page.locator(".card", has_text="Now").first).to_contain_text("The CRM is away.")
    page.locator("tr.failed td a").first.click()
    expect(page.locator("h1 .outcome")).to_have_text("Failed")
    expect(page.locator("pre")).to_have_text("The CRM is away.")
    expect(page.locator("#sum")).to_have_text(re.compile("^\\s*30 read. They are counted when"))
    page.get_by_role("button", name="Retry").click()
    expect(page.get_by_text("Starting", exact=True)).to_be_visible()
    assert command.full == [False]


def test_rejects_and_a_cancel_look_like_neither_success_nor_failure(desk: Desk) -> None:
    with psycopg.connect(desk.database, autocommit=True) as connection:
        at = datetime.now(UTC) - timedelta(minutes=2)
        run_id = add_run(connection, at, 9, 90)
        desk.query("update sync_runs set failed_records = 4 where run_id = %s", run_id)
        desk.query(
            "update rejected_records set last_run_id = %s where remote_id like '%%1'", run_id
        )
        page = desk.open("/sync", "vera")
        expect(page.locator("#indicator")).to_have_text(re.compile("with\\s+rejects"))
        expect(page.locator("#indicator .dot.warn")).to_be_visible()
        expect(page.locator(".outcome").first).to_have_text("Rejects")
        page.goto(f"/sync/runs/{run_id}")
        expect(page.locator("h1 .outcome")).to_have_text("Rejects")
        expect(page.locator("#sum")).to_contain_text("94 read =")
        expect(page.locator("#reasons tbody tr")).to_have_count(1)
        page.get_by_role("link", name="all with what was received", exact=True).click()
        expect(page.locator(".rejects li")).to_have_count(1)
        run_id = add_run(connection, datetime.now(UTC) - timedelta(minutes=1), 9, 90, "x")
    desk.query("update sync_runs set cancelled_by = 'mira' where run_id = %s", run_id)
    page.goto(f"/sync/runs/{run_id}")
    expect(page.locator("h1 .outcome")).to_have_text("Cancelled")
    expect(page.locator("pre")).to_have_text("Cancelled by mira.")
    expect(page.locator("#indicator")).to_have_text(re.compile("Last sync cancelled"))
    expect(page.locator("#indicator .dot.bad")).to_have_count(0)
    expect(page.get_by_role("button", name="Retry")).to_have_count(0)


def test_what_a_run_changed_is_shown_in_parts(desk: Desk) -> None:
    (run,) = desk.query("select run_id, started_at from sync_runs order by id desc limit 1")
    desk.query(
        "insert into opportunity_changes"
        " (opportunity_id, field, old_value, new_value, changed_at, run_id)"
        " select id, 'stage', 'before', 'after ' || id, %s, %s from opportunities"
        " order by id limit 60",
        run["started_at"],
        run["run_id"],
    )
    page = desk.open(f"/sync/runs/{run['run_id']}", "vera")
    rows = page.locator("#changes tbody tr:not(.more)")
    expect(rows).to_have_count(50)
    expect(rows.first).to_contain_text("before")
    page.get_by_role("link", name="Show more").click()
    expect(rows).to_have_count(60)
    expect(rows.last).to_contain_text("after 60")
    expect(page.get_by_role("link", name="Show more")).to_have_count(0)


def test_freshness_and_the_next_run(desk: Desk) -> None:
    with psycopg.connect(desk.database, autocommit=True) as connection:
        add_run(connection, datetime.now(UTC) - timedelta(minutes=75), 6, 30)
    page = desk.open("/sync", "vera")
    expect(page.locator(".card", has_text="Freshness")).to_contain_text("1 hour ago")
    following = page.locator("main .card", has_text="Next").first
    expect(following).to_contain_text("Nightly")
    expect(following).to_contain_text("Reads what has changed in the CRM: at 02:00 every day (UTC)")
    desk.query("update schedules set heartbeat_at = now() - interval '1 hour'")
    page.reload()
    expect(page.get_by_text("The scheduler has not shown itself")).to_be_visible()


def test_the_way_to_the_lineage(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    page = desk.open("/sync", "vera")
    expect(page.get_by_role("link", name="Lineage")).to_have_count(0)
    built = tmp_path / "static_index.html"
    built.write_text("<!doctype html><title>Lineage</title><h1>Where it comes from</h1>")
    monkeypatch.setattr(import_module("api.sync.page"), "LINEAGE", built)
    monkeypatch.setattr("api.docs.LINEAGE", built)
    page.reload()
    page.get_by_role("link", name="Lineage").click()
    expect(page.get_by_role("heading", name="Where it comes from")).to_be_visible()


def test_rejects_show_reason_and_payload(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ORACLE_BASE_URL", "https://crm.example.com/")
    page = desk.open("/sync", "vera")
    reject = page.locator(".rejects li", has_text="WinProb: 'high' is not a number")
    reject.locator("summary").click()
    expect(reject.locator("pre")).to_contain_text('"WinProb": "high"')
    correct = reject.get_by_role("link", name="Correct it in the CRM").get_attribute("href") or ""
    assert correct.startswith("https://crm.example.com/fscmUI/")
    assert correct.endswith("300000020000001")
    reject.get_by_role("link", name="The deal as it was").click()
    expect(page).to_have_url(re.compile("/opportunities/1$"))
    desk.query("update rejected_records set resolved_at = now()")
    page.goto("/sync")
    expect(page.get_by_text("Nothing is rejected.")).to_be_visible()
    page.get_by_role("link", name="Also those that are resolved").click()
    expect(page.get_by_text("Resolved")).to_have_count(3)


def test_statuses_that_nothing_explains_are_named_with_what_to_write(desk: Desk) -> None:
    page = desk.open("/sync", "vera")
    expect(page.get_by_text("Statuses that nothing explains")).to_have_count(0)
    desk.query(
        "update opportunities set unknown_status_code = 'Verloren <an>: \"X\"', crm_outcome = null"
        " where id in (1, 3)"
    )
    page.reload()
    row = page.locator("section", has=page.locator("#unknown-title")).locator("tbody tr")
    expect(row.locator("th")).to_have_text('Verloren <an>: "X"')
    expect(row).to_contain_text("2")
    expect(row).to_contain_text('"Verloren <an>: \\"X\\"": OPEN')
    page = desk.open("/opportunities/1", "vera")
    told = page.locator(".alert", has_text="Nothing tells")
    expect(told).to_contain_text('status code Verloren <an>: "X"')
