"""tools.publish: what a built site gets before it is published, tried in a browser."""

import gzip
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT
from tests.slices import every
from tools.course import address as address_of
from tools.course import lessons, pages, updated
from tools.publish import POLICY, policy, publish, published

COURSE = ROOT / "course"
LESSONS = [lesson.slug for lesson in lessons(COURSE)]
SETTINGS = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))
PAGE = '<html><head>\n<meta charset="utf-8">\n<title>X</title></head><body>\n{}\n</body></html>\n'
VIOLATIONS = """window.refused = []
addEventListener("securitypolicyviolation", (event) => {
  refused.push(`${event.effectiveDirective} ${event.blockedURI}`)
}, true)"""


# ---- the policy


@pytest.fixture(scope="module")
def noting(new_page):
    """A window that notes what the policy of a page refuses."""
    page = new_page()
    page.add_init_script(VIOLATIONS)
    yield page
    page.close()


@pytest.fixture
def visit(noting, address):
    """Opens a page, with something put into its text."""

    def visit(path: str, more: str = ""):
        def answer(route):
            body = route.fetch().text().replace("</h1>", f"</h1>{more}", 1)
            route.fulfill(content_type="text/html", body=body)

        if more:
            noting.route(f"{address}{path}", answer)
        noting.goto(address + path)
        return noting

    yield visit
    noting.unroute_all()


@pytest.mark.parametrize(
    "path", every(3, ["05-engine/", "", "404.html", "clinic/", "clinic/error-backward/"])
)
def test_nothing_that_a_page_does_itself_is_refused(visit, path):
    page = visit(path)
    page.evaluate("document.querySelectorAll('[data-reveal]').forEach(button => button.click())")
    for player in page.locator("figure.player").all()[:1]:
        player.get_by_role("button", name="Next", exact=True).click()
    page.get_by_role("textbox", name="Search", exact=True).press_sequentially("inplace")
    page.locator(".md-search-result__item").first.wait_for(state="attached", timeout=10_000)
    assert page.evaluate("refused") == []


def test_formulas_are_typeset_under_the_policy(visit):
    page = visit("about/", r'<div class="arithmatex">\[\sum_i x_i\]</div>')
    page.locator(".katex-display").wait_for(timeout=10_000)
    assert page.evaluate("document.fonts.ready.then(() => refused)") == []


FOREIGN = {
    "script-src-elem inline": "<script>window.foreign = 1</script>",
    "script-src-attr inline": "<img src=x onerror='window.foreign = 1'>",
    "script-src-elem https://other.test/x.js": "<script src='https://other.test/x.js'></script>",
    "img-src https://other.test/x.png": "<img src='https://other.test/x.png'>",
    "frame-src https://other.test": "<iframe src='https://other.test/'></iframe>",
    "base-uri https://other.test": "<base href='https://other.test/'>",
    "object-src": "<object data='https://other.test/x'></object>",
}


def test_what_somebody_else_brings_in_is_refused(visit):
    page = visit("404.html", "".join(FOREIGN.values()))
    page.wait_for_function("count => refused.length >= count", arg=len(FOREIGN), timeout=10_000)
    refused = page.evaluate("refused")
    assert len(refused) == len(FOREIGN)
    for start in FOREIGN:
        assert sum(each.startswith(start) for each in refused) == 1, (start, refused)
    assert page.evaluate("window.foreign") is None


@pytest.mark.parametrize("builder", ["site", "zensical_site"])
def test_each_page_has_its_policy_before_anything_that_it_rules(request, builder):
    for path in request.getfixturevalue(builder).rglob("*.html"):
        page = path.read_text(encoding="utf-8")
        if path.parent.name != "figures":  # these are parts of pages
            before, found, after = page.partition(POLICY)
            assert found and POLICY not in after, path
            assert not re.search("<(script|style|link|img)", before), path
            assert not re.search(r"script-src [^;]*unsafe", page), path
            assert after.startswith(policy(page)), path


def test_data_in_a_script_needs_no_hash_and_a_script_in_a_file_has_none():
    data = '<script type="application/json">{}</script><script src="x.js"></script>'
    assert "sha256" not in policy(data)
    assert policy(f"<script>1</script><script>1</script>{data}").count("sha256") == 1


# ---- the weight


def test_the_heaviest_lesson_weighs_less_than_110_kilobytes(site):
    """Its HTML, style sheets and scripts, without formulas and plots, as a server packs them."""
    weights = {}
    for lesson in LESSONS:
        page = (site / lesson / "index.html").read_text(encoding="utf-8")
        loads = re.findall(r'<(?:script|link rel="stylesheet")[^>]*(?:src|href)="([^"]*)"', page)
        files = [site / lesson / load for load in loads]
        assert any(file.name == "course.js" for file in files)
        assert any(file.name == "course.css" for file in files)
        parts = [page.encode(), *(file.read_bytes() for file in files)]
        weights[lesson] = sum(len(gzip.compress(part, 9)) for part in parts)
    assert max(weights.values()) <= 110_000, weights


def test_no_page_of_the_clinic_has_more_than_150_kilobytes_of_html(site):
    sizes = {page.parent.name: page.stat().st_size for page in site.glob("clinic/**/index.html")}
    assert len(sizes) == len(list(COURSE.glob("clinic/*.md")))
    assert max(sizes.values()) <= 150_000, sizes


def test_only_the_reference_loads_the_style_sheet_of_the_reference(site):
    loads = [
        page.parent.name
        for page in site.rglob("*.html")
        if "_mkdocstrings.css" in page.read_text(encoding="utf-8")
    ]
    assert loads == ["reference"]


# ---- Markdown beside the pages


def test_each_page_has_its_markdown_beside_it_and_says_so(site):
    for source in pages(COURSE):
        beside = site / source.relative_to(COURSE)
        assert beside.read_bytes() == source.read_bytes()
        place = beside.parent if source.stem == "index" else beside.with_suffix("")
        page = (place / "index.html").read_text(encoding="utf-8")
        link = re.search(r'<link rel="alternate" type="text/markdown" href="(.*?)">', page)
        assert (place / link[1]).resolve() == beside.resolve()


@pytest.mark.parametrize("builder", ["site", "zensical_site"])
def test_llms_txt_lists_each_page_once_with_a_description(request, builder):
    folder = request.getfixturevalue(builder)
    course = COURSE if builder == "site" else folder.parent / "course"  # of which it may be a part
    text = (folder / "llms.txt").read_text(encoding="utf-8")
    assert text.startswith(f"# {SETTINGS['site_name']}\n\n> {SETTINGS['site_description']}\n\n")
    links = re.findall(r"^- \[.+\]\((.+)\): .+$", text, re.M)
    others = [page for page in pages(course) if page != course / "index.md"]
    assert sorted(links) == sorted(page.relative_to(course).as_posix() for page in others)
    numbered = [f"{lesson.slug}.md" for lesson in lessons(course)]
    assert len(numbered) > 3 and links[: len(numbered)] == numbered
    assert all((folder / link).is_file() for link in links)


# ---- the repository


def test_with_a_repository_a_page_can_be_edited_and_a_problem_reported():
    page = PAGE.format("<article>x</article>")
    done = published(page, Path("01-nodes.md"), "../01-nodes.md", "some/course")
    links = re.findall('<a href="(.*?)">(.*?)</a>', done)
    assert links == [
        ("https://github.com/some/course/edit/main/course/01-nodes.md", "Edit this page"),
        ("https://github.com/some/course/issues/new?title=01-nodes.md%3A%20", "Report a problem"),
    ]
    assert done.index("Edit this page") < done.index("</article>")


def test_without_a_repository_and_on_the_page_of_an_error_there_are_no_such_links():
    page = PAGE.format("<article>x</article>")
    assert "github" not in published(page, Path("01-nodes.md"), "../01-nodes.md", "")
    assert "github" not in published(page, None, "", "some/course")


@pytest.mark.parametrize(
    ("repository", "expected"),
    [
        ("", ""),
        ("Some/Course", "https://some.github.io/Course/"),
        ("Some/some.github.io", "https://some.github.io/"),
    ],
)
def test_the_address_of_the_site_comes_from_the_repository(tmp_path, repository, expected):
    assert address_of(repository) == expected
    settings = tmp_path / "mkdocs.yml"
    settings.write_text('site_url: "x" # a comment\n', encoding="utf-8")
    assert updated(settings, lessons(COURSE), repository) == f'site_url: "{expected}" # a comment\n'


def test_the_address_in_the_settings_is_that_of_the_repository():
    assert SETTINGS["site_url"] == address_of(SETTINGS["extra"]["repository"]), "see make update"


# ---- the workflow


def test_the_workflow_tests_every_change_and_publishes_the_main_branch_alone():
    text = (ROOT / ".github/workflows/pages.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    test, deploy = workflow["jobs"]["test"], workflow["jobs"]["publish"]
    commands = [step.get("run", step.get("uses")) for step in test["steps"]]
    _, _, tests, builds, uploads = commands
    assert (tests, builds) == ("make test", "make site")
    assert uploads.startswith("actions/upload-pages-artifact@")
    assert workflow[True] == {"push": {"branches": ["main"]}, "pull_request": None}  # its key is on
    assert deploy["if"] == test["steps"][-1]["if"] == "github.event_name == 'push'"
    assert deploy["needs"] == "test"
    browser = re.search("apt-get install .*?(?=;)", (ROOT / ".ci/run").read_text())[0]
    assert commands[1].endswith(browser)
    assert re.search(r"python:3\.(\d+)-", test["container"])[1] >= "11"


def test_the_workflow_may_do_little_and_runs_official_actions_alone():
    text = (ROOT / ".github/workflows/pages.yml").read_text(encoding="utf-8")
    workflow = yaml.safe_load(text)
    assert workflow["permissions"] == {"contents": "read"}
    assert "permissions" not in workflow["jobs"]["test"]
    allowed = workflow["jobs"]["publish"]["permissions"]
    assert allowed == {"pages": "write", "id-token": "write"}
    used = re.findall("uses: (.*)", text)
    assert used and all(re.fullmatch(r"actions/[\w-]+@v\d+", action) for action in used)


def test_what_make_test_leaves_out_runs_every_week_as_a_change_is_tested():
    texts = [(ROOT / f".github/workflows/{name}.yml").read_text() for name in ("deep", "pages")]
    deep, pages = map(yaml.safe_load, texts)
    assert deep[True].keys() == {"schedule", "workflow_dispatch"}  # its key is on
    assert deep["permissions"] == pages["permissions"]
    job, test = deep["jobs"]["deep"], pages["jobs"]["test"]
    assert job["container"] == test["container"] and job["steps"][:2] == test["steps"][:2]
    assert [step["run"] for step in job["steps"][2:]] == ["make deep"]


# ---- a tiny site: pages that moved, and all of it with a repository

TINY = """
site_name: Tiny
site_description: A tiny site
site_url: "https://some.github.io/course/"
docs_dir: course
theme: {name: material, font: false}
nav: [index.md, 01-new.md]
not_in_nav: /*/index.md
validation: {nav: {omitted_files: warn}}
plugins: [search]
extra: {repository: &repository "some/course"}
markdown_extensions:
  - tools.pages: {repository: *repository}
"""
MOVED = """---
title: Old
search: {exclude: true}
---

# Old

> **Moved.** This page is now [New](../01-new.md).
"""


@pytest.fixture(scope="module", params=["mkdocs", "zensical"])
def tiny(request, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp(request.param)
    (folder / "course/01-old").mkdir(parents=True)
    (folder / "course/start").mkdir()
    (folder / "mkdocs.yml").write_text(TINY)
    front = "---\ntitle: {}\ndescription: Of it\n---\n\n# It\n\n"
    (folder / "course/index.md").write_text(front.format("Home") + "A page: [New](01-new.md)\n")
    (folder / "course/01-new.md").write_text(front.format("New") + "Words\n")
    (folder / "course/01-old/index.md").write_text(MOVED)
    home = MOVED.replace("../01-new.md", "../index.md")
    (folder / "course/start/index.md").write_text(home)
    for command in (f"{request.param} build --strict", "tools.publish"):
        done = subprocess.run(
            [sys.executable, "-m", *command.split()],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


@pytest.mark.parametrize(("old", "to"), [("01-old", "../01-new/"), ("start", "../")])
def test_an_old_address_sends_readers_and_search_engines_on(tiny, browser, old, to):
    page = (tiny / "site" / old / "index.html").read_text(encoding="utf-8")
    head = page.partition("</head>")[0]
    assert re.findall('<meta content="(.*?)" http-equiv="refresh" />', page) == [f"0; url={to}"]
    assert 'http-equiv="refresh"' in head
    assert re.findall('<link rel="canonical" href="(.*?)">', head) == [to]
    assert '<meta name="robots" content="noindex">' in head
    assert f'<a href="{to}">New</a>' in page
    window = browser.new_page()
    window.goto((tiny / "site" / old / "index.html").as_uri())
    window.wait_for_url(re.compile(f"/site/{to[3:]}$"), timeout=10_000)
    window.close()


def test_an_old_address_is_in_no_menu_no_search_and_no_list(tiny):
    index = next((tiny / "site").rglob("search*.json")).read_text(encoding="utf-8")
    assert "01-new" in index and "01-old" not in index
    assert "01-old" not in (tiny / "site/index.html").read_text(encoding="utf-8")
    assert "01-old" not in (tiny / "site/llms.txt").read_text(encoding="utf-8")
    assert not (tiny / "site/01-old/index.md").exists()


def test_with_a_repository_a_site_has_its_address_and_its_links(tiny):
    page = (tiny / "site/01-new/index.html").read_text(encoding="utf-8")
    assert re.search('rel="?canonical"? href="https://some.github.io/course/01-new/"', page)
    assert "https://github.com/some/course/edit/main/course/01-new.md" in page
    assert "https://github.com/some/course/issues/new?title=01-new.md%3A%20" in page
    assert (tiny / "site/01-new.md").is_file()


def test_doing_it_again_changes_nothing(tiny):
    pages = list((tiny / "site").rglob("*.html"))
    before = [page.read_bytes() for page in pages]
    publish(tiny / "site", tiny)
    assert [page.read_bytes() for page in pages] == before


def test_a_folder_without_a_site_is_refused(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tools.publish", str(tmp_path)],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith(f"{tmp_path} holds no built site; build it first")
