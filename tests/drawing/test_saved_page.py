"""saved_page.py, drawing.js and drawing.css: a saved page is zoomed, searched, opened and asked."""

import functools
import html
import re
from itertools import product

import pytest
import torch
from axe_playwright_python.base import AXE_SCRIPT
from playwright.sync_api import expect
from torch import nn

from companion import draw, modules, record_backward, watch
from tests.drawing.test_fitting import MODELS
from tests.slices import every


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    model, x = MODELS["encoder of 12 layers"]
    with modules(model) as names:
        loss = model(x).sum()
    path = tmp_path_factory.mktemp("drawing") / "drawing.html"
    draw(loss, names=names).save(path)
    return path


@pytest.fixture(scope="module")
def shared(browser):
    shared = browser.new_page(viewport={"width": 1280, "height": 900})
    yield shared
    shared.close()


@pytest.fixture
def window(shared):
    """The window of nearly all tests; each loads a page anew, which keeps nothing for the next."""
    yield shared
    shared.emulate_media(color_scheme="light", media="screen")
    shared.mouse.move(0, 0)


@pytest.fixture
def load(window):
    """Load a page; it may load nothing else, and say nothing on the console."""
    loaded, requests, errors = [], [], []
    listeners = {
        "request": lambda request: requests.append(request.url),
        "pageerror": lambda error: errors.append(str(error)),
        "console": lambda said: errors.append(said.text),  # the policy was broken
    }

    def load(path):
        loaded.append(path.as_uri())
        window.goto(path.as_uri())
        return window

    for event, listener in listeners.items():
        window.on(event, listener)
    yield load
    for event, listener in listeners.items():
        window.remove_listener(event, listener)
    assert requests == loaded and errors == []


@pytest.fixture
def page(load, path):
    return load(path)


def width(page) -> float:
    return page.eval_on_selector("svg", "svg => svg.getBoundingClientRect().width")


class Bottleneck(nn.Module):
    """The block of ResNet-50."""

    def __init__(self, inputs: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(inputs, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = nn.Conv2d(width, width, 3, stride, 1), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = nn.Conv2d(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.downsample = None
        if inputs != 4 * width or stride > 1:
            convolution = nn.Conv2d(inputs, 4 * width, 1, stride)
            self.downsample = nn.Sequential(convolution, nn.BatchNorm2d(4 * width))

    def forward(self, x):
        y = torch.relu(self.bn1(self.conv1(x)))
        y = self.bn3(self.conv3(torch.relu(self.bn2(self.conv2(y)))))
        return torch.relu(y + (self.downsample(x) if self.downsample else x))


def resnet_50() -> nn.Module:
    """Its structure; it is narrower than ResNet-50."""
    layers, inputs = [], 4
    for depth, width, stride in ((3, 4, 1), (4, 8, 2), (6, 16, 2), (3, 32, 2)):
        blocks = []
        for i in range(depth):
            blocks.append(Bottleneck(inputs, width, stride if i == 0 else 1))
            inputs = 4 * width
        layers.append(nn.Sequential(*blocks))
    return nn.Sequential(nn.Conv2d(3, 4, 7, 2), *layers, nn.Flatten(), nn.Linear(128, 10))


class Loop(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(4, 4)

    def forward(self, x):
        state = torch.zeros(2, 4), torch.zeros(2, 4)
        for step in x:
            state = self.cell(step, state)
        return state[0]


LARGE = {
    "12 layers": (
        nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 8), 12, enable_nested_tensor=False),
        torch.ones(3, 1, 8),
    ),
    "200 steps": (Loop(), torch.ones(200, 2, 4)),
    "ResNet-50": (resnet_50(), torch.ones(2, 3, 16, 16)),
}


@pytest.mark.parametrize("by_module", [True, False])
@pytest.mark.parametrize("name", LARGE)
def test_a_page_is_small(tmp_path, name, by_module):
    model, x = LARGE[name]
    with modules(model) as names:
        loss = model(x).sum()
    draw(loss, names=names if by_module else dict(names)).save(tmp_path / "x.html")
    assert (tmp_path / "x.html").stat().st_size < (120_000 if by_module else 180_000)


def test_what_is_said_once_for_all_texts_is_what_each_says_in_the_drawing(window, tmp_path):
    x = torch.ones(2, requires_grad=True)
    drawing = draw(record_backward(x.exp().sum()))
    drawing.save(tmp_path / "x.html")
    looks = []
    for content in (drawing.svg, (tmp_path / "x.html").read_text()):
        window.set_content(content)
        looks.append(
            window.evaluate("""[...document.querySelectorAll("svg text")].map((text) => {
          const { fontFamily, fontSize, textAnchor, fill, whiteSpace } = getComputedStyle(text);
          return [text.textContent, fontFamily, fontSize, textAnchor, fill, whiteSpace];
        })""")
        )
    assert looks[0] == looks[1] and len({size for _, _, size, *_ in looks[0]}) == 2


# ---- blocks that open


def trail(page) -> list[str]:
    return page.locator(".trail button").all_text_contents()


def first_block(page):
    return page.locator(".node.opens").first


def wait_for_depth(page, depth: int) -> None:
    """Until so many blocks are open."""
    page.wait_for_function(
        "count => document.querySelectorAll('.trail button').length === count",
        arg=depth + 1 if depth else 0,
    )


def test_a_click_opens_a_block_and_the_trail_leads_back(page):
    whole = page.locator(".node").all_text_contents()
    first_block(page).click()
    wait_for_depth(page, 1)
    assert trail(page)[0] == "Whole graph" and "self_attn" in trail(page)[1]
    inside = page.locator(".node").all_text_contents()
    assert inside != whole and "in_proj_weight" in " ".join(inside)
    assert page.locator(".trail [aria-current=location]").text_content() == trail(page)[1]
    assert page.locator("svg.drawing").count() == 1
    page.get_by_role("button", name="Whole graph", exact=True).click()
    wait_for_depth(page, 0)
    assert page.locator(".node").all_text_contents() == whole
    assert page.evaluate("document.activeElement.classList.contains('opens')")


def test_by_keyboard_one_opens_a_block_and_leaves_it(page):
    first_block(page).focus()
    box = page.evaluate("document.activeElement.getAttribute('aria-label')")
    assert ", opens: " in box
    number = page.evaluate(
        "[...document.querySelectorAll('.node')].filter((box) => box.querySelector('title'))"
        ".indexOf(document.activeElement)"
    )
    page.locator(".node").first.focus()
    for _ in range(number):
        page.keyboard.press("ArrowDown")
    assert trail(page) == []
    page.keyboard.press("Enter")
    wait_for_depth(page, 1)
    assert page.evaluate("document.activeElement.closest('svg.drawing') !== null")
    said = page.text_content("output[aria-live=polite]")
    assert said.startswith("Whole graph › block ") and said.endswith(" boxes")
    page.keyboard.press("Escape")
    wait_for_depth(page, 0)
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == box
    page.keyboard.press("Escape")
    assert trail(page) == []


def test_moving_the_drawing_opens_nothing(page):
    box = first_block(page).bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + 15, box["y"] + 12, steps=4)
    page.mouse.up()
    page.wait_for_timeout(200)
    assert trail(page) == []


def test_blocks_open_in_blocks_and_an_equal_one_says_whose_inside_it_shows(load, tmp_path):
    model, x = MODELS["u-net"]
    with modules(model) as names:
        loss = model(x).sum()
    draw(loss, names=names, max_nodes=12).save(tmp_path / "x.html")
    page = load(tmp_path / "x.html")
    said = []
    for number in range(page.locator(".node.opens").count()):
        page.locator(".node.opens").nth(number).click()
        wait_for_depth(page, 1)
        said.append(page.text_content("output"))
        depth = 1
        while page.locator(".node.opens").count():
            first_block(page).click()
            wait_for_depth(page, depth := depth + 1)
        page.get_by_role("button", name="Whole graph", exact=True).click()
        wait_for_depth(page, 0)
    equal = [text for text in said if ". Drawn is " in text]
    assert 0 < len(equal) < len(said)


def test_axe_finds_nothing_in_an_open_block(page):
    first_block(page).click()
    wait_for_depth(page, 1)
    assert faults(page) == []


# ---- what the page may do


def test_nothing_runs_or_loads_that_somebody_else_brings_in(browser, path, tmp_path):
    brought = """<script>document.title = "ran"</script>
<img src="x" onerror="document.title = 'ran'"><img src="http://127.0.0.1:9/x.png">
<svg><circle onclick="document.title = 'ran'" class="brought" r="9"/></svg>
<iframe src="data:text/html,x"></iframe><link rel="stylesheet" href="http://127.0.0.1:9/x.css">
<style>main { display: none }</style>
<script src="data:text/javascript,document.title='ran'"></script>
<base href="http://127.0.0.1:9/">
</main>"""
    changed = tmp_path / "x.html"
    changed.write_text(path.read_text().replace("</main>", brought))
    page = browser.new_page()
    stopped = []
    page.on("requestfailed", lambda request: stopped.append((request.url, request.failure)))
    page.goto(changed.as_uri())
    page.locator(".brought").dispatch_event("click")
    stopped_by = page.evaluate(
        "new Promise((done) => {"
        "  document.addEventListener('securitypolicyviolation', (e) => done(e.effectiveDirective));"
        "  fetch('http://127.0.0.1:9/').catch(() => 0);"
        "})"
    )
    assert stopped_by == "connect-src"
    page.locator(".node").first.click()
    assert "ran" != page.title() and page.title().startswith("Backward graph")
    outside = [stop for stop in stopped if stop[0].startswith("http")]
    assert len(outside) == 2 and {reason for _, reason in outside} == {"csp"}
    assert page.evaluate("document.baseURI") == changed.as_uri()
    assert page.locator("main").is_visible() and "SumBackward0" in page.text_content(".details")
    page.close()


def test_a_drawing_has_no_style_or_script_of_its_own_that_the_policy_would_stop():
    svg = draw(record_backward(torch.ones(2, requires_grad=True).exp().sum())).svg
    assert " style=" not in svg and "<style" not in svg and "<script" not in svg


# ---- one picture


def searched(page, text: str, key: str = "") -> str:
    """What the page says once it has searched, and a key was pressed then."""
    said = page.text_content("output")
    search = page.get_by_label("Search")
    search.press(key) if key else search.fill(text)
    page.wait_for_function(
        "said => document.querySelector('output').textContent !== said", arg=said
    )
    return page.text_content("output")


def test_search_counts_and_enter_leads_from_one_to_the_next_and_back(page):
    said = searched(page, "norm2.weight")
    assert said == "12 found. Enter leads to the next."
    assert page.locator(".node.found").count() == 1  # one copy of twelve is drawn
    assert searched(page, "", "Enter") == "1 of 12: leaf encoder.layers.11.norm2.weight"
    assert rows(page)["Tensor"] == "encoder.layers.11.norm2.weight"
    assert searched(page, "", "Enter") == (
        "2 of 12: leaf encoder.layers.10.norm2.weight (drawn is its equal)"
    )
    assert searched(page, "", "Shift+Enter").startswith("1 of 12")
    assert searched(page, "", "Shift+Enter").startswith("12 of 12")
    assert searched(page, "no such thing") == "Nothing found."


def test_search_opens_what_is_around_and_stays_in_the_box_it_is_typed_in(page):
    searched(page, "layers.3.self_attn.in_proj_bias")
    assert trail(page) == [] and "self_attn" in page.locator(".node.found").text_content()
    said = searched(page, "", "Enter")
    assert said.startswith("1 of 1: leaf encoder.layers.3.self_attn.in_proj_bias")
    assert "self_attn" in trail(page)[-1]
    assert (
        page.locator(".node[aria-current]").locator("text").nth(1).text_content() == "…in_proj_bias"
    )
    assert page.evaluate("document.activeElement.type") == "search"
    searched(page, "leaf embedding")
    assert searched(page, "", "Enter").startswith("1 of 1")
    assert trail(page) == [] and "mbedding" in page.text_content(".details")


def test_enter_at_once_waits_for_what_was_typed(page):
    search = page.get_by_label("Search")
    search.fill("in_proj_bias")
    search.press("Enter")
    wait_for_depth(page, 1)
    assert page.text_content("output").startswith("1 of 12")


def test_a_cut_is_found(load, tmp_path):
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = (x * x.detach()).sum()
    draw(y, watch=watched).save(tmp_path / "x.html")
    page = load(tmp_path / "x.html")
    searched(page, "x.detach()")  # in the line of each Node too
    searched(page, "", "Shift+Enter")
    assert "cut" in page.locator(".node[aria-current]").get_attribute("class")


def test_a_wide_drawing_begins_where_its_root_is(window, load, tmp_path):
    leaves = [torch.ones(2, requires_grad=True) for _ in range(10)]
    draw(functools.reduce(torch.mul, leaves)).save(tmp_path / "wide.html")
    window.set_viewport_size({"width": 390, "height": 844})
    try:
        page = load(tmp_path / "wide.html")
        room = page.evaluate("() => document.querySelector('.view').scrollWidth - innerWidth")
        root = page.locator(".node.root").bounding_box()
    finally:
        window.set_viewport_size({"width": 1280, "height": 900})
    assert room > 200
    assert root["x"] >= 0 and root["x"] + root["width"] <= 390


# ---- light and dark


def background(page) -> str:
    return page.eval_on_selector("body", "body => getComputedStyle(body).backgroundColor")


def test_it_is_dark_where_the_reader_wants_that_and_light_on_paper(page):
    light = background(page)
    page.emulate_media(color_scheme="dark")
    first_block(page).click()
    wait_for_depth(page, 1)
    assert background(page) != light and faults(page) == []
    page.emulate_media(color_scheme="dark", media="print")
    assert background(page) == light
    assert not page.locator(".bar").is_visible()
    drawn, room = page.evaluate(
        "[document.querySelector('svg').clientWidth, document.documentElement.clientWidth]"
    )
    assert drawn <= room


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_no_text_is_hard_to_read(load, window, tmp_path, scheme):
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = (x.sin() * x.detach()).sum()
    draw(record_backward(y), watch=watched, shapes=True).save(tmp_path / "x.html")
    window.emulate_media(color_scheme=scheme)
    page = load(tmp_path / "x.html")
    texts = page.evaluate("""[...document.querySelectorAll("svg .node")].flatMap((node) => {
      const box = getComputedStyle(node.querySelector("path, polygon")).fill;
      const back = box === "none" ? getComputedStyle(document.body).backgroundColor : box;
      return [...node.querySelectorAll("text, tspan")].map((text) =>
        [text.textContent, getComputedStyle(text).fill, back]);
    })""")
    assert len(texts) > 10
    for text, ink, back in texts:
        assert contrast(ink, back) > 4.5, (text, ink, back)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours, as WCAG 2.2 has it."""

    def luminance(color: str) -> float:
        parts = [int(part) / 255 for part in re.findall(r"\d+", color)[:3]]
        red, green, blue = (p / 12.92 if p <= 0.04 else ((p + 0.055) / 1.055) ** 2.4 for p in parts)
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue

    low, high = sorted([luminance(one), luminance(other)])
    return (high + 0.05) / (low + 0.05)


# ---- a box that is chosen


def test_a_box_that_is_chosen_says_what_is_in_it(page):
    box = page.locator(".node.leaf").first
    box.click()
    assert "leaf embedding.weight (10, 8)" in page.text_content(".details")
    assert rows(page) == {
        "Node": "AccumulateGrad",
        "Tensor": "embedding.weight",
        "Shape": "(10, 8)",
        "Dtype": "float32",
    }


def rows(page) -> dict[str, str]:
    page.wait_for_selector(".details dl")
    words, texts = (page.locator(f".details {kind}").all_text_contents() for kind in ("dt", "dd"))
    return dict(zip(words, texts, strict=True))


def test_a_node_of_a_recorded_pass_tells_line_saved_bytes_and_gradient(load, tmp_path):
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = x.sin().sum()
    draw(record_backward(y), watch=watched).save(tmp_path / "x.html")
    page = load(tmp_path / "x.html")
    page.locator(".node", has_text="SinBackward0").click()
    shown = rows(page)
    assert shown["Saved"].startswith("8 bytes (self)") and shown["Gradient"] == "[1, 1]"
    assert shown["Line"].endswith("`x.sin()`") and shown["Leads to"] == "leaf x (2,)"


def test_by_keyboard_one_goes_from_box_to_box_and_zooms(page):
    for _ in range(20):
        page.keyboard.press("Tab")
        if page.evaluate("document.activeElement.classList.contains('node')"):
            break
    assert page.evaluate("document.activeElement.getAttribute('role')") == "button"
    page.keyboard.press("ArrowDown")
    second = page.locator(".node").nth(1).locator("title").text_content()
    assert page.evaluate("document.activeElement.getAttribute('aria-label')") == second
    assert rows(page)["Node"] in second
    before = width(page)
    page.keyboard.press("+")
    assert width(page) == pytest.approx(before * 1.25, rel=0.01)
    page.keyboard.press("0")
    view = page.eval_on_selector(".view", "view => [view.clientWidth, view.clientHeight]")
    drawn = page.eval_on_selector("svg", "svg => [svg.clientWidth, svg.clientHeight]")
    assert drawn[0] <= view[0] + 1 and drawn[1] <= view[1] + 1


def faults(page) -> list[tuple[str, list[str]]]:
    page.evaluate(AXE_SCRIPT)
    found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")["violations"]
    return [(fault["id"], [node["html"][:200] for node in fault["nodes"]]) for fault in found]


def test_axe_finds_nothing(page):
    assert faults(page) == []


def test_without_scripts_it_is_the_drawing(browser, path):
    page = browser.new_page(java_script_enabled=False)
    page.goto(path.as_uri())
    assert page.locator("svg[role=img]").count() == 1 and page.locator("button").count() == 0
    page.close()


@pytest.mark.parametrize("width", [390, 1280])
def test_without_scripts_a_wide_drawing_opens_at_its_root_and_scrolls_freely(
    browser, tmp_path, width
):
    leaves = [torch.ones(2, requires_grad=True) for _ in range(20)]
    draw(functools.reduce(torch.mul, leaves)).save(tmp_path / "wide.html")
    page = browser.new_page(java_script_enabled=False, viewport={"width": width, "height": 700})
    page.goto((tmp_path / "wide.html").as_uri())
    page.evaluate("Promise.all(document.getAnimations().map((each) => each.finished))")
    root = page.locator(".node.root")
    box = root.bounding_box()
    assert 0 < box["x"] and box["x"] + box["width"] < width
    assert page.evaluate("document.documentElement.scrollWidth") > width
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(100)
    assert page.evaluate("scrollX") == 0
    page.close()


def test_a_drawing_without_boxes_to_choose_has_a_page(load, tmp_path):
    path = tmp_path / "one.html"
    draw(torch.ones(2, requires_grad=True)).save(path)
    page = load(path)
    page.locator(".node").click()
    assert rows(page)["Node"] == "AccumulateGrad"
    assert page.get_by_role("button", name="Out of the block").count() == 0


# ---- a notebook


def test_it_works_in_the_frame_of_a_notebook_and_reaches_nothing_of_it(load, path, tmp_path):
    model, x = MODELS["encoder of 12 layers"]
    with modules(model) as names:
        loss = model(x).sum()
    drawing = draw(loss, names=names)
    (tmp_path / "notebook.html").write_text(f"<!DOCTYPE html><body>{drawing._repr_html_()}")
    page = load(tmp_path / "notebook.html")
    shown = page.locator("iframe").get_attribute("srcdoc")
    assert shown.replace(' class="framed"', "") == path.read_text()
    assert page.locator("iframe").get_attribute("title") == drawing.alt
    frame = page.frame_locator("iframe")
    frame.locator(".node.opens").first.click()
    frame.locator(".trail button").nth(1).wait_for()
    assert frame.locator("html").evaluate("() => self.origin") == "null"
    assert (
        frame.locator("html").evaluate(
            "() => { try { return parent.document.title } catch (e) { return e.name } }"
        )
        == "SecurityError"
    )


NOTEBOOKS = ["data-jp-theme-light=false", "class=vscode-dark", "theme=dark", ""]


@pytest.mark.parametrize(("scheme", "said"), every(3, product(("light", "dark"), NOTEBOOKS)))
def test_the_frame_follows_the_notebook_and_not_the_system(window, scheme, said):
    window.emulate_media(color_scheme=scheme)
    drawing = draw(torch.ones(2, requires_grad=True) * 2)
    window.goto("about:blank")  # or the policy of the page before would hold here too
    window.set_content(f"<!DOCTYPE html><body {said}>{drawing._repr_html_()}")
    turned = window.eval_on_selector("iframe", "frame => getComputedStyle(frame).filter")
    body = window.frame_locator("iframe").locator("body")
    expect(body).to_have_css("background-color", "rgb(255, 255, 255)")
    assert turned.startswith("invert" if said else "none")


def test_the_frame_of_a_small_drawing_is_small(window):
    x = torch.ones(2, requires_grad=True)
    window.goto("about:blank")
    window.set_content(draw(x * 2)._repr_html_())
    assert window.locator("iframe").bounding_box()["height"] < 400
    root = window.frame_locator("iframe").locator(".view")
    root.locator(".node").first.click()
    assert root.evaluate("view => view.scrollHeight - view.clientHeight") <= 1


def test_a_notebook_that_is_not_trusted_is_left_with_the_sentences():
    x = torch.ones(2, requires_grad=True)
    drawing = draw((x < 3) * x, names={'a<b>&"c"': x})
    rest = re.sub(r"<style>.*?</style>|<[^>]*>", "", drawing._repr_html_())
    assert html.unescape(rest) == drawing.alt
