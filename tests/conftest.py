"""What tests share: the browser, the built site, and the report below them."""

import fcntl
import functools
import gc
import json
import os
import shutil
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from playwright.sync_api import Browser, CDPSession, Page, sync_playwright

from tests.pages import DESK, SHIFTS
from tests.slices import DEEP, every
from tools.course import pages

# A thread for each of the two workers, here and in what tests start; before torch is loaded.
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Nothing depends on how fast the machine is.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")
PATIENCE = 120_000  # milliseconds that a browser has for anything

ROOT = Path(__file__).parents[1]
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


@pytest.fixture(scope="session")
def lasting(new_page) -> Page:
    return new_page()


@pytest.fixture(scope="session")
def storage(lasting) -> CDPSession:
    """What can clear all that pages of the lasting window have stored."""
    return lasting.context.new_cdp_session(lasting)


@pytest.fixture
def open_window(new_page, lasting, storage) -> Iterator[Callable[..., Page]]:
    """Open a window in which nothing is stored, hovered or open yet.

    It is always the same one, unless it needs options: a window of its own takes as much time as
    the page that is opened in it. So one that a test opened before is gone.
    """
    own = []

    def open_window(*, viewport: Any = DESK, color_scheme: Any = "light", **options: Any) -> Page:
        if options:
            own.append(new_page(viewport=viewport, color_scheme=color_scheme, **options))
            return own[-1]
        lasting.unroute_all()
        lasting.evaluate("location.replace('about:blank')")  # goto() would change the process
        lasting.wait_for_url("about:blank")
        storage.send("Storage.clearDataForOrigin", {"origin": "*", "storageTypes": "all"})
        lasting.emulate_media(color_scheme=color_scheme, media="screen")
        lasting.set_viewport_size(viewport)
        lasting.mouse.move(0, 0)
        return lasting

    yield open_window
    for page in own:
        page.close()


@contextmanager
def hearing_errors(
    page: Page, wrong: list[str], **listeners: Callable[[Any], object]
) -> Iterator[None]:
    """Note for a while what goes wrong in a window; others may listen to its other events."""
    listeners["console"] = lambda m: m.type in ("error", "warning") and wrong.append(m.text)
    listeners["pageerror"] = lambda error: wrong.append(str(error))
    for event, listener in listeners.items():
        page.on(event, listener)
    yield
    for event, listener in listeners.items():
        page.remove_listener(event, listener)


def run(*command: str, cwd: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", *command],
        cwd=cwd,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr


def made_once(folder: Path, make: Callable[[Path], None]) -> Path:
    """A folder that the first of the workers to need it makes, while the others wait.

    Where making it fails, nothing is left, and each worker tells of the failure.
    """
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # given back when the file is closed
        if not folder.exists():
            half = folder.with_suffix(".half")
            shutil.rmtree(half, ignore_errors=True)
            half.mkdir()
            make(half)
            half.rename(folder)
    return folder


@pytest.fixture(scope="session")
def common(tmp_path_factory) -> Path:
    """A folder that all workers of this run have in common."""
    own = tmp_path_factory.getbasetemp()
    return own.parent if "PYTEST_XDIST_WORKER" in os.environ else own


def with_mkdocs(folder: Path) -> None:
    run("mkdocs", "build", "--strict", "--site-dir", str(folder), cwd=ROOT)
    run("tools.publish", str(folder), cwd=ROOT)
    run("tools.download", str(folder), cwd=ROOT)
    index = json.loads((folder / "search/search_index.json").read_text(encoding="utf-8"))
    of_a_lesson = [doc for doc in index["docs"] if doc["location"].startswith("12-in-place/")]
    little = json.dumps(index | {"docs": of_a_lesson})
    (folder.parent / "little_to_find.json").write_text(little, encoding="utf-8")


def with_zensical(folder: Path) -> None:
    """It writes nowhere but beside mkdocs.yml: so in a copy.

    Outside of ``make deep`` most pages are not in it, so that links to them are broken.
    """
    for name in ("companion", "course", "tools"):
        shutil.copytree(ROOT / name, folder / name)
    shutil.copy(ROOT / "mkdocs.yml", folder)
    if not DEEP:
        lessons = every(6, sorted((folder / "course").glob("[0-9][0-9]-*.md")))
        starts = [folder / "course/index.md", folder / "course/clinic/index.md"]
        for page in {*pages(folder / "course")} - {*lessons, *starts}:
            page.unlink()
    run("zensical", "build", *(["--strict"] if DEEP else []), cwd=folder)
    run("tools.publish", cwd=folder)


@pytest.fixture(scope="session")
def site(common) -> Path:
    """The course as published, built strictly by MkDocs: a broken link or anchor fails here."""
    return made_once(common / "mkdocs", with_mkdocs)


@pytest.fixture(scope="session")
def zensical_site(common) -> Path:
    """The course, or a part of it, built by Zensical."""
    return made_once(common / "zensical", with_zensical) / "site"


class Handler(SimpleHTTPRequestHandler):
    protocol_version = "HTTP/1.1"  # one connection for many files

    def end_headers(self) -> None:
        """As hosts do, let the browser keep what is no page, so that it does not ask again."""
        if not self.path.endswith(("/", ".html")):
            self.send_header("Cache-Control", "max-age=600")
        super().end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class ForTests(Handler):
    """Says of the search that it finds one lesson, and has pages that tests made.

    A browser makes an index for the search on each page, which takes a tenth of its time; and where
    it asks a test for a page, it keeps no style sheet and no script for the next one.
    """

    def translate_path(self, path: str) -> str:
        if path.endswith("/search_index.json"):
            return str(Path(self.directory).with_name("little_to_find.json"))
        made = made_for(self.directory, path.partition("?")[0])
        return str(made) if made.is_file() else super().translate_path(path)


def made_for(site: str | Path, path: str) -> Path:
    """The file of a page that a test makes to be served with the site."""
    return Path(site).with_name("made") / path.lstrip("/") / "index.html"


@contextmanager
def served(directory: Path, handler: type[Handler]) -> Iterator[str]:
    """The address of a folder, served as from a web host."""
    handle = functools.partial(handler, directory=directory)
    with ThreadingHTTPServer(("127.0.0.1", 0), handle) as server:
        poll = 0.05  # seconds, which it takes to stop
        threading.Thread(target=server.serve_forever, args=[poll], daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture(scope="session")
def address(site) -> Iterator[str]:
    """The site, of which the search finds one lesson, with pages that tests make."""
    with served(site, ForTests) as address:
        yield address


@pytest.fixture(scope="session")
def searched(site) -> Iterator[str]:
    """The site with its search."""
    with served(site, Handler) as address:
        yield address


@pytest.fixture(scope="session")
def window(new_page, address):
    """One window for all pages, which saves half of the time; what went wrong in it."""
    wrong: list[str] = []
    page = new_page(color_scheme="dark", reduced_motion="reduce", viewport=DESK)
    page.add_init_script("localStorage.clear()")  # where the switch of colours is remembered
    page.add_init_script(SHIFTS)
    page.on("request", lambda r: r.url.startswith(address) or wrong.append(f"loads {r.url}"))
    page.on("console", lambda m: m.type in ("error", "warning") and wrong.append(m.text))
    page.on("pageerror", lambda error: wrong.append(str(error)))
    return page, wrong


@pytest.fixture(scope="session")
def texts():
    """Those whose colours were looked at, by the elements around them."""
    return set[str]()


@pytest.fixture(scope="session")
def plain(new_page):
    """A window without JavaScript."""
    return new_page(java_script_enabled=False, viewport={"width": 700, "height": 800})


# The files that take longest, so that they begin first and the workers end together.
LONGEST = [
    "tests/site/test_lessons.py",
    "tests/backward/test_player_js.py",
    "tests/site/test_reader.py",
    "tests/test_site.py",
    "tests/backward/test_player_layout.py",
    "tests/higher_order/test_taylor.py",
    "tests/drawing/test_saved_page.py",
    "tests/site/test_start.py",
    "tests/backward/test_player_scenes.py",
    "tests/tools/test_lessons.py",
    "tests/tools/test_notebooks.py",
    "tests/site/test_publish.py",
    "tests/graph/test_freeing.py",
    "tests/diagnosis/test_diagnosing.py",
    "tests/test_internals.py",
    "tests/test_commands.py",
    "README.md",
    "course/real-models.md",
    "course/costs.md",
]


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items):
    """Begin with the longest files. The second needs no site, which the first has built."""
    rank = {name: number for number, name in enumerate(LONGEST)}
    items.sort(key=lambda item: rank.get(item.nodeid.partition("::")[0], len(rank)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Give each test the same random numbers, whatever ran before it."""
    import torch  # which whoever gives the tests to the workers does not load

    torch.manual_seed(0)


class Frozen:
    """Lets no search for garbage look at what is there before a file: at first a million objects.

    A plugin, since pytest asks this file nothing about pages.
    """

    def __init__(self) -> None:
        self.path: Path | None = None

    def pytest_runtest_protocol(self, item: pytest.Item) -> None:
        if item.path != self.path:
            self.path = item.path
            gc.collect()
            gc.freeze()


def pytest_collection_finish(session):
    session.config.pluginmanager.register(Frozen())


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


@pytest.fixture
def no_gc() -> Iterator[None]:
    """What nobody holds is gone at once, or not at all: nothing looks for cycles meanwhile."""
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@pytest.fixture
def fresh_compiler() -> None:
    """As if nothing were compiled yet: torch compiles eight of one code, and then none."""
    import torch

    torch.compiler.reset()
