"""What others wrote runs nowhere in a browser, and no sign-in leads to another site."""

from collections.abc import Iterator
from datetime import timedelta
from urllib.parse import quote, urlsplit

import psycopg
import pytest
from playwright.sync_api import ConsoleMessage, Dialog, Page, Request

from api.auth import ISSUE, Role, new_token
from api.token import make_token
from tests.attack.conftest import Target
from tests.browser import opened
from tests.runs import add_run

PAYLOADS = [
    "<script>window.hit = 1</script>",
    "<img src=x onerror=window.hit=1>",
    '"><svg onload=window.hit=1>',
    "' autofocus onfocus='window.hit=1",
    "</textarea></title></style><script>window.hit=1</script>",
    "javascript:window.hit=1",
    "{{ 7*7 }}${7*7}<%= 7*7 %>#{7*7}",
    "<a href='https://evil.example/'>x</a><base href='https://evil.example/'>",
    "<div hx-get='https://evil.example/' hx-trigger='load' hx-on::load='window.hit=1'>",
    "<iframe srcdoc='<script>parent.hit=1</script>'>",
    "\u2028</script><script>window.hit=1//",
]
PLANT = """
update opportunities
set
    name = %(text)s, customer = %(text)s, stage = %(text)s, practice = %(text)s, geo = %(text)s,
    region = %(text)s, sector = %(text)s, sales_owner = %(text)s, opty_number = %(text)s,
    status_code = %(text)s, unknown_status_code = %(text)s, currency = 'EUR'
where id = %(id)s
"""
REJECT = """
insert into rejected_records (record_key, stream, remote_id, reason, payload)
values (%(text)s, 'opportunities', %(text)s, %(text)s, to_jsonb(%(text)s::text))
"""
HISTORY = """
insert into opportunity_changes (opportunity_id, field, old_value, new_value, changed_by)
values (%(id)s, %(text)s, %(text)s, %(text)s, %(text)s)
"""
USER = (
    "insert into users (name, full_name, email, role) values (%(text)s, %(text)s, 'a@b', 'admin')"
)
ELSEWHERE = [
    "//evil.example", "///evil.example", "////evil.example/x", "/\\evil.example",
    "\\\\evil.example",
    "/\t/evil.example", "/\n/evil.example", "https://evil.example", "https:evil.example",
    "http:///evil.example", "//evil.example:443", "/%09/evil.example", "//[/", "///127.0.0.1:1/",
    "javascript:alert(1)", "data:text/html,x", ".//evil.example", "//evil%2eexample",
    "/\u00a0/evil.example", "／／evil.example", "//\u2100.example",  # noqa: RUF001
]  # fmt: skip


@pytest.fixture(scope="module")
def page() -> Iterator[Page]:
    """A page of Debian's Chromium, which knows no other host than this."""
    with opened() as browser:
        yield browser.new_page()


def test_what_others_wrote_runs_nowhere(target: Target, page: Page) -> None:
    with psycopg.connect(target.database, autocommit=True) as connection:
        for number, text in enumerate(PAYLOADS, 1):
            values = {"id": number, "text": text}
            for statement in (PLANT, REJECT, HISTORY, USER):
                connection.execute(statement, values)
        add_run(target.database, load_succeeded=False, error_message=" ".join(PAYLOADS))
        make_token(target.database, Role.ADMIN, timedelta(hours=1))
        found = connection.execute("select id from users where name = 'service-admin'")
        (user,) = found.fetchall()[0]
        life = timedelta(hours=1)
        token, session = new_token(user, "session", PAYLOADS[0], life)
        _, personal = new_token(user, "personal", PAYLOADS[0], life)
        for values in (session, personal):
            connection.execute(ISSUE, values)

    complaints: list[str] = []

    def dismiss(dialog: Dialog) -> None:
        complaints.append(dialog.message)
        dialog.dismiss()

    def read(said: ConsoleMessage) -> None:
        if "Content Security" in said.text:
            complaints.append(said.text)

    def follow(asked: Request) -> None:
        if urlsplit(asked.url).hostname not in ("127.0.0.1", None):
            complaints.append(asked.url)

    page.on("dialog", dismiss)
    page.on("pageerror", lambda error: complaints.append(str(error)))
    page.on("console", read)
    page.on("request", follow)
    host = {"name": "session", "value": token, "domain": "127.0.0.1", "path": "/"}
    page.context.add_cookies([host])  # type: ignore[list-item]
    odd = quote(PAYLOADS[2] + PAYLOADS[4])
    for path in (
        "/opportunities?sort=id",
        f"/opportunities?search={odd}&stage={odd}&practice={odd}&sales_owner={odd}",
        f"/opportunities?cursor={odd}",
        "/board",
        f"/board?stage={odd}",
        "/dashboard",
        f"/dashboard?currency={odd}",
        "/sync",
        "/sync/rejects",
        "/account",
        "/admin/users",
        f"/admin/users/{user}/tokens",
        "/admin/audit",
        "/admin/health",
        f"/admin/audit?subject={odd}",
        f"/nothing/{odd}",
        f"/remote/{odd}",
        *(f"/opportunities/{number}" for number in range(1, len(PAYLOADS) + 1)),
    ):
        page.goto(target.address + path, wait_until="load")
        if path in ("/opportunities/1", "/admin/users", "/sync/rejects"):
            assert PAYLOADS[0] in page.locator("body").inner_text(), path
        assert page.evaluate("window.hit") is None, path
        assert page.locator("iframe, base, [onerror], [onload], [onfocus]").count() == 0, path
    assert complaints == []
    page.context.clear_cookies()


def test_no_sign_in_leads_to_another_site(target: Target, page: Page) -> None:
    token = make_token(target.database, Role.VIEWER, timedelta(hours=1))
    for wanted in ELSEWHERE:
        page.context.clear_cookies()
        page.goto(f"{target.address}/sign-in?next={quote(wanted)}")
        with page.expect_navigation():
            page.eval_on_selector(
                "form:has([name=token])",
                "(form, [token, next]) => {"
                " form.token.value = token; form.next.value = next; form.submit() }",
                [token, wanted],
            )
        assert urlsplit(page.url).netloc == f"127.0.0.1:{target.port}", wanted
        assert urlsplit(page.url).path != "/sign-in", wanted
