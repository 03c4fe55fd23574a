"""fast_paths.py: attention computes under watch what it computes without, and is one operation."""

import copy
import warnings

import pytest
import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from companion import diagnose, watch
from tests.cases import each

PAD = torch.tensor([[False, False, True, True], [False] * 4])


def layer() -> nn.TransformerEncoderLayer:
    return nn.TransformerEncoderLayer(8, 2, 16, batch_first=True)


def alone(module: nn.MultiheadAttention, x: torch.Tensor) -> torch.Tensor:
    return module(x, x, x, key_padding_mask=PAD, need_weights=False)[0]


MODULES = {
    "encoder": (lambda: nn.TransformerEncoder(layer(), 2), lambda m, x: m(x, None, PAD)),
    "by keyword": (
        lambda: nn.TransformerEncoder(layer(), 2),
        lambda m, x: m(src=x, src_key_padding_mask=PAD),
    ),
    "layer": (layer, lambda m, x: m(x, src_key_padding_mask=PAD)),
    "attention": (lambda: nn.MultiheadAttention(8, 2, batch_first=True), alone),
    "inside": (lambda: nn.Sequential(nn.Linear(8, 8), layer(), nn.ReLU()), lambda m, x: m(x)),
}
FROZEN = {
    "frozen": (lambda m: m.eval().requires_grad_(False), torch.enable_grad),
    "no_grad": (lambda m: m.eval(), torch.no_grad),
    "inference": (lambda m: m.eval(), torch.inference_mode),
    "learning": (lambda m: m.eval(), torch.enable_grad),
    "training": (lambda m: m.train().requires_grad_(False), torch.enable_grad),
}


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@each("how", FROZEN)
@each("name", MODULES)
def test_attention_computes_under_watch_to_the_bit_what_it_computes_without(name, how):
    (make, run), (prepare, gradients) = MODULES[name], FROZEN[how]
    torch.manual_seed(0)
    module, x = prepare(make()), torch.randn(2, 4, 8)
    with gradients():
        torch.manual_seed(1)
        plain = run(module, x)
        with watch() as watched:
            torch.manual_seed(1)
            assert torch.equal(run(module, x), plain)
            inside = copy.deepcopy(watched.operations)
            torch.ones(2) * 2
    assert watched.operations[len(inside) :][-1].name == "mul"  # it looks on again
    is_one = {"TransformerEncoder", "TransformerEncoderLayer", "MultiheadAttention"}
    seen = is_one & {operation.name for operation in inside}
    assert len(seen) == (how not in ("learning", "training"))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_only_positional_arguments_are_asked_whether_they_require_grad():
    module, x = layer().eval().requires_grad_(False), torch.randn(2, 4, 8, requires_grad=True)
    with watch() as watched:
        y = module(src=x)
        module(x)
    names = [operation.name for operation in watched.operations]
    assert names[0] == "TransformerEncoderLayer" and names.count(names[0]) == 1 and len(names) > 5
    assert watched.cuts == watched.reaching(y) == ()


def test_a_cut_by_attention_without_gradients_is_found_at_its_line():
    encoder = nn.TransformerEncoder(layer(), 2).eval()
    x = torch.randn(2, 4, 8, requires_grad=True)
    with watch() as watched:
        h = x.exp()
        with torch.no_grad():
            features = encoder(src=h)
        loss = features.square().mean() * x.sum()
    (found,) = diagnose(loss, x, watch=watched)
    assert (found.code, found.source.text) == ("no-grad", "encoder(src=h)")
    operation = watched.operations[1]
    assert [value.made_by for value in operation.inputs][0] == 0  # exp
    assert watched.operations[2].inputs[0].made_by == 1


class Names(TorchFunctionMode):
    def __init__(self) -> None:
        super().__init__()
        self.names: list[str] = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        self.names.append(getattr(func, "__name__", ""))
        return func(*args, **(kwargs or {}))


def test_other_modes_stay_in_their_places_and_a_failing_module_gives_the_mode_back():
    attention = nn.MultiheadAttention(8, 2, batch_first=True).eval().requires_grad_(False)
    x = torch.randn(2, 4, 8)
    with Names() as outer, watch() as first, Names() as inner, watch() as second:
        alone(attention, x)
        with pytest.raises(AssertionError):
            attention(torch.ones(2, 3), torch.ones(2, 3), torch.ones(2, 3))
        torch.add(x, 1)
    for watched in (first, second):
        names = [operation.name for operation in watched.operations]
        assert names[-1] == "add" and "MultiheadAttention" in names
    assert outer.names.count("add") == inner.names.count("add") == 1
    assert not torch.overrides._get_current_function_mode_stack()


def test_nothing_is_left_on_the_modules_after_the_block():
    hooks = torch.nn.modules.module
    with watch():
        pass
    assert not hooks._global_forward_hooks and not hooks._global_forward_pre_hooks
    with warnings.catch_warnings(), pytest.raises(ZeroDivisionError), watch():
        raise ZeroDivisionError
    assert not hooks._global_forward_hooks and not hooks._global_forward_pre_hooks


def test_nothing_is_left_of_the_hooks_on_all_modules():
    encoder = nn.TransformerEncoderLayer(4, 2, 8, batch_first=True).eval()
    with torch.no_grad(), watch():
        encoder(torch.ones(1, 3, 4))
    assert not nn.modules.module._has_any_global_hook()  # for which torch.compile would warn
