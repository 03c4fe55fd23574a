"""The players of the course in a real browser: one screen high, and nothing moves or is crossed."""

import json
import re
from contextlib import ExitStack
from itertools import product
from pathlib import Path

import pytest
import torch

import companion
from companion.backward.player import Player
from tests.conftest import hearing_errors
from tests.slices import every

FIGURES = sorted((Path(__file__).parents[2] / "course/figures").glob("*.html"))
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 360, "height": 740}


def ready() -> Player:
    """A pass in which two Nodes, and a leaf and a Node, are ready together."""
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        w = torch.tensor(5.0, requires_grad=True)
        x = torch.tensor(3.0, requires_grad=True)
        h = x * 2
        a = h + 1
        b = h * h
        c = b * a
        y = c * w
    return companion.play(y)


READY = ready()


@pytest.fixture
def open_player(open_window, tmp_path):
    """Open a player of the course in a column as wide as that of the site, or another page."""
    heard, wrong = ExitStack(), []

    def opened(figure, *, html="", viewport=DESK, hash="", style="", **options):
        column = f"<style>main {{ max-width: 688px; margin: auto }} {style}</style>"
        player = Player("A player", figure.read_text()) if isinstance(figure, Path) else figure
        path = tmp_path / "page.html"
        path.write_text(html or player.html.replace("</head>", f"{column}</head>"))
        page = open_window(viewport=viewport, **options)
        heard.enter_context(hearing_errors(page, wrong))
        page.goto(path.as_uri() + hash)
        return page

    with heard:
        yield opened
    assert wrong == []


def data_of(figure):
    fragment = figure.read_text() if isinstance(figure, Path) else figure.fragment
    return json.loads(re.search(r'player-data">(.*?)</script>', fragment, re.DOTALL)[1])


def button(page, name):
    return page.get_by_role("button", name=name, exact=True)


def node(page, i):
    return page.locator(f".player-live .player-graph .node.n{i}:not(.none)")


def play(page, title):
    page.get_by_label("What to play").select_option(title)


HEIGHT = "document.querySelector('figure.player').offsetHeight"
# At each step of each mode, after each answer that can be given there.
HEIGHTS = f"""() => {{
  const [next, kind] = ["button.player-next", "select"].map((name) => document.querySelector(name))
  const heights = [{HEIGHT}]
  for (const option of kind.options) {{
    kind.value = option.value
    kind.dispatchEvent(new Event("change"))
    heights.push({HEIGHT})
    while (next.getAttribute("aria-disabled") === "false") {{
      for (const node of document.querySelectorAll(".player-live .node")) {{
        if (node.getAttribute("role") === "button") node.dispatchEvent(new Event("click"))
        heights.push({HEIGHT})
      }}
      next.click()
      heights.push({HEIGHT})
    }}
  }}
  return heights
}}"""
# What is crossed: a state by an arrow; a number by an arrow other than its own, a box or a number.
CROSSED = """() => {
  const graph = document.querySelector(".player-live .player-graph")
  const box = (part) => part.getBoundingClientRect()
  const has = (r, p, by = 0.3) =>
    r.left + by < p.x && p.x < r.right - by && r.top + by < p.y && p.y < r.bottom - by
  const overlap = (a, b) =>
    a.left < b.right && b.left < a.right && a.top < b.bottom && b.top < a.bottom
  const arrows = [...graph.querySelectorAll(".edge > path")].map((path) => ({
    edge: path.parentNode,
    points: Array.from({length: 200}, (_, i) =>
      path.getPointAtLength(path.getTotalLength() * i / 199).matrixTransform(path.getScreenCTM())),
  }))
  const found = []
  for (const state of graph.querySelectorAll(".player-badge")) {
    for (const {edge, points} of arrows) {
      if (points.some((point) => has(box(state), point))) {
        found.push([state.textContent, edge.getAttribute("class")])
      }
    }
  }
  const pills = [...graph.querySelectorAll(".player-pill")]
  for (const pill of pills) {
    if (box(pill).left < box(graph).left || box(pill).right > box(graph).right) {
      found.push([pill.textContent, "the border"])
    }
    for (const {edge, points} of arrows) {
      if (edge !== pill.parentNode && points.some((point) => has(box(pill), point))) {
        found.push([pill.textContent, edge.getAttribute("class")])
      }
    }
    for (const shape of graph.querySelectorAll(".node:not(.none) > :is(path, polygon)")) {
      if (overlap(box(pill), box(shape))) found.push([pill.textContent, "a box"])
    }
    for (const other of pills) {
      if (other !== pill && overlap(box(pill), box(other))) {
        found.push([pill.textContent, other.textContent])
      }
    }
    for (const text of graph.querySelectorAll(".edge:not(.sent) > text")) {
      if (overlap(box(pill), box(text))) found.push([pill.textContent, text.textContent])
    }
  }
  return found
}"""


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.stem)
def test_no_label_is_crossed_by_an_arrow_and_no_number_is_missing(open_player, figure):
    page = open_player(figure)
    for mode in data_of(figure)["modes"]:
        play(page, mode["title"])
        assert page.evaluate(CROSSED) == []
        button(page, "Last").click()
        assert page.evaluate(CROSSED) == []
        if "questions" in mode:
            sent = sum(len(step["passed"]) for step in mode["steps"])
            assert page.locator(".player-pill").count() == sent


@pytest.mark.parametrize("figure", FIGURES, ids=lambda figure: figure.stem)
def test_a_player_is_one_screen_high_and_nothing_moves_from_step_to_step(open_player, figure):
    for viewport in (DESK, PHONE):
        page = open_player(figure, viewport=viewport)
        heights = page.evaluate(HEIGHTS)
        steps = [len(mode.get("steps", ())) for mode in data_of(figure)["modes"]]
        assert len(heights) > 4 * sum(steps)
        assert len(set(heights)) == 1
        assert heights[0] <= min(780, viewport["height"])


def test_it_opens_with_the_first_node_ready_and_nothing_run(open_player):
    page = open_player(READY)
    labels = page.locator(".player-live .player-badge").all_text_contents()
    assert labels == [
        "ready",
        "waits for 1",
        "waits for 1",
        "waits for 1",
        "waits for 1",
        "waits for 3",
        "waits for 1",
    ]
    assert page.locator(".player-pill").count() == 0


def test_each_part_is_explained_once_where_it_first_has_something_to_say(open_player):
    page = open_player(READY)
    hints = page.locator(".player-hint:visible")
    shown = [hints.all_inner_texts()]
    for _ in range(7):
        button(page, "Next").click()
        shown.append([text for text in hints.all_inner_texts() if text])
    assert [len(texts) for texts in shown] == [2, 2, 0, 0, 0, 0, 0, 0]


def test_a_question_is_answered_by_a_click_on_a_node(open_player):
    page = open_player(READY)
    question = data_of(READY)["modes"][0]["questions"][0]
    page.get_by_label("Step", exact=True).fill(str(question["before"]))
    said = page.locator(".player-said")
    assert node(page, 5).locator(".player-badge").text_content() == "?"
    node(page, 5).click()
    assert said.inner_text().startswith("✗ Not this one: MulBackward0 (h) still waits for 3: ")
    assert "2 from MulBackward0 (b) and 1 from AddBackward0 (a)" in said.inner_text()
    node(page, 0).click()
    assert said.inner_text() == "✗ Not this one: MulBackward0 (y) has run already."
    node(page, data_of(READY)["modes"][0]["steps"][question["before"]]["node"]).focus()
    page.keyboard.press("Enter")
    assert said.inner_text().startswith("✓ Right: ")
    assert node(page, 5).locator(".player-badge").text_content() == "waits for 3"
    assert page.locator(".player-live [role=button]").count() == 0


def test_you_are_the_engine_by_clicks(open_player):
    page = open_player(READY)
    play(page, "You are the engine")
    said, steps = page.locator(".player-said"), data_of(READY)["modes"][0]["steps"]
    assert set(page.locator(".player-live .player-badge").all_text_contents()) == {"?"}
    node(page, 5).click()
    assert "MulBackward0 (h) still waits for 3" in said.inner_text()
    reasons = []
    for number, step in enumerate(steps, start=1):
        node(page, step["node"]).click()
        sentence = page.locator(".player-told").inner_text()
        assert sentence.startswith(f"Step {number} of 7")
        reasons.append(said.inner_text().partition(": ")[2])
    assert reasons[:3] == [
        "MulBackward0 (y) is the only Node that is ready.",
        "w is ready, and a leaf goes first.",
        "MulBackward0 (c) is the only Node that is ready.",
    ]
    assert reasons[3] == "MulBackward0 (b) is ready, and was made last."
    gate = page.locator(".player-gate").inner_text()
    assert gate.startswith("That was the whole pass, with 1 wrong pick.")


def test_you_are_the_engine_by_the_keyboard(open_player):
    page = open_player(READY)
    play(page, "You are the engine")
    button(page, "Last").focus()
    for number in (1, 2):
        for _ in range(9):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.classList.contains('node')"):
                break
        for _ in range(number * 2 - 2):
            page.keyboard.press("Tab")
        page.keyboard.press(" ")
        assert page.locator(".player-told").inner_text().startswith(f"Step {number} of 7")
        if number == 1:
            button(page, "Last").focus()


def test_the_end_of_a_pass_leads_to_your_own(open_player):
    page = open_player(READY)
    button(page, "Last").click()
    button(page, "Now you are the engine").click()
    assert page.get_by_label("What to play").locator("option:checked").inner_text() == (
        "You are the engine"
    )
    assert page.locator(".player-told").inner_text() == "Before step 1 of 7."


def test_what_is_not_ready_or_goes_later_is_told_why(open_player):
    """Of two ready ones it says which was made last, and that a leaf goes first."""
    page = open_player(READY)
    play(page, "You are the engine")
    said = page.locator(".player-said")
    node(page, 0).click()
    node(page, 1).click()
    assert "MulBackward0 (c) is ready as well, but a leaf goes first." in said.inner_text()
    node(page, 2).click()
    node(page, 1).click()
    node(page, 4).click()
    assert "AddBackward0 (a) is ready as well, but was made before MulBackward0 (b)." in (
        said.inner_text()
    )


def test_a_player_that_was_hidden_lays_itself_out_when_it_is_shown(open_player):
    style = "figure.player.player { display: none } figure.player.player.seen { display: block }"
    reveal = "document.querySelector('figure.player').classList.add('seen')"
    shown = open_player(READY)
    wanted = shown.evaluate(HEIGHT)
    page = open_player(READY, style=style)
    page.evaluate(reveal)
    page.wait_for_function(f"{HEIGHT} === {wanted}", timeout=5000)
    page = open_player(READY, style=style)
    event = "document.querySelector('figure.player').dispatchEvent(new Event('shown'))"
    assert page.evaluate(f"{reveal}; {event}; {HEIGHT}") == wanted
    page.set_viewport_size(PHONE)
    page.wait_for_function(f"{HEIGHT} !== {wanted}", timeout=5000)
    assert page.evaluate(HEIGHT) <= PHONE["height"]


def test_in_a_tall_drawing_the_node_that_ran_is_in_sight(open_player):
    y = torch.tensor(1.0, requires_grad=True)
    for _ in range(20):
        y = y.sin()
    page = open_player(companion.play(y))
    in_sight = """part => {
      const [box, node] = [part.closest(".player-scroll"), part].map(e => e.getBoundingClientRect())
      return box.top <= node.top && node.bottom <= box.bottom
    }"""
    assert not node(page, 20).evaluate(in_sight)
    for step in (21, 10, 1):
        page.get_by_label("Step", exact=True).fill(str(step))
        assert node(page, step - 1).evaluate(in_sight)
    assert page.evaluate(HEIGHT) <= 780


def test_on_a_phone_drawing_and_texts_share_the_screen_and_scroll(open_player):
    """Below the header of the page, and whatever is longest: the drawing, or the texts."""
    style = "figure.player.player { --player-top: 48px }"
    y = x = torch.tensor(1.0, requires_grad=True)
    for _ in range(9):
        y = (y * x).sin()
    page = open_player(companion.play(y), viewport=PHONE, style=style)
    assert page.evaluate(HEIGHT) <= PHONE["height"] - 48
    scroll, texts = page.locator(".player-live .player-scroll"), page.locator(".player-side").first
    height = "box => box.clientHeight"
    assert scroll.evaluate(height) > 200 < texts.evaluate(height)
    texts.evaluate("box => { box.scrollTop = 50 }")
    button(page, "Next").click()
    assert texts.evaluate("box => box.scrollTop") == 0
    assert page.locator(".player-told").first.is_visible()


def test_a_link_to_a_step_hides_nothing_below_the_header(open_player):
    key = re.search(r'data-key="(\w+)"', READY.fragment)[1]
    style = "main { padding: 1500px 0 } figure.player.player { --player-top: 48px }"
    page = open_player(READY, style=style, hash=f"#play-{key}-0-3")
    page.wait_for_function("scrollY > 0", timeout=5000)
    top = page.locator(".player-controls").evaluate("bar => bar.getBoundingClientRect().top")
    assert 48 <= top <= 60
    below = "panes => panes.getBoundingClientRect().top - panes.previousSibling.offsetHeight"
    assert page.locator(".player-panes").evaluate(below) >= 48
    # Further down the controls stay in sight.
    page.evaluate("scrollBy(0, 300)")
    assert button(page, "Next").evaluate("next => next.getBoundingClientRect().top") >= 48


def test_on_a_phone_tabs_choose_what_is_told_below_the_drawing(open_player):
    page = open_player(READY, viewport=PHONE)
    button(page, "Next").click()
    assert page.locator(".player-rule").is_visible()
    assert not page.locator(".player-engine").is_visible()
    button(page, "Engine").click()
    assert page.locator(".player-engine").is_visible()
    assert not page.locator(".player-rule").is_visible()
    button(page, "Next").click()
    assert page.locator(".player-engine").is_visible()
    assert page.locator(".player-tabs [aria-pressed=true]").all_inner_texts() == ["Engine"]
    assert page.evaluate("document.documentElement.scrollWidth") == 360
    wide = open_player(READY)
    assert not wide.locator(".player-tabs").is_visible()
    assert wide.locator(".player-engine").is_visible()


# What a notebook says of its theme, and whether it is dark, unless the system says so.
THEMES = [
    ('data-jp-theme-light="false"', True),
    ('data-jp-theme-light="true"', False),
    ('style="background: #111"', True),
    ('style="background: #fff"', False),
    ("", None),
]


@pytest.mark.parametrize(("system", "theme"), every(3, product(("light", "dark"), THEMES)), ids=str)
def test_in_a_notebook_it_follows_the_theme_and_fills_its_frame(open_player, system, theme):
    body, dark = theme
    notebook = f"<!DOCTYPE html><body {body}>{READY._repr_html_()}"
    page = open_player(READY, html=notebook, color_scheme=system)
    inner = page.frame_locator("iframe").locator("html")
    inner.locator(".player-next").wait_for()
    background = inner.evaluate(
        "html => getComputedStyle(html.querySelector('body')).backgroundColor"
    )
    is_dark = system == "dark" if dark is None else dark
    assert (background != "rgb(255, 255, 255)") == is_dark
    assert inner.evaluate("html => html.scrollHeight - html.clientHeight") == 0
    if "data-jp" in body:  # and it goes on to follow
        other = "true" if dark else "false"
        page.evaluate(f"document.body.dataset.jpThemeLight = '{other}'")
        scheme = "light" if dark else "dark"
        page.wait_for_function(
            "scheme => document.querySelector('iframe').contentDocument"
            ".documentElement.style.colorScheme === scheme",
            arg=scheme,
            timeout=5000,
        )
