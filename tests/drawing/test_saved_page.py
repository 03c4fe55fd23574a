"""drawing.js and drawing.css: a saved page can be zoomed, searched, and asked what is in a box."""

import pytest
import torch
from axe_playwright_python.base import AXE_SCRIPT

from companion import draw, modules
from tests.drawing.test_page import MODELS


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    model, x = MODELS["encoder of 12 layers"]
    with modules(model) as names:
        loss = model(x).sum()
    path = tmp_path_factory.mktemp("drawing") / "drawing.html"
    draw(loss, names=names).save(path)
    return path


@pytest.fixture
def page(browser, path):
    page = browser.new_page(viewport={"width": 1280, "height": 900})
    requests, errors = [], []
    page.on("request", lambda request: requests.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.goto(path.as_uri())
    yield page
    assert requests == [path.as_uri()] and errors == []
    page.close()


def width(page) -> float:
    return page.eval_on_selector("svg", "svg => svg.getBoundingClientRect().width")


def test_a_page_is_small(path):
    assert path.stat().st_size < 200_000


def test_search_counts_and_leads_from_one_to_the_next(page):
    search = page.get_by_label("Search")
    search.fill("layernorm")
    count, _, boxes = page.text_content("output").partition(" of ")
    assert int(count) == page.locator(".node.found").count() > 1 and boxes.endswith("boxes")
    first = page.text_content(".details")
    search.press("Enter")
    assert page.text_content(".details") != first
    search.fill("no such thing")
    assert page.text_content("output").startswith("0 of ")


def test_a_box_that_is_chosen_says_what_is_in_it(page):
    box = page.locator(".node.leaf").first
    box.click()
    assert page.text_content(".details") == box.locator("title").text_content()
    assert "of the leaf embedding.weight, (10, 8)" in page.text_content(".details")


def test_by_keyboard_one_goes_from_box_to_box_and_zooms(page):
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('node')"):
            break
    assert page.evaluate("document.activeElement.getAttribute('role')") == "button"
    page.keyboard.press("ArrowDown")
    second = page.locator(".node").nth(1).locator("title").text_content()
    assert page.text_content(".details") == second
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == second
    before = width(page)
    page.keyboard.press("+")
    assert width(page) == pytest.approx(before * 1.25, rel=0.01)
    page.keyboard.press("0")
    view = page.eval_on_selector(".view", "view => [view.clientWidth, view.clientHeight]")
    drawn = page.eval_on_selector("svg", "svg => [svg.clientWidth, svg.clientHeight]")
    assert drawn[0] <= view[0] + 1 and drawn[1] <= view[1] + 1


def test_axe_finds_nothing(page):
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    assert [(fault["id"], [node["html"][:200] for node in fault["nodes"]]) for fault in found] == []


def test_without_scripts_it_is_the_drawing(browser, path):
    page = browser.new_page(java_script_enabled=False)
    page.goto(path.as_uri())
    assert page.locator("svg[role=img]").count() == 1 and page.locator("button").count() == 0
    page.close()


def test_a_drawing_without_boxes_to_choose_has_a_page(browser, tmp_path):
    path = tmp_path / "one.html"
    draw(torch.ones(2, requires_grad=True)).save(path)
    page = browser.new_page()
    page.goto(path.as_uri())
    page.locator(".node").click()
    assert "of the leaf" in page.text_content(".details")
    page.close()
