"""The customer's own fields in the console, and the commands of docs/fields.md."""

import csv
import json
import re
import subprocess
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import psycopg
from playwright.sync_api import Browser, expect
from psycopg.types.json import Jsonb

from api.auth import Role
from api.token import make_token
from database.environment import ROOT
from declared.fields import BUILT_IN, Field, store_fields
from declared.indexes import build_indexes
from tests.api.conftest import DefaultSettings, serving
from tests.conftest import Pipeline
from tests.console.conftest import WAIT, Desk
from tests.console.test_quality import violations

LONG = "ميزانية <b>bold</b> " + "and a long label " * 4
OWN = (
    Field("budget", "Budget_c", LONG.strip(), "number", None, True, True, "list"),
    Field("go_live", "GoLive_c", "Go live", "date", None, True, True, "list"),
    Field("products", "Products_c", "Products", "list", None, True, False, "list"),
    Field("strategic", "Strategic_c", "Strategic", "boolean", None, True, True, "deal"),
    Field("signed_at", "SignedAt_c", "Signed", "timestamp", None, False, False, "deal"),
    Field("note", "Note_c", "Note", "text", None, False, False, "hidden"),
)
VALUES = {
    "budget": 1250000.5,
    "go_live": "2026-12-01",
    "products": ["Cloud <script>", "Data"],
    "strategic": True,
    "signed_at": "2026-01-31T22:00:00+00:00",
    "note": "kept out of sight",
}


DECLARED: dict[str, dict[str, Any]] = {
    "stage": {"place": "hidden"},
    "win_probability": {"place": "hidden"},
    "close_date": {"place": "deal", "filter": False, "label": "Decision"},
    "geo": {"place": "list", "sort": False, "label": "Market"},
}


def declare(desk: Desk) -> int:
    """Declare fields, and return the id of a deal that has values in its own ones."""
    standard = [replace(field, **DECLARED.get(field.name, {})) for field in BUILT_IN.values()]
    (deal,) = desk.query("select id from opportunities where deleted_at is null limit 1")
    with psycopg.connect(desk.database) as connection:
        connection.execute(
            "update opportunities set custom = %s where id != %s",
            [Jsonb({"budget": "n/a"}), deal["id"]],
        )
        connection.execute(
            "update opportunities set custom = %s where id = %s", [Jsonb(VALUES), deal["id"]]
        )
        changed = VALUES | {"budget": 7, "products": ["Data"], "strategic": False, "note": "-"}
        connection.execute(
            "update opportunities set custom = %s where id = %s", [Jsonb(changed), deal["id"]]
        )
        store_fields(connection, (*standard, *OWN))
    deadline = time.monotonic() + WAIT / 1000
    while "min_budget" not in desk.call("GET", "/openapi.json").text:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    id_: int = deal["id"]
    return id_


def test_an_admin_sees_the_news_and_checks_the_file(desk: Desk) -> None:
    declare(desk)
    desk.query(
        "insert into crm_attributes (name, type, first_seen_at) values"
        " ('Budget_c', 'number', now() - interval '1 year'), ('<b>New</b>_c', 'string', now())"
        " returning name"
    )
    page = desk.open("/admin/fields", "olga")
    news = page.get_by_role("region", name="List of news")
    expect(news).to_contain_text("new in the CRM: <b>New</b>_c (string)")
    expect(page.get_by_role("region", name="List of fields")).to_contain_text("GoLive_c")
    # The page comes when the check has ended.
    page.get_by_role("button", name="Check crm.yml").click(timeout=60_000)
    found = page.get_by_role("region", name="Findings")
    expect(found.locator("tbody tr").first).to_contain_text("crm.yml")
    expect(found).to_contain_text("Changes")


def test_own_fields_are_columns_and_filters(desk: Desk) -> None:
    deal = declare(desk)
    page = desk.open("/opportunities", "ada", viewport={"width": 1600, "height": 900})
    headers = page.get_by_role("columnheader")
    for header, words in zip(
        headers.all(),
        (
            "Opportunity",
            "Customer",
            "Workflow",
            "Value",
            "Assigned",
            "Market",
            "bold",
            "Go",
            "Prod",
        ),
        strict=True,
    ):
        expect(header).to_contain_text(words)
    expect(headers.nth(5).get_by_role("link")).to_have_count(0)
    expect(headers.nth(6)).to_contain_text("<b>bold</b>")
    filters = page.locator("#filters summary")
    expect(filters).to_contain_text(["Market", "Value"])
    expect(filters.filter(has_text=re.compile("Stage|Decision|Closing"))).to_have_count(0)
    page.locator("summary", has_text="More").click()
    for width in (1600, 1440, 1000):
        page.set_viewport_size({"width": width, "height": 900})
        page.locator("summary", has_text="More").click()
        page.locator("summary", has_text="More").click()
        popover = page.locator(".filter[open] .popover")
        expect(popover).to_be_in_viewport(ratio=0.99)
    products = page.get_by_role("combobox", name="Products", exact=True)
    products.focus()
    expect(page.locator("#values-of-products option")).to_have_count(1)
    expect(page.locator("#values-of-products option")).to_have_attribute("value", "Data")
    products.fill("Data")
    products.blur()
    expect(page.get_by_text("1 opportunity")).to_be_visible()
    row = page.locator(f"#deal-{deal}")
    expect(row.locator("td[data-label='Go live']")).to_have_text("1 Dec 2026")
    expect(row.locator("td[data-label=Products] bdi")).to_have_text(["Data"])
    # Some browsers ask as soon as the date is whole, others when the field is left.
    page.get_by_role("textbox", name="Go live from").fill("2026-12-02")
    page.get_by_role("textbox", name="Go live from").blur()
    expect(page.get_by_role("heading", name="Nothing fits")).to_be_visible()
    page.get_by_role("link", name="Remove the filter Go live from 2026-12-02").click()
    expect(page.get_by_role("link", name="Remove the filter Products: Data")).to_be_visible()
    expect(row).to_be_visible()
    page.get_by_role("link", name=re.compile("bold")).click()
    expect(page.locator("th[aria-sort=ascending]")).to_contain_text("bold")
    assert "products=Data" in page.url
    assert violations(page) == []
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_a_deal_shows_its_own_fields_and_what_became_of_them(desk: Desk) -> None:
    deal = declare(desk)
    page = desk.open(f"/opportunities/{deal}", "ada", color_scheme="dark")
    facts = page.locator(".facts")
    for label, value in {
        "Go live": "1 Dec 2026",
        "Products": "Data",
        "Strategic": "No",
        "Signed": "31 Jan 2026, 23:00",
    }.items():
        fact = facts.locator("dt", has_text=re.compile(f"^{label}$")).locator("+ dd")
        expect(fact).to_have_text(value)
    expect(facts.locator("dt", has_text=re.compile("^Stage$"))).to_have_count(0)
    expect(facts.locator("dt", has_text=re.compile("^Market$"))).to_have_count(1)
    expect(page.locator(".figures")).to_contain_text("Decision")
    expect(page.get_by_text("Win probability")).to_have_count(0)
    expect(page.get_by_text("kept out of sight")).to_have_count(0)
    timeline = page.locator("#timeline")
    change = timeline.locator("li", has_text="<b>bold</b>")
    expect(change).to_contain_text("1,250,000.5")
    expect(timeline.locator("li", has_text="Products").locator(".values").first).to_have_text(
        re.compile(r"Cloud <script>\s+Data")
    )
    expect(timeline.locator("li", has_text="Strategic")).to_contain_text("Yes")
    assert violations(page) == []
    page.set_viewport_size({"width": 390, "height": 800})
    page.reload()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390


def test_three_lines_and_a_sync_bring_three_fields_everywhere(
    pipeline: Pipeline, browser: Browser, tmp_path: Path
) -> None:
    document = (ROOT / "docs" / "fields.md").read_text()
    lines = re.findall(r"```yaml\n(.*?)```", document, re.DOTALL)[0]
    sync, setup, curl = re.findall(r"```sh\n(.*?)```", document, re.DOTALL)
    assert (sync.strip(), setup.strip()) == ("make sync", "make setup")
    crm, file = pipeline.crm, tmp_path / "crm.yml"
    crm.add_attribute("Budget_c", "number", values=[500, 5000])
    crm.add_attribute("GoLive_c", "date", values=["2027-01-01"])
    crm.add_attribute("Products_c", "array", values=[["Cloud", "Data"]])
    # Where the document says: at the end of the section.
    before, after = (ROOT / "crm.yml").read_text().split("# - {attribute: Budget_c", 1)
    file.write_text(
        before + "".join(f"{line.strip()}\n" for line in lines.splitlines()) + "#" + after
    )
    pipeline.environment["CRM_FILE"] = str(file)
    pipeline.sync()
    made = build_indexes(pipeline.database)  # as `make setup` does
    assert len(made) == 3
    key = crm.rows()[1]["OptyId"]
    crm.update(key, Budget_c=7000)
    pipeline.sync()

    token = make_token(pipeline.database, Role.ADMIN, timedelta(hours=1))
    with serving(pipeline.database, DefaultSettings()) as address:
        answer = subprocess.run(
            ["/bin/bash", "-ec", curl.replace("http://localhost:8000", address)],
            cwd=tmp_path,
            env=pipeline.environment | {"TOKEN": token},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        listed = json.loads(answer)
        assert listed["total"] == 500
        assert listed["items"][0]["remote_id"] == str(key)
        assert listed["items"][0]["custom"] == {
            "budget": 7000,
            "go_live": "2027-01-01",
            "products": ["Cloud", "Data"],
        }
        with (tmp_path / "deals.csv").open(newline="") as exported:
            rows = list(csv.DictReader(exported))
        assert len(rows) == 1000
        assert rows[1]["products"] == "Cloud; Data"

        context = browser.new_context(base_url=address)
        page = context.new_page()
        context.set_extra_http_headers({"Authorization": f"Bearer {token}"})
        page.goto("/opportunities?min_budget=6000")
        expect(page.get_by_role("columnheader", name="Products")).to_be_visible()
        row = page.locator("tbody tr")
        expect(row.locator("td[data-label=Products] bdi")).to_have_text(["Cloud", "Data"])
        row.get_by_role("link").first.click()
        expect(page.locator("#timeline li", has_text="Budget")).to_contain_text("7,000")
        context.close()
