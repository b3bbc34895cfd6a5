"""Chromium, driven by Selenium."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.conftest import require_program


@contextmanager
def open_browser(profile: Path) -> Iterator[Any]:
    """Open a browser with an empty *profile*; it logs its requests and what the page reports."""
    from selenium import webdriver

    options = webdriver.ChromeOptions()
    options.binary_location = require_program("chromium")
    for flag in (
        "headless",
        "no-sandbox",
        "disable-gpu",
        "hide-scrollbars",
        "no-first-run",
        "disable-background-networking",
        "disable-component-update",
        "disable-sync",
    ):
        options.add_argument(f"--{flag}")
    options.add_argument(f"--user-data-dir={profile}")
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    service = webdriver.ChromeService(require_program("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as opened:
        yield opened
