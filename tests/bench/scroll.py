"""`python -m tests.bench.scroll [TURNS]`: what it costs a browser to scroll through 5,000 deals.

It prints the longest tasks of the page's main thread in milliseconds of CPU, so it does not matter
what else the machine does. A task of more than 50 ms is felt as a hitch.
"""

import json
import shutil
import sys
import tempfile
from collections import Counter, defaultdict
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from playwright.sync_api import Browser, sync_playwright

from api.auth import ISSUE, new_token
from database.embedded import start_embedded, stop_embedded
from database.migrate import migrate
from tests.api.conftest import DefaultSettings, serving
from tests.browser import OPTIONS
from tests.console import demo

ROWS = 5000
LONG = 50  # milliseconds
SHOWN = 5
CATEGORIES = ["toplevel", "devtools.timeline", "disabled-by-default-devtools.timeline"]
TASK = "RunTask"
SCROLL = """
async rows => {
    const scroller = document.querySelector(".scroll.tall");
    const table = scroller.querySelector("table");
    table.querySelector("[data-pick]").click(); // so that each part has to show what is chosen
    while (table.rows.length < rows) {
        scroller.scrollTop += 700;
        await new Promise(requestAnimationFrame);
        await new Promise(resolve => setTimeout(resolve, 20));
    }
}
"""


class Task(NamedTuple):
    """A task of the page's main thread: its milliseconds of CPU, and those of its parts."""

    taken: float
    parts: dict[str, float]


def main() -> None:
    """Fill a database of its own, measure, and print."""
    turns = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    with tempfile.TemporaryDirectory(prefix="bench-") as folder:
        cluster = Path(folder) / "postgres"
        url = start_embedded(cluster)
        try:
            migrate(url)
            demo.fill(url, ROWS + 500)
            measure(url, turns)
        finally:
            stop_embedded(cluster)


def measure(url: str, turns: int) -> None:
    """Scroll through the deals of a database some times, and print the longest tasks of each."""
    # The whole browser: the one without windows looks for no forms to fill in.
    chromium = shutil.which("chromium")
    with serving(url, DefaultSettings()) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        for turn in range(turns):
            tasks = _tasks(_scroll(browser, address, url))
            long = sum(task.taken > LONG for task in tasks)
            print(f"turn {turn + 1}: {long} of {len(tasks)} tasks took more than {LONG} ms")
            for taken, parts in tasks[:SHOWN]:
                words = (f"{name} {part:.1f}" for name, part in Counter(parts).most_common(8))
                print(f"  {taken:6.1f} ms: {', '.join(words)}")
        browser.close()


def _scroll(browser: Browser, address: str, url: str) -> list[dict[str, Any]]:
    """Scroll down until 5,000 rows are there, and return the events of the trace."""
    with psycopg.connect(url, autocommit=True) as connection:
        (user,) = connection.execute("select id from users where name = 'mira'").fetchone() or ()
        token, values = new_token(user, "session", "bench", timedelta(hours=1))
        connection.execute(ISSUE, values)
    context = browser.new_context(base_url=address, viewport={"width": 1440, "height": 900})
    context.add_cookies([{"name": "session", "value": token, "url": address}])
    page = context.new_page()
    page.goto("/opportunities")
    page.locator("#indicator .dot").wait_for()
    browser.start_tracing(page=page, categories=CATEGORIES)
    page.evaluate(SCROLL, ROWS)
    events: list[dict[str, Any]] = json.loads(browser.stop_tracing())["traceEvents"]
    context.close()
    return events


def _tasks(events: list[dict[str, Any]]) -> list[Task]:
    """Return the tasks of the page's main thread, longest first."""
    (thread,) = {
        (event["pid"], event["tid"])
        for event in events
        if event["name"] == "thread_name" and event["args"]["name"] == "CrRendererMain"
    }
    of_page = [
        event
        for event in events
        if event["ph"] == "X" and (event["pid"], event["tid"]) == thread and "tdur" in event
    ]
    tasks = [event for event in of_page if event["name"] == TASK]
    tasks.sort(key=lambda event: event["tdur"], reverse=True)
    found = []
    for number, task in enumerate(tasks):
        parts: defaultdict[str, float] = defaultdict(float)
        if number < SHOWN:
            for event in of_page:
                is_part = task["ts"] <= event["ts"] < task["ts"] + task["dur"]
                if is_part and not event["name"].endswith(TASK):
                    parts[event["name"]] += event["tdur"] / 1000
        found.append(Task(task["tdur"] / 1000, parts))
    return found


if __name__ == "__main__":
    main()
