"""What a player of blocks tells, compared with the recording and with gradients of torch itself."""

import re

import pytest
import torch

from companion import play, record_backward
from companion.backward.blocks import scenes
from companion.backward.player_scenes import SceneView, norm_of, scenes_data
from tests.backward.models import PROGRAMS, data_in, encoder
from tests.conftest import hearing_errors


def recording_of(program):
    loss, names = PROGRAMS[program]()
    return record_backward(loss, names=names)


class Played:
    """A recording of a program, its scenes, and their data, which several tests look at."""

    def __init__(self, program):
        self.program, self.recording = program, recording_of(program)
        self.scenes = scenes(self.recording.graph)
        self.data, _ = scenes_data(self.recording, times=False)


@pytest.fixture(scope="module", params=PROGRAMS)
def played(request):
    return Played(request.param)


def all_scenes(data):
    first = {"nodes": data["nodes"], "steps": data["modes"][0]["steps"], "outer": None}
    return [first, *data["scenes"]]


def test_each_step_of_the_engine_is_told_in_one_scene_as_that_of_a_node(played):
    recording, data = played.recording, played.data
    steps = []
    for scene in all_scenes(data):
        for step in scene["steps"]:
            if scene["nodes"][step["node"]]["opens"] is None:
                steps.append(step)
    assert len(steps) == len(recording.steps)
    assert sorted(name for step in steps for name in step["freed"]) == sorted(
        name for step in recording.steps for name in step.freed
    )


def test_a_block_runs_when_it_waits_for_nothing_and_all_that_wait_come_to_run(played):
    for scene in all_scenes(played.data):
        waits = {i: node["waits"] for i, node in enumerate(scene["nodes"])}
        ran = set()
        for step in scene["steps"]:
            if step["node"] not in ran and played.program not in ("branches", "tangle"):
                assert waits[step["node"]] == 0
            ran.add(step["node"])
            for node, count in step["waiting"].items():
                assert 0 <= count < waits[int(node)]
                waits[int(node)] = count
            assert step["ready"] == [int(i) for i, count in step["waiting"].items() if count == 0]
        inside = {i for i, node in enumerate(scene["nodes"]) if not node["outside"]}
        assert ran == inside
        assert all(waits[i] == 0 for i in inside)


def test_each_number_stands_on_the_arrow_that_leads_there(played):
    recording, found = played.recording, played.scenes
    number_of = {scene: number for number, scene in enumerate(found)}
    for scene in found:
        view = SceneView(recording, scene)
        dot = view.dot({})
        classes = {
            box: int(number)
            for box, number in re.findall(r'^\t+(\d+) \[.*class="[^"]*\bn(\d+)"', dot, re.MULTILINE)
        }
        edges = re.findall(r'(\d+) -> (\d+) \[.*class="e(\d+)-(\d+)"', dot)
        leads = {(int(k), int(slot)): classes[target] for _, target, k, slot in edges}
        assert all(classes[source] == int(k) for source, _, k, _ in edges)
        for step in view.data({}, number_of, times=False)["steps"]:
            for sent in step["passed"]:
                if (step["node"], sent["slot"]) in leads:
                    assert leads[step["node"], sent["slot"]] == sent["to"]


def test_the_norm_of_a_layer_is_that_of_the_gradient_of_its_output():
    loss, names, outputs = encoder()
    for output in outputs:
        output.retain_grad()
    data, _ = scenes_data(record_backward(loss, names=names), times=False)
    norms = {
        data["nodes"][step["node"]]["name"]: step["norm"] for step in data["modes"][0]["steps"]
    }
    for i, output in enumerate(outputs):
        assert norms[f"layers.{i}"] == pytest.approx(float(output.grad.norm()), rel=1e-5)


def test_a_layer_tells_the_norm_of_what_its_parameters_got():
    loss, names, _ = encoder()
    data, _ = scenes_data(record_backward(loss, names=names), times=False)
    own = [p.grad for name, p in names.items() if name.startswith("layers.2.")]
    norm = torch.cat([grad.flatten() for grad in own]).double().norm()
    (step,) = [
        s for s in data["modes"][0]["steps"] if data["nodes"][s["node"]]["name"] == "layers.2"
    ]
    assert f"norm {norm:.3g} were added to .grad of its 12 leaves" in " ".join(step["sentences"])


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_norm_that_is_not_finite_is_text(bad):
    x = y = torch.ones(3, requires_grad=True)
    for _ in range(151):
        y = y * 1.0
    y.register_hook(lambda gradient: gradient * bad)
    data = data_in(play(y.sum()).fragment)
    assert str(bad) in {step["norm"] for scene in all_scenes(data) for step in scene["steps"]}
    assert x.grad is None


def test_an_error_is_told_in_each_scene_around_its_node():
    class Copy(torch.autograd.Function):
        @staticmethod
        def forward(ctx, value, fails):
            ctx.fails = fails
            return value.clone()

        @staticmethod
        def backward(ctx, gradient):
            if ctx.fails:
                raise RuntimeError("no gradient here")
            return gradient, None

    y = torch.ones(3, requires_grad=True)
    for i in range(160):
        y = Copy.apply(y, i == 80)
    with pytest.raises(RuntimeError, match="no gradient here") as raised:
        play(y.sum())
    data, _ = scenes_data(raised.value.recording, times=False)
    last = [scene["steps"][-1] for scene in all_scenes(data) if scene["steps"]]
    failed = [step for step in last if step["raised"]]
    assert len(failed) >= 2
    assert data["modes"][0]["error"] == "RuntimeError: no gradient here"
    assert all("no gradient here" in s["error"] for s in data["scenes"] if s["error"])


def test_what_a_node_still_has_saved_tells_its_rule_and_what_was_freed_tells_none():
    loss, names, _ = encoder()
    rules = list[set[str]]()
    for is_kept in (True, False):
        recording = record_backward(loss, retain_graph=is_kept, names=names)
        rules.append(rules_of(scenes_data(recording, times=False)[0]))
    assert {"where(result > 0, grad, 0)", "grad @ mat2.T * alpha"} <= rules[0]
    assert "where(result > 0, grad, 0)" not in rules[1]


def rules_of(data):
    sent = [one for scene in all_scenes(data) for step in scene["steps"] for one in step["passed"]]
    return {one["rule"].partition(".sum_to_size")[0] for one in sent if one.get("rule")}


def test_times_are_told_where_they_are_asked_for():
    loss, names, _ = encoder()
    assert " ms." not in play(loss, names=names).fragment
    assert " ms." in play(loss, names=names, times=True).fragment


def test_equal_drawings_are_kept_once():
    data, drawings = scenes_data(recording_of("recurrent"), times=False)
    assert len(drawings) < len(data["scenes"]) / 3
    assert {scene["drawing"] for scene in data["scenes"]} == set(range(1, len(drawings)))


def test_a_norm_is_that_of_the_sum_and_none_where_it_cannot_be_had():
    a, b = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert norm_of(a, b) == 5.0
    assert norm_of(None) == 0.0
    assert norm_of(a.to_sparse(), None) == 3.0
    assert norm_of(a.to("meta")) is None


# ---- in a browser


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """The player of an encoder in a file."""
    loss, names, _ = encoder()
    path = tmp_path_factory.mktemp("scenes") / "player.html"
    play(loss, names=names).save(path)
    return path


@pytest.fixture
def page(open_window, saved):
    page = open_window(viewport={"width": 1000, "height": 900})
    wrong = []
    with hearing_errors(page, wrong):
        page.goto(saved.as_uri())
        yield page
    assert wrong == []


def press(page, name, times=1):
    for _ in range(times):
        page.get_by_role("button", name=name, exact=True).click()


def told(page):
    return page.locator(".player-told").first.inner_text()


def test_it_opens_with_the_root_ready_and_nothing_run(page):
    assert told(page).startswith("Before step 1 of")
    assert page.locator(".player-live .node.ready").count() == 1
    assert page.locator(".player-live :is(.done, .now), .player-taken").count() == 0
    assert page.locator(".player-live .node.n0 .player-badge").text_content() == "ready"


def test_a_block_opens_is_stepped_through_and_closes_to_the_step_after_it(page):
    press(page, "Next", 3)
    assert told(page) == "Step 3 of 6: layers.3 ran."
    assert page.locator(".player-bars .player-taken").count() == 3
    press(page, "Open this block")
    assert told(page).startswith("Before step 1 of")
    press(page, "Next")
    assert "NativeLayerNormBackward0 #1 ran." in told(page)
    assert page.locator(".player-path strong").inner_text() == "layers.3"
    assert page.evaluate("document.activeElement.textContent") == "Next"
    press(page, "Last")
    assert page.locator(".player-live .node.ready").count() == 0
    press(page, "The whole pass")
    assert told(page) == "Step 3 of 6: layers.3 ran."


def test_a_double_click_opens_a_block_and_a_link_leads_into_it(page):
    page.locator(".player-live .node.folded").first.dblclick()
    press(page, "Next", 2)
    inside = told(page)
    link = page.get_by_role("link", name="Link to this step").get_attribute("href")
    page.goto("about:blank")
    page.go_back()
    press(page, "The whole pass")
    page.evaluate("hash => { location.hash = hash }", link)
    page.wait_for_function(
        "text => document.querySelector('.player-told').textContent === text", arg=inside
    )


def test_the_norm_of_each_block_that_ran_stands_on_the_drawing(page):
    press(page, "Last")
    blocks = page.locator(".player-live .node.folded")
    assert blocks.count() == 4
    for text in blocks.all_text_contents():
        assert re.search(r"(done|now) · norm \d", text)
    assert page.locator(".player-live .player-norm").count() == 6


def test_without_scripts_and_on_paper_each_scene_has_its_drawing_and_its_steps(page, new_page):
    data = data_in(page.content())
    count = 1 + len(data["scenes"])
    assert page.locator(".player-table:visible").count() == 0
    still = new_page(java_script_enabled=False)
    still.goto(page.url)
    page.emulate_media(media="print")
    for shown in (page, still):
        tables = shown.locator(".player-story .player-table:visible")
        captions = tables.locator("caption").all_text_contents()
        assert len(set(captions)) == len(captions) == count
        assert tables.locator("tbody tr").count() == sum(len(s["steps"]) for s in all_scenes(data))
        assert shown.locator(".player-story svg:visible").count() == count
        inner = shown.locator(".player-inner svg").all_text_contents()
        assert not any(re.search("done|norm 0", text) for text in inner)  # a script writes it
    still.close()


def test_all_steps_as_a_table_are_those_of_all_scenes(page):
    press(page, "All steps as a table")
    assert (
        page.locator(".player-table:visible").count() == page.locator(".player-table").count() > 1
    )
    assert page.locator(".player-story svg:visible").count() == 0


def test_on_a_phone_it_does_not_scroll_sideways(page):
    page.set_viewport_size({"width": 320, "height": 800})
    press(page, "Next", 3)
    press(page, "Open this block")
    assert page.evaluate("document.documentElement.scrollWidth") == 320
