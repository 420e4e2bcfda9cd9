"""`make docs` writes one page that shows, offline in a browser, the source of each column."""

import json
import subprocess
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from api.auth import Role
from api.token import make_token
from tests.api.conftest import DefaultSettings, serving
from tests.browser import opened
from tests.warehouse import Warehouse
from tests.warm import WarmProject

pytestmark = pytest.mark.console


@pytest.fixture(scope="module")
def docs(postgres: str, migrated: str, parsed: Path, warm: WarmProject) -> Path:
    """The folder of the documentation of a database that was synced once."""
    warehouse = Warehouse(postgres, migrated, parsed, warm)
    warehouse.merge()
    done = subprocess.run(
        [warm.bin / "meltano", "invoke", "dbt-postgres:docs"],
        cwd=warm.root,
        env=warehouse.environment(),
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return warehouse.target


@pytest.fixture
def page() -> Iterator[Page]:
    with opened() as browser:
        yield browser.new_page()


def referenced_by(page: Page, kind: str, name: str) -> None:
    """Click a node that is built from the present page's node."""
    section = page.locator("section", has=page.locator("#referenced_by")).first
    section.get_by_text(kind, exact=True).click()
    section.get_by_role("link", name=name, exact=True).click()


def test_the_page_leads_from_the_source_to_the_api(docs: Path, page: Page) -> None:
    html = docs / "static_index.html"
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    title = page.locator("h1:visible")

    page.goto(html.as_uri())
    expect(page.get_by_role("heading", name="From Oracle CRM to the API")).to_be_visible()

    page.goto(html.as_uri() + "#!/source/source.oracle_crm.oracle_crm.opportunities")
    expect(title).to_contain_text("oracle_crm.opportunities")
    referenced_by(page, "Models", "stg_opportunities")
    expect(title).to_contain_text("stg_opportunities")
    referenced_by(page, "Models", "opportunity_outcomes")
    expect(title).to_contain_text("opportunity_outcomes")
    referenced_by(page, "Models", "opportunities")
    expect(title).to_have_text("opportunities merge_into")
    referenced_by(page, "Exposures", "list_of_opportunities")
    expect(title).to_contain_text("GET /api/opportunities")

    assert asked
    assert all(url.startswith(docs.as_uri()) for url in asked)


@pytest.fixture
def address(
    database: str, docs: Path, page: Page, monkeypatch: pytest.MonkeyPatch
) -> Iterator[str]:
    """The address of the API, which has this documentation, and lets the page in."""
    monkeypatch.setattr("api.docs.LINEAGE", docs / "static_index.html")
    token = make_token(database, Role.VIEWER, timedelta(hours=1))
    page.set_extra_http_headers({"Authorization": f"Bearer {token}"})
    with serving(database, DefaultSettings()) as address:
        yield address


def test_the_console_has_it_with_a_graph_and_a_way_back(address: str, page: Page) -> None:
    heard: list[str] = []
    page.on("console", lambda message: heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.goto(f"{address}/lineage#!/model/model.oracle_crm.opportunities?g_v=1")
    expect(page.locator("canvas").first).to_be_visible()
    # The graph library stores its data at its element.
    edges = page.evaluate(
        """() => [...document.querySelectorAll("*")].filter(element => element._cyreg).flatMap(
            element => element._cyreg.cy.edges(":visible").map(
                edge => edge.source().id() + " > " + edge.target().id()
            )
        )"""
    )
    assert {
        "source.oracle_crm.oracle_crm.opportunities > model.oracle_crm.stg_opportunities",
        "model.oracle_crm.stg_opportunities > model.oracle_crm.opportunity_outcomes",
        "model.oracle_crm.opportunity_outcomes > model.oracle_crm.opportunities",
        "model.oracle_crm.opportunities > exposure.oracle_crm.list_of_opportunities",
    } <= set(edges)
    page.goto(f"{address}/lineage")
    expect(page.get_by_role("heading", name="From Oracle CRM to the API")).to_be_visible()
    assert heard == []
    page.get_by_role("link", name="Back to the console").click()
    expect(page).to_have_url(f"{address}/sync")


def read(docs: Path, name: str) -> dict[str, Any]:
    artifact: dict[str, Any] = json.loads((docs / name).read_text())
    return artifact


def described(docs: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """All tables and views in the documentation, by their ids."""
    manifest = read(docs, "manifest.json")
    for unique_id, node in (manifest["nodes"] | manifest["sources"]).items():
        if unique_id.startswith(("model.oracle_crm.", "source.oracle_crm.")):
            yield unique_id, node


def test_every_table_and_column_is_described(docs: Path) -> None:
    catalog = read(docs, "catalog.json")
    there = catalog["nodes"] | catalog["sources"]
    undescribed = []
    for unique_id, node in described(docs):
        texts = {name: column["description"] for name, column in node["columns"].items()}
        columns = there[unique_id]["columns"] if unique_id in there else texts
        undescribed += [unique_id] if not node["description"] else []
        undescribed += [f"{unique_id}.{name}" for name in columns if not texts.get(name)]
    # Custom fields have the customer's names.
    missing = [name for name in undescribed if not name.endswith("_c")]
    assert missing == [], "describe these in the YAML beside the model, or in that of its source"


def test_described_columns_exist_with_that_type(docs: Path) -> None:
    catalog = read(docs, "catalog.json")
    there = catalog["nodes"] | catalog["sources"]
    wrong = []
    for unique_id, node in described(docs):
        columns = there.get(unique_id, {}).get("columns", {})
        for name, column in node["columns"].items():
            if columns and name not in columns:
                wrong.append(f"{unique_id}.{name} is not there")
            elif columns and column["data_type"] not in (None, columns[name]["type"]):
                wrong.append(f"{unique_id}.{name} is {columns[name]['type']}")
    assert wrong == []


def test_each_exposure_depends_on_existing_tables(docs: Path) -> None:
    exposures = read(docs, "manifest.json")["exposures"].values()
    assert {exposure["label"].split(",")[0] for exposure in exposures} >= {
        "GET /api/opportunities",
        "GET /api/oracle-opportunity/{remote_id}",
        "GET /api/sync-status",
        "GET /api/rejected-records",
        "The console",
    }
    assert all(exposure["depends_on"]["nodes"] for exposure in exposures)
