import pytest
import torch
from torch.autograd import Function

from companion import Watch, diagnose, draw, watch
from companion.forward.tracing import cuts_into, first_reaching, last_written_by, source_of


def leaf(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32, requires_grad=True)


def fed(watched: Watch, node: object) -> list[tuple[int | None, str]]:
    """By slot, the texts of the cuts that fed a Node."""
    return [(slot, cut.source.text) for slot, cut in cuts_into(watched, node)]


class Product(Function):
    @staticmethod
    def forward(ctx, a, b):
        return a * b

    @staticmethod
    def backward(ctx, grad):
        return grad, None


def test_every_node_of_a_model_is_traced_to_its_line():
    x = torch.randn(3, 2)
    w = torch.randn(2, 2, requires_grad=True)
    before = (w * 1).grad_fn
    with watch() as watched:
        loss = (torch.relu(x @ w) ** 2).mean()
    after = (w * 1).grad_fn
    fn, texts = loss.grad_fn, []
    while fn.next_functions:
        texts.append(source_of(watched, fn).text)
        fn = next(child for child, _ in fn.next_functions if child)
    assert texts == [
        "(torch.relu(x @ w) ** 2).mean()",
        "torch.relu(x @ w) ** 2",
        "torch.relu(x @ w)",
        "x @ w",
    ]
    assert source_of(watched, fn) is None  # AccumulateGrad
    assert source_of(watched, before) is source_of(watched, after) is None


def test_a_node_tells_which_cuts_it_took_and_at_which_slot():
    x, w = leaf(1, 2), leaf(3, 4)
    with watch() as watched:
        h = x * w
        a = h.detach().exp() * h
        b = a * x.max().item()
        c = Product.apply(w, x.data)
        d = torch.where(x > 1, h, 0)
        e = torch.addcmul(h.detach(), x, w.detach())
    nodes = [tensor.grad_fn for tensor in (h, a, b, c, d, e)]
    assert [fed(watched, node) for node in nodes] == [
        [],
        [(0, "h.detach()")],
        [(1, "x.max().item()")],
        [(1, "x.data")],
        [(None, "x > 1")],
        [(0, "h.detach()"), (2, "w.detach()")],
    ]


def test_a_cast_that_autocast_made_with_gradients_off_took_nothing_of_the_call():
    x, first, second = leaf(1, 2), *(torch.nn.Linear(2, 2) for _ in range(2))
    with watch() as watched, torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            second(first(x))
        nodes = [second(first(x)).sum().grad_fn]
    for node in nodes:  # the list grows
        assert fed(watched, node) == []
        nodes += [child for child, _ in node.next_functions if child]


def test_behind_a_cut_there_may_be_others_that_are_not_the_first():
    x = leaf(1, 2)
    with watch() as watched:
        y = ((x.detach() * x).detach() * x).sum().item() * x
    assert len(watched.reaching(y)) == 3
    (cut,) = first_reaching(watched, y)
    assert cut.source.text == "((x.detach() * x).detach() * x).sum().item()"


def test_an_index_has_no_slot():
    x, h = leaf(1, 2), leaf(3, 4)
    with watch() as watched:
        y = torch.zeros(2).index_add(0, x.argsort(), h)
    assert [child is None for child, _ in y.grad_fn.next_functions] == [True, False]  # the zeros
    assert fed(watched, y.grad_fn) == [(None, "x.argsort()")]


def test_the_last_line_that_wrote_into_a_tensor_is_found():
    x, y = leaf(1, 2), torch.zeros(2)
    with watch() as watched:
        y.add_(1)
        y[0].mul_(x.detach()[0])
        x.exp()
    assert last_written_by(watched, y).source.text == "y[0].mul_(x.detach()[0])"
    assert last_written_by(watched, x) is None
    with pytest.raises(TypeError, match="tensor must be a tensor, got float"):
        last_written_by(watched, 1.0)


def test_what_is_no_node_is_refused():
    with watch() as watched:
        pass
    for query in (source_of, cuts_into):
        with pytest.raises(TypeError, match="node must be a grad_fn, got Tensor"):
            query(watched, torch.ones(()))
    with pytest.raises(TypeError, match="output must be a tensor, got float"):
        first_reaching(watched, 1.0)


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_node_that_cpp_code_made_is_a_node():
    # An operator without a formula gets a Node of a class in C++, as extensions have them.
    library = torch.library.Library("companion_tests", "FRAGMENT")
    library.define("twice(Tensor x) -> Tensor")
    library.impl("twice", lambda x: torch.from_numpy(x.detach().numpy() * 2), "CPU")
    x = torch.ones(3, requires_grad=True)
    with watch() as watched:
        y = torch.ops.companion_tests.twice(x).sum()
    node = y.grad_fn.next_functions[0][0]
    assert not isinstance(node, torch.autograd.graph.Node)
    assert source_of(watched, node).text == "torch.ops.companion_tests.twice(x)"
    assert cuts_into(watched, node) == ()
    assert diagnose(y, x, watch=watched) is not None
    assert "CppFunction" in draw(y, watch=watched).alt


def test_a_view_that_was_made_with_gradients_off_feeds_the_slot_that_leads_to_none():
    x, w = leaf(1, 2), leaf(3, 4)
    with watch() as watched:
        with torch.no_grad():
            part = w[:1]
        y = x[:1] * part
    assert fed(watched, y.grad_fn) == [(1, "w[:1]")]
