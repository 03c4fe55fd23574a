"""What tests share: the browser, and the report below them."""

import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser, Page, sync_playwright

# A thread for each of the two workers, here and in what tests start; before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing depends on how fast the machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
PATIENCE = 600_000  # milliseconds that a browser has for anything

BROWSERS = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# No sandbox, because there is none in a container; and no traffic of the browser's own.
QUIET = """--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking
--disable-component-update --disable-sync""".split()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    path = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        reason = "no browser; apt-get install chromium, or set CHROMIUM to the path of a Chrome"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=QUIET, timeout=PATIENCE)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def new_page(browser) -> Callable[..., Page]:
    """Open a window of its own. Closing the page closes it."""

    def new_page(**options: Any) -> Page:
        page = browser.new_page(**options)
        page.set_default_timeout(PATIENCE)
        return page

    return new_page


def pytest_terminal_summary(terminalreporter):
    """Below the tests: what ``diagnose`` told of the random programs, and what happened."""
    table = Counter()
    for report in terminalreporter.getreports("passed"):
        if "test_oracle.py" in report.nodeid:
            table.update(dict(report.user_properties))
    if table:
        terminalreporter.write_sep("=", "diagnose against backward, random programs")
        told = sum(count for kind, count in table.items() if not kind.startswith("not told"))
        terminalreporter.write_line(f"{told:6} of {table.total()} told as it happened:")
        for kind, count in sorted(
            table.items(), key=lambda item: (item[0][:8] == "not told", -item[1])
        ):
            terminalreporter.write_line(f"{count:6}   {kind}")
