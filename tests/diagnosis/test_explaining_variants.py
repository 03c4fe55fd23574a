"""What a message of torch means is told of the Node that raised it: the user's or torch's own."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

from companion import diagnose, explain, watch
from tests.cases import each
from tests.programs import GivesNone, WrongShape


def leaf(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32, requires_grad=True)


def explained(raising):
    with pytest.raises((RuntimeError, NotImplementedError)) as caught:
        raising()
    return explain(caught.value)


class View(Function):
    @staticmethod
    def forward(ctx, x):
        return x.view(-1)

    @staticmethod
    def backward(ctx, g):
        return g


class Same(View):
    @staticmethod
    def forward(ctx, x):
        return x


def hooked(*modules):
    net = nn.Sequential(*modules)
    net[-1].register_full_backward_hook(lambda *_: None)
    return net(torch.ones(1, 3, requires_grad=True) * 1)


IN_PLACE_AFTER_A_HOOK = {
    "the module itself": lambda: hooked(nn.Linear(3, 3), nn.ReLU(inplace=True)),
    "the next one": lambda: nn.functional.relu_(hooked(nn.Linear(3, 3))),
    "an operation": lambda: hooked(nn.Linear(3, 3)).add_(1),
}


@pytest.mark.parametrize("how", IN_PLACE_AFTER_A_HOOK)
def test_a_change_in_place_at_a_hooked_module_is_told_of_the_hook(how):
    found = explained(IN_PLACE_AFTER_A_HOOK[how])
    assert found.code == "multi-view-in-place"
    assert "backward hook" in found.message and "inplace=False" in found.cure
    assert "unbind" not in str(found)


@pytest.mark.parametrize("function", [View.apply, Same.apply])
def test_a_change_in_place_of_what_a_custom_function_gave_is_told_of_the_function(function):
    found = explained(lambda: function(leaf(1, 2) * 1).add_(1))
    assert "custom Function" in found.message and "clone()" in found.cure
    assert "unbind" not in str(found)


def test_so_is_that_of_what_a_checkpoint_gave():
    given = checkpoint(lambda t: t, leaf(1, 2) * 1, use_reentrant=True)
    found = explained(lambda: given.add_(1))
    assert "CheckpointFunction" in found.message


def test_a_change_in_place_of_one_of_several_views_is_told_as_before():
    assert "unbind" in explained(lambda: (leaf(1, 2) * 1).unbind()[0].add_(1)).cause


def reshaped(change):
    w = leaf(1, 2, 3)
    older = (w * 2).sum()
    change(w)
    loss = (w * w).sum()
    assert older is not None
    loss.backward()


RESHAPED = {
    "data": lambda w: setattr(w, "data", torch.ones(5)),
    "pruned": lambda w: setattr(w, "data", w.data[:2]),
}


@pytest.mark.parametrize("how", RESHAPED)
def test_a_gradient_of_a_wrong_shape_from_a_node_of_torch_is_told_of_its_tensor(how):
    found = explained(lambda: reshaped(RESHAPED[how]))
    assert found.code == "custom-gradients"
    assert "MulBackward0, a Node of torch" in found.message
    assert "nn.Parameter" in found.cure and "apply" not in str(found)


def test_the_cures_of_it_work():
    w = leaf(1, 2, 3)
    older = (w * 2).sum()
    del older
    w.data = torch.ones(5)
    (w * w).sum().backward()
    assert w.grad.shape == (5,)


def test_a_gradient_of_a_wrong_shape_from_a_function_of_the_user_is_told_of_that():
    found = explained(lambda: WrongShape.apply(leaf(1, 2)).sum().backward())
    assert "the backward of WrongShapeBackward" in found.message and "static methods" in found.cause


@pytest.mark.parametrize("f", [lambda x: GivesNone.apply(x).sum(), lambda x: x.norm(p=0)])
def test_where_a_path_leads_to_an_input_none_is_said_to_be_missing_for_sure(f):
    x = leaf(1, 2)
    found = explained(lambda: torch.autograd.grad(f(x), x))
    assert found.code == "unused-input"
    assert "no path" not in str(found) and "a Node on it sends None" in found.cause


def differentiated_twice(f, x):
    (g,) = torch.autograd.grad(f(x).sum(), x, create_graph=True)
    return g.square().sum()


def attention(q):
    return F.scaled_dot_product_attention(q, q, q)


TWICE = {
    "attention": (attention, torch.randn(1, 1, 4, 8), "sdpa_kernel"),
    "embedding_bag": (
        lambda w: F.embedding_bag(torch.tensor([[0, 1]]), w, mode="max").square(),
        torch.randn(4, 3),
        "simple",
    ),
    "margin": (
        lambda x: F.multi_margin_loss(x, torch.tensor([0, 1, 2])),
        torch.randn(3, 4),
        "simple",
    ),
}
if torch.__version__ < "2.14":  # since then it has a formula
    TWICE["cdist"] = (lambda p: torch.cdist(p, p + 1), torch.randn(5, 3), "simple")


@each("kind", TWICE)
def test_a_second_derivative_without_a_formula_is_told_with_a_cure_of_that_operation(kind):
    f, x, cure = TWICE[kind]
    x = x.clone().requires_grad_()
    penalty = differentiated_twice(f, x)
    told = next(found for found in diagnose(penalty, x) if found.severity == "error")
    assert told.code == "not-implemented"
    found = explained(penalty.backward)
    assert (found.code, cure in found.cure) == ("not-implemented", True)
    if kind == "attention":
        assert "attention" in told.message and cure in told.cure


def test_the_cure_for_attention_works():
    from torch.nn.attention import SDPBackend, sdpa_kernel

    q = torch.randn(1, 1, 4, 8, requires_grad=True)
    with sdpa_kernel(SDPBackend.MATH):
        penalty = differentiated_twice(attention, q)
    assert diagnose(penalty, q).ok
    penalty.backward()
    by_hand = torch.autograd.grad(
        differentiated_twice(lambda q: (q @ q.mT / 8**0.5).softmax(-1) @ q, q), q
    )[0]
    assert torch.allclose(q.grad, by_hand, atol=1e-5)


NOT_TENSORS = {
    "holds tensors": (lambda: (torch.ones(1),), "compute one number of them"),
    "a mapping": (lambda: {"loss": torch.ones(1)}, "take .loss"),
    "nothing": (lambda: None, "return the loss"),
    "no term": (lambda: sum(loss for loss in []), "continue"),
    "a number": (lambda: torch.ones(()).item(), "no .item()"),
}


@each("what", NOT_TENSORS)
def test_a_backward_of_what_is_no_tensor_is_told_with_the_cure_for_that(what):
    make, cure = NOT_TENSORS[what]
    with pytest.raises(AttributeError) as caught:
        make().backward()
    found = explain(caught.value)
    assert found.code == "not-a-tensor" and cure in found.cure


def test_a_loss_that_is_none_is_told_with_the_cure_for_that():
    (found,) = diagnose(None)
    assert found.code == "not-a-tensor" and "return the loss" in found.cure


def test_a_second_derivative_of_a_gradient_without_a_graph_has_the_cure_of_that():
    x = leaf(1, 2)
    (g,) = torch.autograd.grad((x**3).sum(), x)
    found = explained(lambda: torch.autograd.grad(g.sum(), x))
    assert found.code == "no-graph" and "create_graph=True" in found.cure
    assert "backward() was called" not in found.message
    (g,) = torch.autograd.grad((x**3).sum(), x, create_graph=True)
    assert torch.equal(torch.autograd.grad(g.sum(), x)[0], 6 * x)


def test_a_decision_that_took_the_graph_is_not_called_harmless_where_backward_raised():
    x = leaf(1, 2)
    with watch() as watched:
        loss = (x.argmax() - 2.0) ** 2
    with pytest.raises(RuntimeError) as caught:
        loss.backward()
    found = explain(caught.value, watch=watched)
    assert found.code == "not-differentiable" and "usual for masks" not in found.message
    assert "smooth stand-in" in found.cure and "nothing" not in found.cure


def test_a_gradient_that_is_none_by_allow_unused_is_told():
    x, unused = leaf(1, 2), leaf(1)

    def norm():
        grads = torch.autograd.grad((x**2).sum(), [x, unused], allow_unused=True)
        return sum(g.square().sum() for g in grads)

    with pytest.raises(AttributeError) as caught:
        norm()
    found = explain(caught.value)
    assert found.code == "grad-is-none" and found.source.text.startswith("g.square")
    assert "if g is not None" in found.cure
    with pytest.raises(AttributeError) as caught:
        None.square()
    assert explain(caught.value) is None


def test_a_node_that_is_none_is_told_of_its_tensor():
    x, y = leaf(1, 2), torch.ones(2)
    with pytest.raises(AttributeError) as caught:
        x.grad_fn.name()
    found = explain(caught.value)
    assert found.code == "no-graph" and "x is a leaf" in found.message
    assert (x * 1).grad_fn.next_functions[0][0].variable is x  # the cure
    with pytest.raises(AttributeError) as caught:
        y.grad_fn.name()
    assert "y does not require grad" in explain(caught.value).message


def test_an_optimizer_that_is_given_a_result_has_a_cure_of_its_own():
    weight = nn.Parameter(torch.ones(2)).double()
    with pytest.raises(ValueError) as caught:
        torch.optim.SGD([weight], 0.1)
    found = explain(caught.value)
    assert found.code == "not-a-leaf" and "retain_grad" not in found.cure
    assert "make it a leaf after the last operation" in found.cure


def test_a_hook_on_what_has_no_graph_has_a_cure_of_its_own():
    frozen = nn.Linear(2, 1).requires_grad_(False)
    with pytest.raises(RuntimeError) as caught:
        frozen(torch.ones(2)).register_hook(print)
    found = explain(caught.value)
    assert found.code == "input-without-grad" and "a hook for the gradient" in found.message
    assert "only if output.requires_grad" in found.cure


class Stepper:
    """Updates a model by hand, as in a tutorial on DQN."""

    def __init__(self, model):
        self.model = model

    def step(self):
        for param in self.model.parameters():
            param.grad.data.clamp_(-1, 1)


def by_hand(model):
    for param in model.parameters():
        param.grad.clamp_(-1, 1)


@each(
    ("step", "path"),
    [
        (by_hand, "model.spare.weight"),
        (lambda model: Stepper(model).step(), "self.model.spare.weight"),
    ],
)
def test_a_parameter_of_a_loop_whose_grad_is_none_goes_by_its_path(step, path):
    net = nn.ModuleDict({"used": nn.Linear(2, 1), "spare": nn.Linear(2, 1)})
    net["used"](torch.ones(2)).sum().backward()
    with pytest.raises(AttributeError) as caught:
        step(net)
    found = explain(caught.value)
    assert found.code == "grad-is-none"
    assert found.message.endswith(f"no backward pass has come to param, which is {path}")
