"""`python -m tests.console.screenshots` takes the pictures of the console in docs/screenshots."""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

import psycopg
from playwright.sync_api import Browser

from database import roles
from database.embedded import start_embedded, stop_embedded
from database.environment import ROOT
from tests.api.conftest import DefaultSettings, serving
from tests.browser import opened
from tests.console import demo
from tests.warehouse import Warehouse

FOLDER = ROOT / "docs" / "screenshots"
WIDE = {"width": 1280, "height": 720}
PHONE = {"width": 390, "height": 844}
# A name for the file, the page, and how it is looked at.
PICTURES = (
    ("opportunities", "/opportunities?sort=-deal_value", "light", WIDE),
    ("opportunities-dark", "/opportunities?search=payments", "dark", WIDE),
    ("board", "/board", "light", WIDE),
    ("opportunity", "/opportunities/3", "light", WIDE),
    ("dashboard", "/dashboard", "light", WIDE),
    ("pipeline", "/dashboard/pipeline", "light", WIDE),
    ("dashboard-dark", "/dashboard", "dark", WIDE),
    ("sync", "/sync", "light", WIDE),
    ("opportunities-phone", "/opportunities?sort=-deal_value", "light", PHONE),
    ("opportunity-phone", "/opportunities/3", "dark", PHONE),
)


def main() -> None:
    """Fill a database of its own, serve the console on it, and take the pictures."""
    with tempfile.TemporaryDirectory(prefix="screenshots-") as scratch:
        cluster = Path(scratch) / "postgres"
        server = start_embedded(cluster).rsplit("/", 1)[0]
        try:
            url = warehouse(server, Path(scratch)).url
            with serving(url, DefaultSettings()) as address, opened() as browser:
                _take(browser, address)
        finally:
            stop_embedded(cluster)


def warehouse(server: str, scratch: Path, deals: int = 400) -> Warehouse:
    """Make a database of demo data on a server, with dbt's views."""
    with psycopg.connect(f"{server}/postgres", autocommit=True) as connection:
        connection.execute("create database migrated")
    roles.apply(f"{server}/migrated")
    subprocess.run(
        [sys.executable, "-m", "database", "migrate"],
        cwd=ROOT,
        check=True,
        env=os.environ | {"DATABASE_URL": f"{server}/migrated"},
    )
    made = Warehouse(server, "migrated", scratch)
    made.merge()
    demo.fill(made.url, deals)
    return made


def _take(browser: Browser, address: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, path, theme, size in PICTURES:
        context = browser.new_context(
            base_url=address,
            color_scheme=theme,  # type: ignore[arg-type]
            viewport=size,  # type: ignore[arg-type]
            locale="en-GB",
            timezone_id="Europe/Berlin",
        )
        page = context.new_page()
        page.goto(f"/sign-in?next={path.replace('?', '%3F').replace('&', '%26')}")
        page.get_by_label("Name").fill("mira")
        page.get_by_label("Password").fill(demo.PASSWORD)
        page.get_by_role("button", name="Sign in").click()
        page.locator("#indicator .dot").wait_for()
        page.screenshot(path=FOLDER / f"{name}.png", animations="disabled")
        context.close()
        print(FOLDER / f"{name}.png")


if __name__ == "__main__":
    main()
