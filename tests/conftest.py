"""What tests share: the browser, and the report below them."""

import os
import shutil
from collections import Counter
from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser, sync_playwright

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
        browser = playwright.chromium.launch(executable_path=path, args=QUIET)
        yield browser
        browser.close()


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
