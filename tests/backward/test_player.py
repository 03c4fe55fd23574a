"""player.py: what play() takes, and what it gives."""

import html
import re
import weakref
from xml.etree.ElementTree import fromstring

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from companion import play, record_backward
from companion.backward.player_data import player_data
from tests.backward.models import data_of, diamond
from tests.cases import each

# ---- what it takes


@each("times", ["no", 1, None, torch.ones(2)])
def test_times_that_are_no_bool_are_refused(times):
    x = torch.ones((), requires_grad=True)
    with pytest.raises(TypeError, match=f"times must be True or False, got {type(times).__name__}"):
        play(x * 2, times=times)


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


@each("what", [None, 3, "loss", [torch.ones(())]])
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
@each("name", ODD)
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
