"""A real browser for the tests: Debian's Chromium."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, sync_playwright

# No GPU, no sandbox (not possible as root), and no network access.
OPTIONS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-sync",
    "--disable-background-networking",
    "--disable-component-update",
]


@contextmanager
def opened() -> Iterator[Browser]:
    """Open the browser: the one of CHROMIUM, or one that is installed.

    Raises:
        RuntimeError: there is none.
    """
    # The shell has no windows and toolbars. A page costs a third of what the whole browser takes.
    chromium = (
        os.environ.get("CHROMIUM")
        or shutil.which("chromium-headless-shell")
        or shutil.which("chromium")
    )
    if chromium is None:
        raise RuntimeError(
            "These tests need a real browser. Install it with "
            "`apt-get install chromium-headless-shell`, or say in CHROMIUM where there is one."
        )
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=OPTIONS)
        yield browser
        browser.close()
