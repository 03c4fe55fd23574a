"""player.py: the page, in a real browser, tells what the recording holds."""

import html
import json
import re
import warnings
import weakref
from contextlib import ExitStack
from xml.etree.ElementTree import fromstring

import pytest
import torch
from axe_playwright_python.base import AXE_SCRIPT
from torch.utils.checkpoint import checkpoint

from companion import play, record_backward
from companion.backward.player import Player
from companion.backward.player_data import node_names, player_data
from companion.backward.player_steps import engine_steps
from tests.conftest import listening


def diamond(noted=True):
    """Two paths meet in a and in b; the lines are noted by torch."""
    with torch.autograd.set_detect_anomaly(noted, check_nan=False):
        x = torch.tensor(2.0, requires_grad=True)
        a = x * 3.0
        b = a.sin()
        y = a * b + b
    return x, y


def data_of(player):
    return json.loads(re.search(r'player-data">(.*?)</script>', player.fragment, re.DOTALL)[1])


# ---- what it takes


def test_a_tensor_is_played_and_everything_is_as_it_was():
    x, y = diamond()
    h = y * 1.0
    h.retain_grad()
    x.grad = old = torch.tensor(5.0)
    z = h * 2.0
    seen = []
    h.register_hook(lambda gradient: seen.append(gradient.item()))
    player = play(z)
    assert x.grad is old
    assert x.grad == 5.0
    assert h.grad is None
    assert seen == [2.0]
    assert player.alt == "A player: the backward pass from MulBackward0 (z) in 7 steps."
    z.backward()  # the graph was kept
    assert x.grad != 5.0


def test_what_was_played_adds_to_no_gradient_but_shows_how_it_would():
    x = torch.tensor(3.0, requires_grad=True)
    x.grad = torch.tensor(5.0)
    steps = data_of(play(x * x))["modes"][0]["steps"]
    assert steps[-1]["grad"] == ["5", "11"]
    assert x.grad == 5.0


def test_a_recording_is_played_as_it_is():
    x, y = diamond()
    recording = record_backward(y)
    assert data_of(play(recording)) == player_data(recording)


def test_a_recording_that_an_error_cut_short_is_played():
    x, y = diamond()
    y.backward()
    with pytest.raises(RuntimeError) as raised:
        play(y)
    player = play(raised.value.recording)
    assert data_of(player)["modes"][0]["error"].startswith("RuntimeError: Trying to backward")
    assert "raised RuntimeError" in player.fragment


@pytest.mark.parametrize("what", [None, 3, "loss", [torch.ones(())]])
def test_anything_else_is_refused(what):
    with pytest.raises(TypeError, match=r"play shows a tensor or a Recording, got \w+"):
        play(what)


def test_torchs_own_errors_come_through():
    with pytest.raises(RuntimeError, match="does not require grad"):
        play(torch.ones(()))
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(RuntimeError, match="only for scalar outputs"):
        play(x * 2)
    assert x.grad is None


def chain_of(nodes):
    """A scalar whose graph has so many Nodes."""
    y = torch.ones((), requires_grad=True)
    for _ in range(nodes - 1):
        y = y * 1.0
    return y


def test_a_graph_that_is_too_large_is_refused_before_anything_runs():
    y = chain_of(5001)
    y.register_hook(lambda gradient: 1 / 0)
    with pytest.raises(ValueError, match="has 5001 Nodes, and a player shows at most 5000: play"):
        play(y)


def test_up_to_150_nodes_each_is_a_step_and_above_a_block_is():
    assert play(chain_of(150)).alt.endswith("in 150 steps.")
    player = play(chain_of(151))
    assert data_of(player)["scenes"]
    assert len(data_of(player)["modes"]) == 1


def test_a_large_recording_is_refused_as_well():
    recording = record_backward(chain_of(5001))
    with pytest.raises(ValueError, match="has 5001 Nodes"):
        play(recording)


def test_names_are_for_a_tensor_and_not_for_a_recording():
    x = torch.ones((), requires_grad=True)
    assert "theta" in play(x * 2, names={"theta": x}).fragment
    with pytest.raises(ValueError, match=r"give them to record_backward\(..., names=...\)"):
        play(record_backward(x * 2), names={"theta": x})
    with pytest.raises(TypeError, match="names"):
        play(x * 2, names=[x])


def test_grad_is_given_back_also_when_the_pass_raises_and_when_one_cannot_be():
    w, v = (torch.ones(2, requires_grad=True) for _ in range(2))
    w.grad, v.grad = (old := torch.full((2,), 5.0)), (older := torch.full((2,), 7.0))
    y = (w * v).sum()
    handle = y.grad_fn.next_functions[0][0].register_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        play(y)
    handle.remove()
    assert w.grad is old
    assert v.grad is older
    w.register_post_accumulate_grad_hook(lambda leaf: setattr(leaf, "data", leaf.data[:1]))
    with pytest.raises(RuntimeError, match="size"):
        play(y)
    assert v.grad is older
    assert torch.equal(older, torch.full((2,), 7.0))


@pytest.mark.parametrize("had_a_grad", [False, True])
def test_what_a_custom_function_leaves_in_grad_by_a_pass_of_its_own_is_taken_back(had_a_grad):
    layers = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Tanh(), torch.nn.Linear(3, 3))

    class Reversible(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return layers(x)

        @staticmethod
        def backward(ctx, grad):
            x = ctx.saved_tensors[0].detach().requires_grad_()
            with torch.enable_grad():
                y = layers(x)
            y.backward(grad)
            return x.grad

    x = torch.ones(1, 3, requires_grad=True)
    y = Reversible.apply(Reversible.apply(x)).sum() + layers[0].weight.sum()
    leaves = [x, *layers.parameters()]
    for leaf in leaves if had_a_grad else ():
        leaf.grad = torch.full_like(leaf, 7.0)
    before = [leaf.grad for leaf in leaves]
    assert play(y)
    for leaf, grad in zip(leaves, before, strict=True):
        assert leaf.grad is grad
        assert grad is None or (grad == 7.0).all()
    y.backward()  # what it would have left
    assert all((leaf.grad != 7.0).any() for leaf in leaves)


# A negative number that a Node saved; scalars with a dimension; nested and sparse tensors.
ODD = {
    "softmax": lambda x: x.softmax(-1),
    "log_softmax": lambda x: x.log_softmax(-2),
    "unsqueeze": lambda x: x.unsqueeze(-1),
    "squeeze": lambda x: x[:, :1].squeeze(-1),
    "transpose": lambda x: x.transpose(-1, -2),
    "mT": lambda x: x.mT,
    "permute": lambda x: x.permute(-1, 0),
    "sum": lambda x: x.sum((-1, 0), keepdim=True),
    "cumsum": lambda x: x.cumsum(-1),
    "cat": lambda x: torch.cat([x, x], -1),
    "stack": lambda x: torch.stack([x, x], -1),
    "flip": lambda x: x.flip(-1),
    "roll": lambda x: x.roll(-1, -1),
    "amax": lambda x: x.amax(-1),
    "amax of a scalar": lambda x: x.sum().amax(0),
    "softmax of a scalar": lambda x: x.sum().softmax(-1),
    "attention": lambda x: torch.nn.functional.scaled_dot_product_attention(x, x, x),
    "jagged": lambda x: (
        torch.nested.nested_tensor_from_jagged(x, torch.tensor([0, 1, 4])).sin().to_padded_tensor(0)
    ),
    "nested": lambda x: torch.nested.as_nested_tensor([x, x[:2]]).sin().to_padded_tensor(0.0),
    "sparse": lambda x: (x.to_sparse() * 2).to_dense(),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors", "ignore::FutureWarning")
@pytest.mark.parametrize("name", ODD)
def test_whatever_backward_can_run_can_be_played(name):
    x = torch.rand(4, 4, requires_grad=True)
    y = (ODD[name](x) ** 2).sum()
    assert play(y).fragment.startswith("<figure")
    assert x.grad is None
    recording = record_backward(y)
    assert play(recording).fragment.startswith("<figure")
    numbers = [v for step in recording.steps for v in (step.saved or {}).values()]
    numbers = [n for v in numbers for n in (v if isinstance(v, tuple) else (v,))]
    assert all(n < 2**63 for n in numbers if isinstance(n, int))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
def test_a_nested_leaf_is_played(layout):
    parts = [torch.rand(2, 3), torch.rand(1, 3)]
    x = torch.nested.nested_tensor(parts, layout=layout, requires_grad=True)
    assert play((x.sin() * 2).to_padded_tensor(0.0).sum()).fragment.startswith("<figure")
    assert x.grad is None


def test_of_a_compiled_module_that_runs_back_once_it_says_what_to_do():
    class Compiled(torch.autograd.Function):
        """Raises what torch 2.13 raises in backward(retain_graph=True)."""

        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, grad):
            raise RuntimeError(
                "This backward function was compiled with non-empty donated buffers which requires "
                "create_graph=False and retain_graph=False."
            )

    y = Compiled.apply(torch.ones(2, requires_grad=True)).sum()
    with pytest.raises(RuntimeError, match=r"runs once.*play record_backward\(loss\)"):
        play(y)


def test_a_reentrant_checkpoint_is_refused_since_it_hides_leaves():
    linear = torch.nn.Linear(1, 1)
    x = torch.ones(1, requires_grad=True)
    y = checkpoint(linear, x, use_reentrant=True).sum()
    with pytest.raises(ValueError, match=r"reentrant checkpoint.*use_reentrant=False"):
        play(y)
    assert linear.weight.grad is None
    assert play(checkpoint(linear, x, use_reentrant=False).sum())
    assert linear.weight.grad is None


# ---- what it gives


def test_the_fragment_is_the_same_every_time():
    assert play(diamond()[1]).fragment == play(diamond()[1]).fragment


def test_a_player_keeps_nothing_alive():
    x, y = diamond()
    alive = weakref.ref(x)
    player = play(y)
    del x, y
    assert alive() is None
    assert player.html


def test_the_key_is_the_same_for_the_same_content_and_no_other():
    """A link to a step names the player by its key, and must not lead into another player."""

    def key_of(player):
        return re.search(r'data-key="([0-9a-f]{8})"', player.fragment)[1]

    x, w = (torch.full((7,), 2.0, requires_grad=True) for _ in range(2))
    y = torch.full((7,), 3.0)  # other numbers, which the data has
    z = torch.full((7,), 2.0, dtype=torch.float64)  # another dtype, which the drawing has
    players = [play(x.sin().sum()), play(x.cos().sum()), play(w.sin().sum())]
    for x in (y.requires_grad_(), z.requires_grad_()):
        players.append(play(x.sin().sum()))
    keys = [key_of(player) for player in players]
    assert len(set(keys)) == len(keys)
    assert key_of(play(w.sin().sum())) == keys[2]


def test_the_fragment_is_well_formed_and_has_no_ids():
    tree = fromstring(play(diamond()[1]).fragment)
    assert tree.tag == "figure"
    assert not any("id" in element.attrib for element in tree.iter())
    assert {element.tag for element in tree.iter()} >= {"script", "table"}


def test_without_the_script_the_table_tells_each_step():
    x, y = diamond()
    player = play(y)
    rows = fromstring(player.fragment).findall(".//tbody/tr")
    cells = [["".join(cell.itertext()) for cell in row] for row in rows]
    assert [row[:2] for row in cells] == [
        ["1", "AddBackward0 (y)"],
        ["2", "MulBackward0 #1"],
        ["3", "SinBackward0"],
        ["4", "MulBackward0 #2"],
        ["5", "x"],
    ]
    a = (2.0 * 3.0) * torch.ones(())
    gradient = 3 * (a.sin() + (a + 1) * a.cos()).item()
    assert cells[0][2] == "1 to begin with"
    assert cells[2][2] == "1 from AddBackward0 (y); 6 from MulBackward0 #1"
    assert cells[2][3] == "7"
    assert cells[1][5] == "SinBackward0 is ready; MulBackward0 #2 waits for 1 more"
    assert cells[4][5] == f".grad was None and is {gradient:.4g}"


def test_the_page_of_the_diamond_is_small():
    player = play(diamond()[1])
    assert len(player.fragment.encode()) < 25_000
    assert len(player.html.encode()) < 60_000


def test_a_notebook_gets_a_frame_with_the_whole_page():
    player = play(diamond()[1])
    title, page = re.fullmatch(
        '<iframe title="([^"]*)" srcdoc="([^"]*)" style="[^"]*"></iframe>', player._repr_html_()
    ).groups()
    assert html.unescape(title) == player.alt
    assert html.unescape(page) == player.html


def test_it_is_saved_as_a_page_and_as_nothing_else(tmp_path):
    player = play(diamond()[1])
    player.save(tmp_path / "p.html")
    assert (tmp_path / "p.html").read_text() == player.html
    with pytest.raises(ValueError, match=r"give a name that ends in \.html, not .*p\.svg"):
        player.save(tmp_path / "p.svg")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.html"]


def test_nothing_is_loaded_from_anywhere():
    page = play(diamond()[1]).html
    assert not re.search(r'(?:src|href)="(?!#)', page.replace('xlink:href=""', ""))
    assert not re.search(r"url\(|@import|fetch\(|XMLHttpRequest|import\(", page)


# ---- in a browser


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
        heard.enter_context(
            listening(
                page,
                console=lambda m: m.type in ("error", "warning") and wrong.append(m.text),
                pageerror=lambda error: wrong.append(str(error)),
                request=lambda r: r.url.startswith("file:") or wrong.append(r.url),
            )
        )
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


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_nothing_stands_in_anybodys_way(open_page, scheme):
    """At each step, at the width of a phone: axe finds nothing, and nothing scrolls sideways."""
    axe = """async () => {
      const {violations} = await axe.run(document, {
        resultTypes: ["violations"], rules: {"target-size": {enabled: true}}
      })
      return violations.flatMap(({id, nodes}) => nodes.map(
        ({html, failureSummary}) => `${id}: ${html} ${failureSummary}`
      ))
    }"""
    viewport = {"width": 320, "height": 700}
    page = open_page(play(diamond()[1]), color_scheme=scheme, viewport=viewport)
    page.evaluate(AXE_SCRIPT)
    page.evaluate("document.querySelector('main').prepend(document.createElement('h1'))")
    page.locator("h1").evaluate("heading => heading.append('A page')")
    for number in (0, 2, 5):
        go_to(page, str(number))
        assert page.evaluate(axe) == []
        assert page.evaluate("document.documentElement.scrollWidth") == 320
    button(page, "All steps as a table").click()
    assert page.locator(".player-table").is_visible()
    assert page.evaluate(axe) == []
    page.get_by_label("What to play").select_option("You are the engine")
    page.locator(".player-live .node.n1").press("Enter")
    assert "still waits for 1" in page.locator(".player-said").inner_text()
    assert page.evaluate(axe) == []


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


def test_it_works_in_the_frame_of_a_notebook(open_page, tmp_path):
    player = play(diamond()[1])
    page = open_page(Player("", ""), hash="")
    page.set_content(player._repr_html_())
    frame = page.frame_locator("iframe")
    frame.get_by_role("button", name="Next", exact=True).click()
    assert frame.locator(".player-told").inner_text().startswith("Step 1 of 5")
    assert frame.get_by_role("link").count() == 0  # it would lead out of the frame
