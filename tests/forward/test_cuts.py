import copy

import pytest
import torch
from torch import nn

from companion import watch
from tests.programs import Twice


def cuts_of(program) -> list[tuple[str, str, str]]:
    with watch() as watched:
        kept = program()  # so that what it gave is alive when the cuts are asked for
    found = [(cut.code, cut.variant, cut.source.text) for cut in watched.cuts]
    del kept
    return found


def leaf() -> torch.Tensor:
    return torch.tensor([1.0, 2.0], requires_grad=True)


def test_a_parameter_made_of_a_result_is_a_cut_where_a_module_gets_it_or_else_where_that_was_made():
    x, layer = leaf(), nn.Linear(2, 2)

    def registered():
        y = x * 2
        layer.bias = nn.Parameter(y)
        return layer(torch.ones(2))

    def loose():
        p = nn.Parameter(x * 3)
        return p * 2

    assert cuts_of(registered) == [("copied", "parameter", "layer.bias = nn.Parameter(y)")]
    assert cuts_of(loose) == [("copied", "parameter", "x * 3")]


@pytest.mark.parametrize("shape", [(2,), (1, 2)])
def test_a_parameter_made_of_a_part_of_what_a_layer_gave_is_a_cut(shape):
    layer, x = nn.Linear(2, 6), torch.ones(shape)  # of a vector it gives a view of a hidden tensor

    def program():
        return nn.Parameter(layer(x).view(2, 3)) * 2

    assert [(code, variant) for code, variant, _ in cuts_of(program)] == [("copied", "parameter")]


def test_memory_that_is_used_again_is_not_taken_for_what_was_in_it():
    x = leaf()

    def program():
        for _ in range(20):
            (x * 2).sum()
            p = nn.Parameter(torch.frombuffer(bytearray(8), dtype=torch.float32))
            p * 2

    assert cuts_of(program) == []


@pytest.mark.parametrize("off", [torch.no_grad, torch.inference_mode])
def test_what_is_written_with_gradients_off_is_a_cut_only_if_it_required_grad(off):
    x, w = leaf(), leaf()

    def program(value):
        with off():
            w.copy_(value)
        return w * 2

    assert cuts_of(lambda: program(torch.ones(2))) == []
    assert cuts_of(lambda: program(x)) == [("copied", "written", "w.copy_(value)")]


def test_a_deep_copy_in_the_block_is_a_cut_at_its_line_and_a_function_without_a_node_at_its_call():
    x, layer = leaf(), nn.Linear(2, 2)
    assert {*cuts_of(lambda: copy.deepcopy(layer))} == {
        ("copied", "deepcopy", "copy.deepcopy(layer)")
    }

    def without_a_node():
        with torch.no_grad():
            y = Twice.apply(x)
        return y + 1

    assert cuts_of(without_a_node) == [("no-grad", "function", "Twice.apply(x)")]
    assert cuts_of(lambda: Twice.apply(x) + 1) == cuts_of(lambda: Twice.apply(x)) == []


def test_enable_grad_inside_inference_mode_changes_nothing_and_that_is_told():
    def program():
        with torch.inference_mode(), torch.enable_grad():
            return leaf().exp()

    assert [cut[0] for cut in cuts_of(program)] == ["inference-mode"]


def test_a_cut_inside_a_transform_is_seen_and_a_right_transform_has_none():
    x = leaf()
    cut = ("detached", "", "v.detach()")
    assert cuts_of(lambda: torch.vmap(lambda v: v.detach() * v)(x)) == [cut]
    assert cuts_of(lambda: torch.vmap(lambda v: v.exp() * v)(x)) == []
    assert cuts_of(lambda: torch.func.jacrev(lambda v: v * v.exp())(x)) == []
