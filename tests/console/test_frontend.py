"""The example of a frontend works from another origin, and its guide quotes it."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

import psycopg
from playwright.sync_api import Browser, expect

from api.app import create_app
from api.auth import Role
from api.token import make_token
from database.environment import ROOT
from tests.api.conftest import DefaultSettings, running
from tests.conftest import free_port
from tests.warehouse import create_database

EXAMPLE = ROOT / "examples" / "frontend"


class _Files(SimpleHTTPRequestHandler):
    def log_message(self, *_: Any) -> None:
        """Say nothing."""


@contextmanager
def files() -> Iterator[str]:
    """Serve the example's files, and give their origin."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), partial(_Files, directory=str(EXAMPLE)))
    thread = Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_a_frontend_of_another_origin(browser: Browser, postgres: str, demo_template: str) -> None:
    url = create_database(postgres, "test", demo_template)
    port = int(free_port())
    with files() as origin, psycopg.connect(url, autocommit=True) as database:
        app = partial(create_app, DefaultSettings(api_cors_origins=frozenset({origin})), url)
        token = make_token(url, Role.ASSESSOR, timedelta(hours=1))
        page = browser.new_page()
        page.set_default_timeout(15_000)
        problems: list[str] = []
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on(
            "console", lambda said: problems.append(said.text) if "Policy" in said.text else None
        )
        (id_,) = database.execute(
            "update opportunities set workflow_status = 'NEW', crm_outcome = 'OPEN',"
            " deleted_at = null, name = 'Payments' where id = 5 returning id"
        ).fetchone() or (0,)
        row = page.locator(f"#deal-{id_}")
        with running(app(), port) as address:
            page.goto(f"{origin}/?api={address}")
            page.get_by_label("Token").fill("wrong")
            page.get_by_role("button", name="Connect", exact=True).click()
            expect(page.get_by_role("status")).to_contain_text("token")
            page.get_by_label("Token").fill(token)
            page.get_by_role("button", name="Connect", exact=True).click()
            expect(page.locator("tbody tr")).to_have_count(50)
            expect(page.get_by_label("Token")).to_be_hidden()
            page.get_by_role("button", name="More", exact=True).click()
            expect(page.locator("tbody tr")).to_have_count(100)
            expect(page.get_by_role("status")).to_have_text("Live.")

            # Somebody is quicker: what the user has not seen, the user does not overwrite.
            row.get_by_role("button").click()
            page.get_by_label("Workflow").select_option("ASSIGNED")
            database.execute("update opportunities set stage = 'Signed' where id = %s", [id_])
            page.get_by_role("button", name="Save", exact=True).click()
            expect(page.get_by_role("alert")).to_contain_text("It has changed")
            expect(page.get_by_text("Stage: Signed")).to_be_visible()
            page.get_by_label("Workflow").select_option("ASSIGNED")
            page.get_by_role("button", name="Save", exact=True).click()
            expect(row).to_contain_text("ASSIGNED")
        expect(page.get_by_role("status")).to_contain_text("Interrupted")
        database.execute("update opportunities set name = 'Invoices' where id = %s", [id_])
        with running(app(), port):
            # The stream goes on where it broke off.
            expect(row).to_contain_text("Invoices")
            page.get_by_role("button", name="What has changed?").click()
            expect(page.locator("#changes li")).to_contain_text(
                ["stage: ", "workflow_status: NEW → ASSIGNED", "name: Payments → Invoices"]
            )
            page.get_by_role("button", name="What has changed?").click()
            expect(page.locator("#changes")).to_have_text("Nothing.")
            database.execute("update tokens set revoked_at = now()")
            expect(page.get_by_role("status")).to_contain_text("Signed out")
        page.context.close()
    assert problems == []


def test_the_guide_quotes_the_example() -> None:
    guide = (ROOT / "docs" / "frontend.md").read_text()
    quoted = re.findall(r"```js\n(.*?)```", guide, re.DOTALL)
    example = (EXAMPLE / "crm.js").read_text() + (EXAMPLE / "app.js").read_text()
    assert len(quoted) >= 4
    lines = {line.strip() for line in example.splitlines()}
    assert [
        line for block in quoted for line in block.splitlines() if line.strip() not in lines
    ] == []
