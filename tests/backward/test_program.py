"""program.py: the program of a backward pass is text that runs, and gives what the pass gives."""

import random
import re
from contextlib import nullcontext

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.autograd import Function
from torch.utils.checkpoint import checkpoint

import companion
from companion import Graph, write_backward
from companion.backward.program_nodes import same_bits
from tests.programs import (
    OPERATIONS,
    GivesNone,
    GivesTwo,
    Halves,
    Silent,
    Square,
    WritesInPlace,
    WrongShape,
    run,
    set_seed,
)
from tests.slices import examples


def leaf(*shape, **options):
    return torch.randn(*shape, **options).requires_grad_()


def equal(left, right):
    """Whether two gradients have the same bits, but for the kind of NaN, or are both None."""
    if left is None or right is None:
        return left is right
    if left.layout is not torch.strided:
        left, right = left.to_dense(), right.to_dense()
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    if left.is_complex():
        left, right = (
            torch.view_as_real(part.resolve_conj().contiguous()) for part in (left, right)
        )
    as_bits = integers[left.element_size()]
    same = left.contiguous().view(as_bits) == right.contiguous().view(as_bits)
    return bool((same | (left.isnan() & right.isnan())).all())


def check(output, leaves, gradient=None):
    """Whether the program gives what backward gives; its text."""
    program = write_backward(output, gradient, names=leaves, max_nodes=10_000)
    found = program.run()
    before = {name: tensor.grad for name, tensor in leaves.items()}
    assert not any(grad is not None for grad in before.values())
    output.backward(gradient)
    for name, tensor in leaves.items():
        assert equal(found[name], tensor.grad), f"{name}\n{program}"
    return str(program)


# ---- to the bit


def random_graph(seed):
    """The tensors that a random program made, and the output to go backward from."""
    choice = random.Random(seed)
    names = sorted(OPERATIONS)
    steps = [
        (choice.choice(names), choice.randrange(99), choice.randrange(99))
        for _ in range(choice.randint(1, 12))
    ]
    if any(name == "reentrant" for name, _, _ in steps):  # it refuses torch.autograd.grad
        steps = [step for step in steps if step[0] != "double backward"]
    set_seed(seed)
    dtype = choice.choice([torch.float32, torch.float64])
    made = run(steps, [leaf(4, dtype=dtype), leaf(4, dtype=dtype)])
    used = [tensor for tensor in made if tensor.requires_grad][-choice.randint(1, 3) :]
    if choice.random() < 0.2:
        return made, used[-1], torch.linspace(-1, 2, used[-1].numel(), dtype=torch.float64)
    terms = [(t.double() if choice.random() < 0.3 else t).sum() for t in used]
    return made, sum(terms[1:], terms[0]), None


@pytest.mark.parametrize("first", range(0, examples(1000), 100))
def test_random_graphs_give_the_gradients_of_backward_to_the_bit(first):
    for seed in range(first, first + 100):
        made, output, gradient = random_graph(seed)
        names = {f"t{i}": tensor for i, tensor in enumerate(made)}
        if gradient is not None:
            gradient = gradient.view(output.shape).to(output.dtype)
        program = write_backward(output, gradient, names=names, max_nodes=10_000)
        found = program.run()
        assert all(tensor.grad is None for tensor in made if tensor.is_leaf)
        made, output, _ = random_graph(seed)
        output.backward(gradient)
        leaves = {f"t{i}": t for i, t in enumerate(made) if t.is_leaf and t.requires_grad}
        assert found.keys() <= leaves.keys()
        for name, tensor in leaves.items():
            assert equal(found.get(name), tensor.grad), f"seed {seed}, {name}\n{program}"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.complex64], ids=str)
def test_other_dtypes_have_the_bits_too(dtype):
    x, y = leaf(3, dtype=dtype), leaf(3, dtype=dtype)
    output = x * y.sin() / (x * x + 2) - torch.exp(y) * 0.3
    check(output, {"x": x, "y": y}, torch.randn_like(output))


def test_a_real_leaf_of_a_complex_program_gets_a_real_gradient():
    z, w = leaf(3, dtype=torch.complex64), leaf(3)
    text = check((z * w).abs().sum() + (z.conj() * z).real.sum(), {"z": z, "w": w})
    assert "z.conj()).real" in text


def test_nan_infinity_and_the_sign_of_zero_are_kept():
    x = torch.tensor([0.0, -0.0, float("inf"), -1.0]).requires_grad_()
    check((x.sqrt() * x).sum() + (x * -0.0).sum(), {"x": x})
    y = torch.tensor([1.0, 2.0]).requires_grad_()
    text = check((y * torch.tensor(float("nan"))).sum() + (y * float("inf")).sum(), {"y": y})
    assert "grad_y_1" in text
    x = leaf(4)
    check(F.relu(x), {"x": x}, -torch.zeros(4))
    assert not same_bits(torch.tensor(0.0), torch.tensor(-0.0))
    assert not same_bits(torch.tensor(1.0), torch.tensor(1.0, dtype=torch.float64))
    assert same_bits(torch.tensor([float("nan")]), torch.tensor([float("nan")]))


def test_what_was_stretched_is_summed_and_what_was_cast_is_cast_back():
    w, b = leaf(4, 3), leaf(3, dtype=torch.float64)
    text = check((w * b + leaf(1, 3)).mean(), {"w": w, "b": b})
    assert ".sum_to_size((3,))" in text
    assert ".to(torch.float32)" in text


def test_views_and_writes_into_views_have_the_bits():
    a, b = leaf(4), leaf(2)
    copy = a * 1
    copy[:2].mul_(b)
    copy.view(2, 2)[1] += a[:2].sin()
    check((copy * copy).sum(), {"a": a, "b": b})


def test_a_sum_of_many_paths_is_in_the_order_of_the_engine():
    x = torch.tensor([0.1], requires_grad=True)
    output = sum((x * k).sin() * 10.0**k for k in range(8))
    text = check(output, {"x": x})
    assert "# 8 gradients arrive" in text


@pytest.mark.parametrize(
    ("make", "shape"),
    [
        (lambda: nn.Sequential(nn.Linear(8, 5), nn.Tanh(), nn.Linear(5, 1)), (3, 8)),
        (lambda: nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), (2, 5, 8)),
        (
            lambda: nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.MaxPool2d(2)),
            (2, 1, 8, 8),
        ),
    ],
    ids=["perceptron", "transformer", "convolution"],
)
def test_the_parameters_of_a_model_get_their_gradients_by_name(make, shape):
    model = make()
    check(model(torch.randn(shape)).square().mean(), dict(model.named_parameters()))


def test_a_sparse_gradient_stays_sparse():
    weight = leaf(5, 2)
    rows = F.embedding(torch.tensor([1, 1, 3]), weight, sparse=True)
    assert write_backward(rows.sum(), names={"w": weight}).run()["w"].is_sparse
    check(rows.square().sum(), {"w": weight})


# ---- Nodes that are called


def test_a_custom_function_is_called_and_the_text_says_so():
    a = leaf(3)
    text = check(Square.apply(a).sum(), {"a": a})
    assert "# node_1 is that Node, called as it is: its backward is a function in Python" in text
    assert "grad_a = node_1(grad_square_1)" in text
    assert "node_1 stands for Graph.of(output).nodes[1].grad_fn" in text


def test_a_node_with_several_outputs_is_given_none_for_those_that_nobody_used():
    a = leaf(2, 2)
    u, _, v = torch.linalg.svd(a)
    text = check((u @ v).sum(), {"a": a})
    assert re.search(r"= node_\d+\(grad_\w+, None, grad_\w+\)", text)


def test_a_function_gets_zeros_for_what_nobody_used_unless_it_wants_none():
    a, b = leaf(4), leaf(4)
    first, _ = Halves.apply(a, b)
    text = check((first + Silent.apply(a.sin(), b)).sum(), {"a": a, "b": b})
    assert re.search(r"= node_\d+\(grad_\w+, None\)", text)
    assert "_, grad_b" in text  # it passes nothing on to its first input
    assert "no gradient comes to it" in text


def test_a_node_that_passes_nothing_on_is_told_so():
    x = leaf(3)
    text = check(x.norm(p=0), {"x": x})
    assert "# it passes no gradient on" in text


class SeesNone(Function):
    """Two outputs; its backward tells whether the second was used."""

    @staticmethod
    def forward(ctx, a):
        ctx.set_materialize_grads(False)
        return a * 2, a * 3

    @staticmethod
    def backward(ctx, first, second):
        return first * 5 if second is None else first * 2 + second * 3


def test_a_function_that_wants_none_is_given_none():
    a = leaf(3)
    first, second = SeesNone.apply(a)
    check(first.sum(), {"a": a})
    assert torch.equal(a.grad, torch.full((3,), 5.0))
    a.grad = None
    check((first * second).sum(), {"a": a})


def test_a_leaf_to_which_nothing_comes_is_there_with_none():
    x = leaf(3)
    program = write_backward(GivesNone.apply(x * 1).sum())
    assert program.run() == {"x": None}
    assert "x.grad = None  # nothing comes to it" in str(program)


def test_a_function_that_writes_into_its_gradient_changes_no_other():
    a, b = leaf(3), leaf(3)
    total = (WritesInPlace.apply(a.sin()) + b) @ torch.ones(3)
    text = check(total, {"a": a, "b": b})
    assert "b.grad = grad_b.clone()  # a copy, since a Function below may write into it" in text
    gradient = torch.ones(3)
    program = write_backward(WritesInPlace.apply(a * 1), gradient)
    first = program.run()["a"]
    assert torch.equal(gradient, torch.ones(3))
    assert torch.equal(first, program.run()["a"])


def test_what_was_saved_through_hooks_is_left_to_the_node():
    looked = []
    x = leaf(3)
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: looked.append(1) or t):
        y = (x * x).sum()
    text = str(write_backward(y))
    assert "what it saved went through hooks" in text
    assert len(looked) == 2  # the Node unpacked its two tensors, once


def test_a_checkpoint_that_is_not_reentrant_is_computed_again():
    layer, x = nn.Linear(3, 3), leaf(3)
    output = checkpoint(lambda t: layer(t).tanh(), x, use_reentrant=False).sum()
    check(output, {"x": x, **dict(layer.named_parameters())})


def test_a_reentrant_checkpoint_leaves_no_gradient_behind():
    x, new, old = leaf(3), leaf(3), leaf(3)
    old.grad = before = torch.ones(3)
    output = checkpoint(lambda t: (t * new).sin() * old, x * 1, use_reentrant=True).sum()
    found = write_backward(output).run()["x"]
    assert new.grad is None
    assert old.grad is before
    assert torch.equal(before, torch.ones(3))
    output.backward()
    assert new.grad is not None
    assert torch.equal(found, x.grad)


# ---- the text


def small_program():
    x = torch.tensor(2.0, requires_grad=True)
    y = torch.tensor(3.0, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        product = x * y
        wave = torch.sin(x)
        loss = product + wave
    return write_backward(loss), x, y, loss


def test_the_text_of_a_small_program_reads_like_this():
    program, *_ = small_program()
    assert (
        str(program)
        == """\
# The backward pass of loss: a step for each Node, in PyTorch's order.
# grad_x is how fast loss moves with x; grad_x_1 is a part of that.
# Each .grad is set, as if it had been empty.
import torch

grad_loss = torch.ones_like(loss)  # loss moves as fast as itself

# AddBackward0: loss = product + wave
grad_product = grad_loss
grad_wave = grad_loss

# SinBackward0: wave = torch.sin(x)
grad_x_1 = grad_wave * torch.cos(x)

# MulBackward0: product = x * y
grad_x_2 = grad_product * y
grad_y = grad_product * x
x.grad = grad_x_1 + grad_x_2  # 2 gradients arrive
y.grad = grad_y
"""
    )
    assert repr(program) == "<Program of a backward pass: 19 lines, 2 leaves>"
    assert program._repr_html_().startswith("<pre># The backward pass of loss")


def test_the_text_runs_as_it_stands_on_the_readers_own_tensors():
    program, x, y, loss = small_program()
    with torch.no_grad():
        exec(str(program), {"x": x, "y": y, "loss": loss})
    found = program.run()
    assert torch.equal(x.grad, found["x"])
    assert torch.equal(y.grad, found["y"])


def test_run_executes_the_text():
    program, *_ = small_program()
    program._code = compile(str(program).replace("grad_product * x", "7 * x"), "changed", "exec")
    assert program.run()["y"].item() == 14.0


def test_what_no_variable_refers_to_is_called_by_what_made_it_and_shown():
    x = torch.tensor([0.0, 1.0], requires_grad=True)
    text = check((x.exp() * 2.5).sin().sum(), {"x": x})
    assert "mul_2 = node_1._saved_self  # [2.5, 6.796]" in text
    assert "grad_exp_3 = grad_mul_2 * 2.5" in text
    text = check((x.exp() * x).sin().sum(), {})
    assert text.count("\nexp_3 = ") == 1  # which two Nodes have saved
    many = torch.ones(50, requires_grad=True)
    assert "_saved_self  # (50,), from 3 to 3" in str(write_backward((many * 3).sin().sum()))
    data = torch.arange(3.0)
    data = torch.arange(3.0)
    text = str(write_backward((x[:1] * data).sum(), names={"data": data}))
    assert "grad_slice_2 = (grad_mul_1 * data).sum_to_size((1,))" in text


def test_each_step_stands_in_the_order_of_the_engine():
    made, output, _ = random_graph(13)
    graph = Graph.of(output)
    text = str(write_backward(output, max_nodes=10_000))
    steps = re.findall(r"\n\n# (\w+)", text)
    assert steps == [graph.nodes[i].name for i in graph.order if not graph.nodes[i].is_leaf]


def test_odd_names_become_identifiers_and_the_text_says_what_they_are():
    odd = ["layer.0.weight", "layer_0_weight", "class", "torch", "grad", "a b", "", "1x", "None"]
    odd += ["__debug__", "__builtins__", "ﬁ", "fi", "é", "²", "x\ny", "_", "node_3", "grad_x", "#"]
    odd += [
        "x'''",
        "\ud800",
        "\0",
        "exec",
        "x" * 300,
        "grad_output",
        "output",
        "saved_1_self",
        "x\u0bf0",
    ]
    leaves = {name: leaf(2) for name in odd}
    text = check(sum((t * t.sin()).sum() for t in leaves.values()), leaves)
    compile(text, "program", "exec")
    assert "# layer_0_weight is layer.0.weight\n" in text
    assert "# layer_0_weight_2 is layer_0_weight\n" in text
    assert "# class_ is class\n" in text
    assert "# x_y is 'x\\ny'\n" in text
    assert "class_.grad = " in text


def test_a_leaf_of_two_names_is_there_under_both():
    x = leaf(3)
    found = write_backward((x * x).sum(), names={"first": x, "second": x}).run()
    assert found.keys() == {"first", "second"}
    assert torch.equal(found["first"], found["second"])


def test_a_leaf_without_a_name_goes_by_its_index():
    output = leaf(3).sum()
    assert write_backward(output, names={}).run().keys() == {"leaf_1"}
    taken = leaf(3)
    output = (leaf(3) * taken).sum()
    found = write_backward(output, names={"leaf_2": taken}).run()
    assert found.keys() == {"leaf_2", "leaf_2_2"}


def test_a_leaf_as_output_begins_and_ends_the_program():
    x = leaf(())
    assert write_backward(x).run() == {"x": torch.tensor(1.0)}


def test_a_gradient_of_the_readers_begins_the_program():
    x = leaf(3)
    gradient = torch.tensor([1.0, 2.0, 3.0], dtype=torch.float64)
    text = check(x * 2, {"x": x}, gradient)
    assert "= gradient.to(torch.float32)  # [1, 2, 3]" in text


# ---- what stays as it is


def test_it_runs_twice_also_after_backward_has_freed_the_graph():
    x = leaf(3)
    loss = (x.sin() * x).sum()
    program = write_backward(loss)
    first = program.run()["x"]
    first.zero_()  # it is the caller's own
    loss.backward()
    assert torch.equal(program.run()["x"], x.grad)


def test_the_gradients_that_run_returns_share_no_memory():
    x, y = leaf(3), leaf(3)
    found = write_backward((x + y).sum()).run()
    found["x"][0] = 7.0
    assert found["x"].tolist() == [7.0, 1.0, 1.0]
    assert found["y"].tolist() == [1.0, 1.0, 1.0]


def test_hooks_do_not_run_and_the_text_says_where_there_are_some():
    ran = []
    x = leaf(3)
    h = x.sin()
    y = (h * 2).sum()
    assert "ooks" not in str(write_backward(y))
    h.register_hook(lambda g: ran.append("h"))
    x.register_hook(lambda g: ran.append("x"))
    y.grad_fn.register_hook(lambda *_: ran.append("after"))
    y.grad_fn.next_functions[0][0].register_prehook(lambda *_: ran.append("before"))
    program = write_backward(y)
    program.run()
    assert "# Hooks do not run here; there are some on x, h, node 0 (SumBackward0), node 1" in str(
        program
    )
    assert ran == []
    y.backward()
    assert sorted(ran) == ["after", "before", "h", "x"]


def test_a_hook_on_a_saved_tensor_without_a_name_is_seen():
    def middle(x):
        h = x * 2
        h.register_hook(lambda g: None)
        return h.sin()

    assert "Hooks do not run here; there are some on self of node 1." in str(
        write_backward(middle(leaf(3)).sum())
    )


def test_writing_frees_nothing_and_counts_no_version():
    x = leaf(3)
    loss = (x * x).sum()
    version = x._version
    write_backward(loss).run()
    loss.backward(retain_graph=True)
    assert x._version == version


def test_a_leaf_whose_numbers_are_not_used_may_change():
    x = leaf(3)
    program = write_backward((x + 1).sum())
    with torch.no_grad():
        x.add_(1)
    assert torch.equal(program.run()["x"], torch.ones(3))


# ---- errors


@pytest.mark.parametrize("is_inside", [True, False])
def test_the_program_of_shapes_alone_is_written_and_run_inside_their_mode_and_outside(is_inside):
    mode = FakeTensorMode()
    with mode:
        net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))
        loss = net(torch.ones(2, 3)).sum()
    with mode if is_inside else nullcontext():
        grads = write_backward(loss, names=dict(net.named_parameters())).run()
    assert {name: g.shape for name, g in grads.items()} == {
        name: p.shape for name, p in net.named_parameters()
    }


def test_a_freed_graph_is_refused_with_what_is_gone():
    x = leaf(3)
    loss = (x * x).sum()
    loss.backward()
    with pytest.raises(RuntimeError, match=r"node 1 \(MulBackward0\) cannot run.*self \(freed\)"):
        write_backward(loss)
    loss = Square.apply(x).sum()
    program = write_backward(loss)
    loss.backward()
    with pytest.raises(RuntimeError, match=r"SquareBackward\) cannot run .* \(freed\).*retain"):
        program.run()


def test_a_tensor_modified_in_place_is_refused_before_and_after_writing():
    h = leaf(3) * 1
    loss = (h * h).sum()
    program = write_backward(loss)
    h.add_(1)
    with pytest.raises(RuntimeError, match="h was modified in place since the program"):
        program.run()
    with pytest.raises(RuntimeError, match=r"self \(modified in place\).*h = h \+ 1"):
        write_backward(loss)


def test_an_output_without_a_graph_is_refused():
    with pytest.raises(ValueError, match="output 0 has no graph"):
        write_backward(torch.ones(3))
    with pytest.raises(TypeError, match="output must be a tensor, got float"):
        write_backward(3.0)
    with pytest.raises(ValueError, match="lazy parameters, whose module must be called"):
        write_backward(torch.nn.LazyLinear(3).weight)


def test_a_gradient_that_backward_would_refuse_is_refused():
    x, z = leaf(3), leaf((), dtype=torch.complex64)
    with pytest.raises(RuntimeError, match=r"only for scalar outputs.*\(3,\); give gradient="):
        write_backward(x * 2)
    with pytest.raises(RuntimeError, match="only for real scalar outputs.*complex64"):
        write_backward(z * 2)
    with pytest.raises(RuntimeError, match=r"shape of output, \(3,\), got \(4,\)"):
        write_backward(x * 2, torch.ones(4))
    with pytest.raises(RuntimeError, match="must be torch.float32.*got torch.complex64"):
        write_backward(x * 2, torch.ones(3, dtype=torch.complex64))
    with pytest.raises(TypeError, match="gradient must be a tensor or None, got float"):
        write_backward(x.sum(), 1.0)
    check(x * 2, {"x": x}, torch.tensor([1, 2, 3]))  # which it casts


def test_a_graph_of_too_many_nodes_is_refused():
    x = leaf(())
    loss = sum(x * k for k in range(5))
    count = len(Graph.of(loss))
    assert write_backward(loss, max_nodes=count)
    with pytest.raises(ValueError, match=f"{count} nodes, and max_nodes is {count - 1}.*modules"):
        write_backward(loss, max_nodes=count - 1)
    with pytest.raises(TypeError, match="max_nodes must be an int, got float"):
        write_backward(loss, max_nodes=2.0)
    with pytest.raises(TypeError, match="names must map names to tensors"):
        write_backward(loss, names=["x"])


def test_a_function_whose_backward_is_wrong_is_refused_as_backward_does():
    x = leaf(3)
    with pytest.raises(RuntimeError, match=r"incorrect number of gradients \(expected 1, got 2\)"):
        write_backward(GivesTwo.apply(x).sum())
    with pytest.raises(RuntimeError, match=r"invalid gradient at index 0: got \(2,\)"):
        write_backward(WrongShape.apply(x).sum())


def test_a_complex_gradient_of_a_real_input_is_refused_as_backward_does():
    z, x = leaf(3, dtype=torch.complex64), leaf(3)
    output = torch.where(torch.tensor([True, False, True]), z, x).abs().sum()
    with pytest.raises(RuntimeError, match="WhereBackward0.*complex gradient at index 1"):
        write_backward(output)
    with pytest.raises(RuntimeError, match="isFloatingType"):
        output.backward()


class SavesForOneLook(Square):
    clear_saved_tensors_on_access = True


def test_a_function_whose_saved_tensors_can_be_read_once_is_refused_before_a_look():
    x = leaf(3)
    loss = SavesForOneLook.apply(x).sum()
    with pytest.raises(ValueError, match="clear_saved_tensors_on_access = False"):
        write_backward(loss)
    loss.backward()
    torch.testing.assert_close(x.grad, 2 * x.detach())


@pytest.mark.parametrize("mode", [FakeTensorMode, lambda: torch.device("meta")])
def test_a_program_of_tensors_without_values_is_written_and_runs(mode):
    with mode():
        x = torch.ones(3, requires_grad=True)
        program = write_backward((x * x).sum())
    assert "x.grad = grad_x_1 + grad_x_2" in str(program)
    assert program.run()["x"].shape == (3,)


def test_a_program_is_made_by_write_backward_alone():
    with pytest.raises(TypeError, match="made by write_backward"):
        companion.Program()
