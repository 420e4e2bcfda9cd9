"""The console in a real browser, on demo data: each test has its own database and server."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import psycopg
import pytest
from playwright.sync_api import Browser, Page, expect
from psycopg.rows import dict_row
from pydantic import SecretStr

from api.auth import ISSUE, new_token
from tests.api.conftest import DefaultSettings, serving
from tests.browser import opened
from tests.console import demo
from tests.warehouse import Warehouse, create_database, rename_database
from tests.warm import WarmProject

WAIT = 15_000  # milliseconds; a busy machine is slow, not wrong
expect.set_options(timeout=WAIT)


@pytest.fixture(scope="session")
def demo_template(postgres: str, migrated: str, parsed: Path, warm: WarmProject) -> str:
    """The name of a database of demo data with dbt's marts: a template."""
    warehouse = Warehouse(postgres, migrated, parsed, warm)
    warehouse.merge()
    demo.fill(warehouse.url)
    return rename_database(postgres, "test", "demo")


@pytest.fixture(scope="package")  # no longer: it would keep others from asyncio's loop
def browser() -> Iterator[Browser]:
    """Debian's Chromium."""
    with opened() as browser:
        yield browser


@dataclass
class Desk:
    """The console on a database, and what went wrong in the pages that were opened."""

    browser: Browser
    address: str
    database: str
    complaints: list[str] = field(default_factory=list)
    refusals: set[str] = field(default_factory=set)
    pages: list[Page] = field(default_factory=list)

    def open(self, path: str = "/", name: str | None = "olga", **options: Any) -> Page:
        """Open a page as one of the people, or as nobody, in a browser of their own.

        The page's own question, how fresh the data is, has been answered when this returns.
        """
        context = self.browser.new_context(
            base_url=self.address,
            **{
                "locale": "en-GB",
                "timezone_id": "Europe/Berlin",
                "viewport": {"width": 1280, "height": 800},
                **options,
            },
        )
        context.set_default_timeout(WAIT)
        page = context.new_page()
        page.on("console", self._hear)
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("request", lambda request: self._check_host(request.url))
        if name is not None:
            cookie = {"name": "session", "value": self.session(name), "url": self.address}
            context.add_cookies([cookie])  # type: ignore[list-item]
        self.pages.append(page)
        page.goto(path)
        if name is not None:
            page.locator("#indicator .dot").wait_for()
        return page

    def session(self, name: str) -> str:
        """Begin a session for one of the people."""
        (user,) = self.query("select id from users where name = %s", name)
        token, values = new_token(user["id"], "session", "test", timedelta(hours=1))
        with psycopg.connect(self.database, autocommit=True) as connection:
            connection.execute(ISSUE, values)
        return token

    def query(self, statement: str, *parameters: object) -> list[dict[str, Any]]:
        """Run a statement and return its rows, if it has any."""
        with psycopg.connect(self.database, autocommit=True, row_factory=dict_row) as connection:
            cursor = connection.execute(statement, parameters or None)
            return cursor.fetchall() if cursor.description else []

    def call(self, method: str, path: str, **given: Any) -> httpx.Response:
        """Ask the server without a browser."""
        return httpx.request(method, self.address + path, timeout=4 * WAIT / 1000, **given)

    def deal(self, id_: int) -> dict[str, Any]:
        """Return a deal's row."""
        return self.query("select * from opportunities where id = %s", id_)[0]

    def expect_refusal(self, status: int) -> None:
        """Let the browser complain about answers of a status; at the end it must have."""
        self.refusals.add(f"status of {status}")
        self.refusals.add(f"Response Status Error Code {status}")

    def unexpected(self) -> list[str]:
        """What went wrong in the pages, and each refusal that was expected and did not come."""
        heard = "\n".join(self.complaints)
        missing = [one for one in self.refusals if one.startswith("status") and one not in heard]
        others = [
            one for one in self.complaints if not any(refusal in one for refusal in self.refusals)
        ]
        return others + [f"nothing had a {one}" for one in missing]

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.complaints.append(f"{message.text} ({message.location.get('url')})")

    def _check_host(self, url: str) -> None:
        if urlsplit(url).scheme != "data" and not url.startswith(self.address):
            self.complaints.append(f"request to {url}")


def _desk(browser: Browser, database: str) -> Iterator[Desk]:
    # Nobody wants a digest, so nothing is sent.
    settings = DefaultSettings(
        api_lock_timeout=1, digest_url=SecretStr("json://127.0.0.1:9/{email}")
    )
    with serving(database, settings) as address:
        desk = Desk(browser, address, database)
        yield desk
        for page in desk.pages:
            page.context.close()
    assert desk.unexpected() == []


@pytest.fixture
def desk(browser: Browser, postgres: str, demo_template: str) -> Iterator[Desk]:
    """The console on demo data."""
    yield from _desk(browser, create_database(postgres, "desk", demo_template))


@pytest.fixture
def empty_desk(browser: Browser, database: str) -> Iterator[Desk]:
    """The console before the first sync."""
    with psycopg.connect(database, autocommit=True) as connection:
        connection.execute("insert into users (name, role) values ('olga', 'admin')")
    yield from _desk(browser, database)
