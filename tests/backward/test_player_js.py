"""player.js: the page, in a real browser, tells what the recording holds."""

import re
import warnings
from contextlib import ExitStack
from xml.etree.ElementTree import fromstring

import pytest
import torch
from axe_playwright_python.base import AXE_SCRIPT

from companion import play, record_backward
from companion.backward.player import Player
from companion.backward.player_data import node_names, player_data
from companion.backward.player_steps import engine_steps
from tests.backward.models import data_of, diamond
from tests.conftest import hearing_errors
from tests.pages import COLOURS, EVERYTHING, VIOLATIONS


@pytest.fixture
def open_page(open_window, tmp_path):
    """Open players, on one page, and tell what went wrong in it at the end."""
    heard, wrong = ExitStack(), []

    def opened(*players, hash="", **options):
        path = tmp_path / "page.html"
        page_html = players[0].html
        first = players[0].fragment
        path.write_text(page_html.replace(first, "".join(p.fragment for p in players)))
        page = open_window(**options)
        elsewhere = lambda r: r.url.startswith("file:") or wrong.append(r.url)  # noqa: E731
        heard.enter_context(hearing_errors(page, wrong, request=elsewhere))
        page.goto(path.as_uri() + hash)
        return page

    with heard:
        yield opened
    assert wrong == []


def button(page, name, nth=0):
    return page.get_by_role("button", name=name, exact=True).nth(nth)


def settle(page):
    """Answer a question that would hide what is ready."""
    if page.get_by_role("button", name="Show me").count():
        button(page, "Show me").click()


def go_to(page, step):
    page.get_by_label("Step", exact=True).fill(step)


def status(page):
    return page.locator(".player-told").first.inner_text()


def nth(n):
    return f"{n}{ {1: 'st', 2: 'nd', 3: 'rd'}.get(n, 'th') }"


def test_each_pane_tells_each_step_of_the_recording(open_page):
    x, y = diamond()
    recording = record_backward(y)
    names, page = node_names(recording.graph), open_page(play(recording))
    data, waiting, buffers = player_data(recording), dict(recording.waiting), {}
    steps = engine_steps(recording)
    operations = sum(not node["leaf"] for node in data["nodes"])
    for number, step in enumerate(recording.steps):
        button(page, "Next").click()
        settle(page)
        assert status(page) == f"Step {number + 1} of 5: {names[step.node]} ran."
        # The code.
        line = data["nodes"][step.node]["line"]
        lit = page.locator(".player-code [aria-current]").all_inner_texts()
        assert lit == ([] if line is None else [data["lines"][line]])
        leaf = f"{names[step.node]} is a leaf: no operation made it."
        assert (leaf in page.locator(".player-code").inner_text()) == (line is None)
        # What the Node did.
        rule = page.locator(".player-rule").inner_text()
        for arrival in steps[number]["came"]:
            assert arrival["value"] in rule
        given = ", ".join(steps[number]["given"])
        assert f"What it was given: {given}" in rule
        for passed in steps[number]["passed"]:
            several = data["nodes"][step.node]["slots"] > 1
            slot = f", slot {passed['slot']}" if several else ""
            assert f"to {names[passed['to']]}{slot}: {passed['rule']}" in rule.replace("\n=", " =")
            assert f"= {passed['value']}" in rule or passed["rule"] == "grad"
        freed = f"freed what it had saved: {', '.join(step.freed)}."
        assert (freed in rule) == bool(step.freed)
        if step.grad_after is not None:
            assert f"Its .grad was None and is {x.grad.item():.4g}." in rule
        # The engine.
        waiting.update(step.waiting)
        waiting.pop(step.node)
        buffers.pop(step.node, None)
        holds = {node: f"holds {value}" for node, value in buffers.items()}
        for passed in steps[number]["passed"]:
            node, before = passed["to"], passed["before"]
            buffers[node] = passed["after"]
            sum_ = "" if before == "empty" else f"{before} + {passed['value']} = "
            holds[node] = f"holds {sum_}{passed['after']}"
        made = [node["made"] for node in data["nodes"]]
        ready = [
            f"{names[i]} "
            + (f"(the {nth(made[i])} of {operations} operations)" if made[i] else "(a leaf)")
            for i, count in waiting.items()
            if count == 0
        ]
        rest = [f"{names[i]} waits for {count}" for i, count in waiting.items() if count]
        held = [*(i for i in waiting if waiting[i] == 0), *(i for i in waiting if waiting[i])]
        assert page.locator(".player-engine li").all_inner_texts() == [
            ", ".join(filter(None, (text, holds.get(i))))
            for text, i in zip([*ready, *rest], held, strict=True)
        ]
        # The graph.
        done = [earlier.node for earlier in recording.steps[:number]]
        for i in range(len(names)):
            wanted = (
                "now"
                if i == step.node
                else "done"
                if i in done
                else "ready"
                if waiting[i] == 0
                else f"waits for {waiting[i]}"
            )
            assert page.locator(f".player-live .node.n{i} .player-badge").text_content() == wanted
        # What went along an arrow stays on it, and what went last stands out.
        sent = [s for s in steps[: number + 1] if s["passed"]]
        for earlier in sent:
            for passed in earlier["passed"]:
                edge = page.locator(f".player-live .e{earlier['node']}-{passed['slot']}")
                assert edge.locator(".player-pill").text_content().endswith(passed["value"])
                assert ("flow" in edge.get_attribute("class")) == (earlier is steps[number])
    for name, off in (
        ("First", "false"),
        ("Previous", "false"),
        ("Next", "true"),
        ("Last", "true"),
    ):
        assert button(page, name).get_attribute("aria-disabled") == off


def test_what_enters_a_node_by_several_inputs_is_told_apart(open_page):
    whole = torch.arange(4.0, requires_grad=True)
    first, second = whole.split(2)
    page = open_page(play((first * second + first).sum()))
    last = button(page, "Last")
    last.click()
    last.press("ArrowLeft")
    rule = page.locator(".player-rule").inner_text()
    assert "[1, 1] from AddBackward0, slot 1, to input 0; [2, 3] from MulBackward0, slot 0" in rule
    assert "What it was given: [3, 4], the sum at input 0 and [0, 1] at input 1." in rule
    assert "Its value when the pass began: output 0: [0, 1]; output 1: [2, 3]." in rule


def test_buttons_keys_and_clicks_on_nodes_move(open_page):
    page = open_page(play(diamond()[1]))
    assert status(page) == "Before step 1 of 5."
    assert button(page, "Previous").get_attribute("aria-disabled") == "true"
    button(page, "Last").click()
    assert status(page).startswith("Step 5 of 5")
    button(page, "Previous").press("ArrowLeft")
    assert status(page).startswith("Step 4 of 5")
    page.keyboard.press("ArrowRight")
    assert status(page).startswith("Step 5 of 5")
    page.keyboard.press("Home")
    assert status(page).startswith("Before step 1")
    page.keyboard.press("End")
    assert status(page).startswith("Step 5 of 5")
    page.locator(".player-live .node.n1 text").first.click()
    assert status(page) == "Step 2 of 5: MulBackward0 #1 ran."
    go_to(page, "3")
    assert status(page).startswith("Step 3 of 5: SinBackward0")
    button(page, "First").click()
    assert status(page).startswith("Before step 1")


def test_keys_go_through_all_steps_past_the_questions(open_page):
    page = open_page(play(diamond()[1]))
    button(page, "Next").focus()
    for number in range(1, 6):
        page.keyboard.press("ArrowRight")
        assert status(page).startswith(f"Step {number} of 5")


def test_a_link_to_a_step_leads_there(open_page):
    page = open_page(play(diamond()[1]))
    go_to(page, "3")
    assert re.search(r"#play-[0-9a-f]{8}-0-3$", page.url)
    assert page.get_by_role("link", name="Link to this step").get_attribute("href") in page.url
    page.reload()
    assert status(page).startswith("Step 3 of 5")
    page.evaluate("location.hash = location.hash.replace(/3$/, '4')")
    page.wait_for_function("document.querySelector('.player-told').textContent.includes('Step 4')")
    page.evaluate("location.hash = '#play-00000000-0-1'")
    assert status(page).startswith("Step 4 of 5")


def test_a_question_is_asked_and_each_answer_is_explained(open_page):
    player = play(diamond()[1])
    question = data_of(player)["modes"][0]["questions"][0]
    names = [node["name"] for node in data_of(player)["nodes"]]
    page = open_page(player)
    gate = page.locator(".player-gate")
    assert gate.inner_text() == ""
    go_to(page, str(question["before"]))
    assert gate.inner_text().startswith("Which Node runs next?")
    engine = page.locator(".player-engine")
    assert "Waiting" not in engine.inner_text()  # which would give it away
    assert page.locator(".player-live .node.ready").count() == 0
    right = data_of(player)["modes"][0]["steps"][question["before"]]["node"]
    for option in sorted(question["options"], key=lambda option: option == right):
        gate.get_by_role("button", name=names[option], exact=True).click()
        said = gate.locator(".player-said")
        start = "✓ Right: " if option == right else "✗ Not this one: "
        assert said.inner_text().startswith(f"{start}{names[option]} ")
        tone = "player-right" if option == right else "player-wrong"
        assert tone in said.get_attribute("class")
        if option != right:
            assert gate.locator("[aria-pressed=true]").all_inner_texts() == [names[option]]
    assert "Waiting" in engine.inner_text()
    assert page.evaluate("document.activeElement.textContent") == "Next"
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowLeft")
    assert gate.get_by_role("button").count() == 0  # it stays settled


def test_the_other_modes_are_played(open_page):
    x = torch.tensor(3.0, requires_grad=True)
    a = x * 3.0
    page = open_page(play(a * 6.0 + a * 6.0))
    page.get_by_label("What to play").select_option("A second backward()")
    button(page, "Last").click()
    assert "Its .grad was 36 and is 72." in page.locator(".player-rule").inner_text()
    page.get_by_label("What to play").select_option("Depth first (wrong)")
    assert status(page) == "Before step 1 of 7."
    button(page, "Last").click()
    assert "Its .grad was 18 and is 54." in page.locator(".player-rule").inner_text()
    assert "it held" not in page.locator(".player-rule").inner_text().lower()
    page.locator(".player-live .player-bar").first.press("ArrowLeft")
    assert status(page) == "Step 6 of 7: MulBackward0 (a) ran."
    assert "It held 6 already" in page.locator(".player-rule").inner_text()
    page.keyboard.press("End")
    assert "MulBackward0 (a) ran 2 times" in page.locator(".player-engine").inner_text()
    assert page.locator(".player-live .node.n4 .player-badge").text_content() == "now, 2nd time"
    page.reload()
    assert status(page).startswith("Step 7 of 7")
    assert "54" in page.locator(".player-rule").inner_text()


def test_a_second_pass_over_a_freed_graph_ends_in_the_error(open_page):
    x, y = diamond()
    page = open_page(play(record_backward(y)))
    page.get_by_label("What to play").select_option("A second backward()")
    button(page, "Last").click()
    assert status(page) == "Step 2 of 2: MulBackward0 #1 raised an error."
    assert "a second time" in page.locator(".player-error").inner_text()


@pytest.mark.parametrize("where", ["root", "below", "inside"])
def test_an_error_is_told_where_it_was_raised(open_page, where):
    x, y = diamond()
    node = y.grad_fn if where == "root" else y.grad_fn.next_functions[0][0]
    node.register_hook(lambda *_: 1 / 0) if where == "inside" else node.register_prehook(
        lambda _: 1 / 0
    )
    with pytest.raises(ZeroDivisionError) as raised:
        record_backward(y)
    player = play(raised.value.recording)
    assert "ZeroDivisionError: division by zero" in player.fragment.partition("<script")[0]
    page = open_page(player)
    if where != "root":
        button(page, "Last").click()
    settle(page)
    error = page.locator(".player-error").inner_text()
    assert error.endswith("ZeroDivisionError: division by zero")
    assert error.startswith("The pass ended before the next Node ran.") == (where != "inside")
    assert (
        status(page)
        == {
            "root": "Before step 1 of 0.",
            "below": "Step 1 of 1: AddBackward0 (y) ran.",
            "inside": "Step 2 of 2: MulBackward0 #1 raised an error.",
        }[where]
    )


def test_what_a_hook_changed_and_what_is_not_needed_is_told(open_page):
    x, w = (torch.tensor(2.0, requires_grad=True) for _ in range(2))
    a = x.sin()
    a.register_hook(lambda gradient: gradient * 2)
    page = open_page(play(record_backward(a * w.cos(), inputs=[x])))
    button(page, "Last").click()
    button(page, "Last").press("ArrowLeft")
    assert "A hook changed it on the way." in page.locator(".player-rule").inner_text()
    assert page.locator(".player-live .node.n2 .player-badge").text_content() == "not needed"


def test_the_keyboard_keeps_its_place(open_page):
    player = play(diamond()[1])
    question = data_of(player)["modes"][0]["questions"][0]
    page = open_page(player)
    go_to(page, str(question["before"]))
    button(page, "Show me").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    assert status(page).startswith(f"Step {question['before'] + 2} of 5")
    page.locator(".player-live .node.n1 text").first.click()
    page.keyboard.press("ArrowRight")
    assert status(page).startswith("Step 3 of 5")
    page.keyboard.press("Control+ArrowRight")
    assert status(page).startswith("Step 3 of 5")
    page.get_by_label("What to play").select_option("A second backward()")
    page.keyboard.press("ArrowRight")
    assert status(page).startswith("Step 1 of 5")


def test_the_slider_tells_the_step_that_was_taken_and_is_moved_by_the_keyboard(open_page):
    page = open_page(play(diamond()[1]))
    slider = page.get_by_label("Step", exact=True)
    assert slider.get_attribute("aria-valuetext") == "Before the first step"
    slider.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext") == "Step 1 of 5: AddBackward0"
    slider.press("End")
    assert status(page).startswith("Step 5 of 5")
    slider.press("ArrowLeft")
    assert status(page).startswith("Step 4 of 5")
    assert page.locator(".player-count").inner_text() == "4 / 5"


def test_the_nodes_that_a_pass_makes_appear_with_their_step(open_page):
    x = torch.tensor(3.0, requires_grad=True)
    y = x.sin() * x
    with warnings.catch_warnings(action="ignore"):  # torch tells of the cycle once a process
        recording = record_backward(y, create_graph=True)
    page = open_page(play(recording))
    shown = "all => all.filter(e => e.checkVisibility({visibilityProperty: true})).length"
    second = page.locator(".player-live .player-second text", has_text="step")
    made = [len(step.made) for step in recording.steps]
    assert sum(made) > 2
    counts = [second.evaluate_all(shown)]
    for step in recording.steps:
        button(page, "Next").click()
        counts.append(second.evaluate_all(shown))
        rule = page.locator(".player-rule").inner_text()
        for i in step.made:
            assert recording.second.nodes[i].name in rule
            label = page.locator(
                f".player-live .player-second .node.n{i}:not(.none)"
            ).text_content()
            assert f"step {step.index + 1}" in label
    assert [after - before for before, after in zip(counts, counts[1:], strict=False)] == made
    x.grad = None


def test_two_players_on_a_page_do_not_disturb_each_other(open_page):
    player = play(diamond()[1])
    x = torch.tensor(2.0, requires_grad=True)
    page = open_page(player, play(x.exp()), player)
    first, second, third = page.locator(".player-told").all()
    button(page, "Next", 2).click()
    button(page, "Next", 2).click()
    assert first.inner_text().startswith("Before step 1 of 5")
    assert second.inner_text().startswith("Before step 1 of 2")
    assert third.inner_text().startswith("Step 2 of 5")
    page.reload()
    assert first.inner_text().startswith("Before step 1 of 5")
    assert third.inner_text().startswith("Step 2 of 5")
    button(page, "Next", 1).click()
    assert second.inner_text().startswith("Step 1 of 2: ExpBackward0")
    assert third.inner_text().startswith("Step 2 of 5")


def test_names_and_values_stay_text(open_page):
    Evil = type("</script><b>&amp;", (torch.autograd.Function,), {})
    Evil.forward = staticmethod(lambda ctx, x: x * 2)
    Evil.backward = staticmethod(lambda ctx, grad: grad * 2)
    x = torch.tensor(2.0, requires_grad=True)
    player = play(Evil.apply(x))
    fromstring(player.fragment)
    page = open_page(player)
    button(page, "Next").click()
    assert status(page) == "Step 1 of 2: </script><b>&amp;Backward ran."
    assert page.locator("b").count() == 0
    assert page.title() == player.alt
    page = open_page(player, java_script_enabled=False)
    assert page.locator("b").count() == 0
    assert "</script><b>&amp;Backward" in page.locator(".player-table").inner_text()


@pytest.mark.parametrize(
    ("scheme", "rules"), [("light", EVERYTHING), ("dark", {"runOnly": COLOURS})]
)
def test_nothing_stands_in_anybodys_way(open_page, scheme, rules):
    """At each step, at the width of a phone: axe finds nothing, and nothing scrolls sideways."""
    axe = [["html"], rules]
    viewport = {"width": 320, "height": 700}
    page = open_page(play(diamond()[1]), color_scheme=scheme, viewport=viewport)
    page.evaluate(AXE_SCRIPT)
    page.evaluate("document.querySelector('main').prepend(document.createElement('h1'))")
    page.locator("h1").evaluate("heading => heading.append('A page')")
    for number in (0, 2, 5):
        go_to(page, str(number))
        assert page.evaluate(VIOLATIONS, axe) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 320
    button(page, "All steps as a table").click()
    assert page.locator(".player-table").is_visible()
    assert page.evaluate(VIOLATIONS, axe) == []
    page.get_by_label("What to play").select_option("You are the engine")
    page.locator(".player-live .node.n1").press("Enter")
    assert "still waits for 1" in page.locator(".player-said").inner_text()
    assert page.evaluate(VIOLATIONS, axe) == []


def test_what_has_nothing_to_say_is_not_shown(open_page):
    page = open_page(play(diamond(noted=False)[1]))
    assert not page.locator(".player-code").is_visible()
    assert not page.locator(".player-rule").is_visible()
    assert not page.locator(".player-gate").is_visible()
    button(page, "Next").click()
    assert page.locator(".player-rule").is_visible()
    assert not page.locator(".player-code").is_visible()


def test_without_javascript_and_on_paper_there_is_the_storyboard(open_page):
    page = open_page(play(diamond()[1]), java_script_enabled=False)
    assert page.locator(".player-table").is_visible()
    assert page.locator(".player-graph").is_visible()
    assert page.get_by_role("button").count() == 0
    page = open_page(play(diamond()[1]))
    assert not page.locator(".player-table").is_visible()
    page.emulate_media(media="print")
    assert page.locator(".player-table").is_visible()
    assert page.locator(".player-story .player-graph").is_visible()
    assert not page.locator(".player-live").is_visible()


def test_it_works_in_the_frame_of_a_notebook(open_page):
    player = play(diamond()[1])
    page = open_page(Player("", ""), hash="")
    page.set_content(player._repr_html_())
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="Next", exact=True).click()
    assert frame.locator(".player-told").inner_text().startswith("Step 1 of 5")
    assert frame.get_by_role("link").count() == 0  # it would lead out of the frame
