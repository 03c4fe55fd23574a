import asyncio
import copy
import gc
import importlib
import math
import sys
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.autograd import Function

from companion import Cut, Graph, Operation, Source, Value, Watch, watch
from companion.forward import places
from companion.forward.tracing import source_of
from tests.cases import each
from tests.programs import Dirty, WithSetup, programs, run

FIXTURES = Path(__file__).parents[1] / "fixtures"


def leaf(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32, requires_grad=True)


def code_and_text(cuts: tuple[Cut, ...]) -> list[tuple[str, str]]:
    return [(cut.code, cut.source.text) for cut in cuts]


# ---- operations


def test_each_operation_has_its_name_its_segment_and_the_makers_of_its_inputs():
    x, w = leaf(1, 2), leaf(3, 4)
    with watch() as watched:
        torch.relu(x * w + 1).sum()
    assert [(o.index, o.name, o.source.text) for o in watched.operations] == [
        (0, "mul", "x * w"),
        (1, "add", "x * w + 1"),
        (2, "relu", "torch.relu(x * w + 1)"),
        (3, "sum", "torch.relu(x * w + 1).sum()"),
    ]
    made_by = [[value.made_by for value in o.inputs] for o in watched.operations]
    assert made_by == [[None, None], [0], [1], [2]]
    assert watched.operations[0].outputs == (Value((2,), torch.float32, True, 0, 0),)
    assert isinstance(watched, Watch) and isinstance(watched.operations[0], Operation)


def test_keyword_arguments_lists_and_out_are_inputs():
    x, out = torch.ones(2), torch.empty(4)
    with watch() as watched:
        y = x * 2
        torch.cat([x, y], out=out)
        torch.clamp(input=out, min=x.sum())
    cat, _, clamp = watched.operations[1:]
    assert [value.made_by for value in cat.inputs] == [None, None, 0]
    assert cat.in_place
    assert [value.made_by for value in clamp.inputs] == [1, 2]


def test_outputs_are_told_apart():
    x = leaf(1, 5)
    with watch() as watched:
        values, indices = x.max(0)
        values * indices
    assert [value.output_nr for value in watched.operations[1].inputs] == [0, 1]


def test_the_line_of_a_module_is_its_own_and_not_torchs():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    ones = torch.ones(1, 2)
    with watch() as watched:
        model(ones)
    assert [o.name for o in watched.operations] == ["linear", "relu"]
    places = {(o.source.file, o.source.text) for o in watched.operations}
    assert places == {(__file__, "model(ones)")}


def test_code_without_a_source_is_watched_too():
    x = leaf(1)
    with watch() as watched:
        exec("x.detach()", {"x": x})
    assert watched.cuts[0].source == Source("<string>", 1, "")


@each(
    "look",
    "x.shape x.dtype x.requires_grad x.grad_fn x.is_leaf x.grad x.device x.ndim x.size() x.dim() "
    "len(x) hash(x) x.stride() x.is_contiguous() repr(x) str(x) f'{x[0]:.2f}' x.retain_grad() "
    "x.requires_grad_() x.is_floating_point() x.numel() x.element_size()".split(" "),
)
def test_looking_is_neither_an_operation_nor_a_cut(look):
    x = leaf(1, 2)
    with watch() as watched:
        eval(look, {"x": x})
    assert watched.cuts == ()
    assert [o.name for o in watched.operations if o.name != "__getitem__"] == []


def test_printing_is_no_cut(capsys):
    loss = leaf(1, 2)
    with watch() as watched:
        print(loss)
        print(f"{loss.sum():.2f}")
    assert watched.cuts == ()
    assert [o.name for o in watched.operations] == ["sum"]


@pytest.mark.parametrize("name", ["T", "mT", "real"])
def test_a_property_that_computes_is_an_operation(name):
    x = torch.ones(2, 2, requires_grad=True)
    with watch() as watched:
        getattr(x, name)
    assert [o.name for o in watched.operations] == [name]
    assert watched.operations[0].called == f".{name}"
    assert watched.cuts == ()


# ---- cuts: each kind, with its segment

CUTS = [
    ("detached", "x.detach()"),
    ("detached", "x.data"),
    ("detached", "(x * 1).detach_()"),
    ("penalty-detached", "torch.autograd.grad((x * x).sum(), x)"),
    ("left-torch", "x[0].item()"),
    ("left-torch", "float(x[0])"),
    ("left-torch", "int(x[0])"),
    ("left-torch", "x.tolist()"),
    ("left-torch", "math.sin(x[0])"),
    ("copied", "torch.tensor([x[0], x[1]])"),
    ("copied", "x.new_tensor(x)"),
    ("not-differentiable", "x.argmax()"),
    ("not-differentiable", "x > 1"),
    ("not-differentiable", "x.long()"),
    ("not-differentiable", "x.bool()"),
    ("not-differentiable", "torch.isnan(x)"),
    ("no-formula", "torch.special.airy_ai(x)"),
    ("control-flow", "bool(x[0])"),
    ("control-flow", "torch.equal(x, x)"),
    ("control-flow", "1.0 in x"),
]


@pytest.mark.filterwarnings("ignore:Converting a tensor", "ignore:To copy construct")
@pytest.mark.parametrize("code, text", CUTS)
def test_a_cut_has_its_code_and_its_segment(code, text, tmp_path):
    path = tmp_path / "script.py"
    path.write_text(f"def f(x, torch, math):\n    y = {text}\n    return y\n")
    scope: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    with watch() as watched:
        scope["f"](leaf(1, 2), torch, math)
    (cut,) = watched.cuts
    assert (cut.code, cut.source) == (code, Source(str(path), 2, text))
    assert cut.operation == watched.operations[cut.index]
    assert cut.operation.called in cut.message
    assert str(cut) == f"cut at {path}:2: `{text}` ({code}): {cut.message}"


def test_gradients_that_are_off_cut():
    x = leaf(1, 2)
    with watch() as watched:
        with torch.no_grad():
            a = x * 2
            b = a * 3
        with torch.inference_mode():
            x.sum()
        torch.set_grad_enabled(False)
        x.exp()
        torch.set_grad_enabled(True)
    assert code_and_text(watched.cuts) == [
        ("no-grad", "x * 2"),
        ("inference-mode", "x.sum()"),
        ("no-grad", "x.exp()"),
    ]
    assert code_and_text(watched.reaching(b)) == [("no-grad", "x * 2")]


def test_a_comparison_that_only_decides_is_control_flow():
    x = leaf(1, 2)
    with watch() as watched:
        if x.sum() > 0:
            mask = x > 0
        torch.where(mask, x, 0)
    assert code_and_text(watched.cuts) == [
        ("control-flow", "x.sum() > 0"),
        ("not-differentiable", "x > 0"),
    ]
    assert "usual for masks" in watched.cuts[1].message


@each(
    "text",
    "torch.zeros_like(x) torch.empty_like(x) torch.rand_like(x) x.new_zeros(2) x.new_tensor([1.0]) "
    "torch.ones(2).expand_as(x) torch.ones(2).type_as(x) torch.ones(2).to(x) x[torch.tensor([0])] "
    "torch.max(x,0) x.sort() torch.where(torch.ones(2)>0,x,0) x.requires_grad_() x.clone() "
    "x.round() x.float()".split(),
)
def test_what_uses_no_value_or_keeps_the_graph_is_no_cut(text):
    x = leaf(1, 2)
    with watch() as watched:
        eval(text, {"x": x, "torch": torch})
    assert watched.cuts == ()


def test_a_parameter_that_is_updated_without_gradients_is_no_cut():
    p = nn.Parameter(torch.ones(2))
    p.grad = torch.ones(2)
    with watch() as watched:
        torch.optim.SGD([p], lr=0.1).step()
        with torch.no_grad():
            p -= 0.1 * p.grad
            p.add_(1)
    assert watched.cuts == ()
    assert watched.mutations == ()


# ---- what reaches the output


def test_only_what_went_into_the_output_reaches_it():
    x = leaf(1, 2)
    with watch() as watched:
        y = x.detach() * x
        z = x.exp().detach()
        w = y + 1
    assert code_and_text(watched.reaching(w)) == [("detached", "x.detach()")]
    assert code_and_text(watched.reaching(z)) == [("detached", "x.exp().detach()")]
    assert watched.reaching(x) == ()


def test_a_number_that_left_torch_is_followed_when_it_comes_back():
    x = leaf(1, 2)
    with watch() as watched:
        s = x.max().item()
        a = x * s
        b = x * 2.0  # the same number, and not the same object
        c = torch.tensor(s) * 2
        d = torch.tensor(x.tolist())
    assert code_and_text(watched.reaching(a)) == [("left-torch", "x.max().item()")]
    assert watched.reaching(b) == ()
    assert code_and_text(watched.reaching(c)) == [("left-torch", "x.max().item()")]
    assert code_and_text(watched.reaching(d)) == [("left-torch", "x.tolist()")]


def test_what_cannot_be_followed_is_not_said_to_stay_away():
    x = leaf(1, 2)
    with watch() as watched:
        a = torch.from_numpy(np.sin(x.detach().numpy()))
        b = x * (x[0].item() + 1)
        c = x.detach() * x
    assert watched.reaching(a) == ()
    assert watched.reaching(b) == ()
    assert [(cut.source.text, cut.follows) for cut in watched.cuts] == [
        ("x.detach()", False),
        ("x[0].item()", False),
        ("x.detach()", True),
    ]
    assert watched.reaching(c) == (watched.cuts[2],)


def test_a_tensor_that_left_by_dlpack_is_not_said_to_stay_away():
    x = leaf(1, 2)
    with watch() as watched:
        a = torch.from_dlpack(x.detach())
        np.from_dlpack(x.data)
        x.detach()
    assert watched.reaching(a * 2) == ()
    assert [(cut.source.text, cut.follows) for cut in watched.cuts] == [
        ("x.detach()", False),
        ("x.data", False),
        ("x.detach()", True),
    ]


def test_indices_beside_values_reach_as_what_they_are():
    x = leaf(3, 1)
    with watch() as watched:
        values, indices = x.max(0)
        a = indices * 2.0
        b = values * 2
    assert watched.cuts == ()
    assert code_and_text(watched.reaching(a)) == [("not-differentiable", "x.max(0)")]
    assert watched.reaching(b) == ()


def test_a_constant_that_came_along_is_no_cut():
    x = leaf(1, 2)
    with watch() as watched:
        a, b = torch.broadcast_tensors(torch.ones(2), x)
        c = torch.zeros_like(x.detach()) * a
    assert watched.reaching(a * b) == watched.reaching(c) == ()


def test_a_tensor_that_begins_to_require_grad_can_be_cut_off():
    x = torch.ones(2)
    with watch() as watched:
        x * 2
        x.requires_grad_()
        x.detach()
    assert code_and_text(watched.cuts) == [("detached", "x.detach()")]


def test_running_statistics_are_no_cut_of_the_next_step():
    norm, x = nn.BatchNorm1d(2), torch.randn(4, 2)
    with watch() as watched:
        y = norm(norm(x))
    assert watched.cuts == watched.reaching(y) == ()


def test_values_written_into_a_part_reach_the_whole_and_all_its_views():
    x = leaf(1, 2)
    with watch() as watched:
        buffer = torch.zeros(3)
        before = buffer[1:]
        buffer[1] = x[0].detach()
        after = buffer[:2]
        out = torch.empty(2)
        torch.mul(x.detach(), 2, out=out)
        rows = torch.zeros(2, 2)
        rows[0].add_(x.data)
        rows[1].add_(1)
    first, second, third = watched.cuts
    for tensor in (buffer, before, after, before * 2):
        assert watched.reaching(tensor) in ((first,), ())
    assert watched.reaching(buffer) == watched.reaching(before) == (first,)
    assert watched.reaching(after) == (first,)
    assert watched.reaching(out) == (second,)
    assert watched.reaching(rows) == watched.reaching(rows[0]) == (third,)


def test_a_view_by_detach_shares_what_is_written():
    x, y = leaf(1, 2), leaf(3, 4)
    with watch() as watched:
        h = x * 1
        d = h.detach()
        d.mul_(y.detach())
        out = h + 1
    assert code_and_text(watched.reaching(out)) == [
        ("detached", "h.detach()"),
        ("detached", "y.detach()"),
    ]


def test_iterating_and_splitting_are_followed():
    x = leaf(1, 2)
    with watch() as watched:
        total = torch.zeros(())
        for row in x.detach():
            total = total + row
        first, _ = torch.stack([x, x]).detach().split(1)
    assert code_and_text(watched.reaching(total)) == [("detached", "x.detach()")]
    assert len(watched.reaching(first)) == 1


def test_what_is_no_tensor_is_refused():
    with watch() as watched:
        pass
    with pytest.raises(TypeError, match="output must be a tensor, got float"):
        watched.reaching(1.0)


# ---- custom Functions


class Two(Function):
    @staticmethod
    def forward(ctx, a, b):
        ctx.save_for_backward(a)
        inner = a.exp().detach()
        return inner * b, float(b.sum()) * a, a

    @staticmethod
    def backward(ctx, *grads):
        return grads[0], None


def test_inside_a_custom_function_nothing_is_listed_and_the_data_is_followed():
    x, y = leaf(1, 2), leaf(3, 4)
    with watch() as watched:
        d = x.detach()
        a, b, c = Two.apply(y, d)
        e = Dirty.apply(x.detach() * y)
        f = WithSetup.apply(y * x.detach())
        outside = y * 2
    assert [o.name for o in watched.operations] == "detach detach mul detach mul mul".split()
    assert [cut.code for cut in watched.cuts] == ["detached"] * 3
    assert watched.reaching(a) == watched.reaching(b) == (watched.cuts[0],)
    assert watched.reaching(c) == ()
    assert watched.reaching(e) == (watched.cuts[1],)
    assert watched.reaching(f) == (watched.cuts[2],)
    assert watched.reaching(outside) == ()
    assert source_of(watched, a.grad_fn).text == "Two.apply(y, d)"


def test_a_result_of_a_function_without_a_node_is_a_cut_whoever_asks_first():
    x = leaf(1, 2)
    with watch() as watched, torch.no_grad():
        y = WithSetup.apply(x)
        WithSetup.apply(x)  # whose result is gone: nothing can come of it
    assert [(cut.code, cut.source.text) for cut in watched.cuts] == [
        ("no-grad", "WithSetup.apply(x)")
    ]
    assert watched.reaching(y) == watched.cuts
    with watch() as watched:
        z = WithSetup.apply(x)
    assert watched.cuts == watched.reaching(z) == ()


def test_a_watch_inside_a_custom_function_sees_it():
    seen = []

    class Watched(Function):
        @staticmethod
        def forward(ctx, a):
            with watch() as watched:
                result = a * 2
            seen.append(watched)
            return result

        @staticmethod
        def backward(ctx, grad):
            with watch() as watched:
                result = grad * 2
            seen.append(watched)
            return result

    Watched.apply(leaf(1, 2)).sum().backward()
    assert [[o.source.text for o in w.operations] for w in seen] == [["a * 2"], ["grad * 2"]]


# ---- nothing changes


PROGRAMS = programs(
    "matmul|where detached|in place of a result|item|no_grad|in place|view|with setup|dropout|"
    "dirty|sort|add|index".split("|"),
    min_size=3,
    max_size=20,
)


def trace(program) -> list[object]:
    torch.manual_seed(0)
    leaves = [torch.randn(4, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    made = run(program, [leaf * 1 for leaf in leaves])
    nodes = [(node.name, node.shape) for node in Graph.of(made[-1] * leaves[0]).nodes]
    nodes += [
        (s.name, s.shape, s.version) for n in Graph.of(made[-1] * leaves[0]).nodes for s in n.saved
    ]
    total = torch.stack([tensor.sum() for tensor in made if tensor.requires_grad]).sum()
    total.backward()
    found: list[object] = [
        nodes,
        [tensor._version for tensor in made],
        [tensor.requires_grad for tensor in made],
    ]
    tensors = [*made, *[leaf.grad for leaf in leaves]]
    return found + [None if t is None else t.detach().numpy().tobytes() for t in tensors]


@settings(max_examples=60, deadline=None)
@given(PROGRAMS)
def test_a_program_computes_the_same_bits_under_a_watch(program):
    plain = trace_or_error(program)
    with watch() as watched:
        seen = trace_or_error(program)
    assert seen == plain
    assert watched.mutations == ()
    str(watched)


def trace_or_error(program) -> object:
    try:
        return trace(program)
    except RuntimeError as error:
        return str(error)


def test_a_program_under_two_watches_computes_the_same_and_both_see_it():
    program = [
        ("matmul", 0, 1),
        ("item", 0, 2),
        ("dirty", 1, 0),
        ("sort", 0, 3),
        ("in place", 1, 2),
    ]
    plain = trace(program)
    with watch() as outer, watch() as inner:
        assert trace(program) == plain
    names = [o.name for o in inner.operations]
    assert names == [o.name for o in outer.operations]
    assert code_and_text(inner.cuts) == code_and_text(outer.cuts)
    assert inner.operations[0].source == outer.operations[0].source


def test_a_watch_keeps_no_tensor_alive():
    x = leaf(1, 2)
    with watch() as watched:
        y = x * 2
        z = y.detach() * x
        s = z[0].item()
        inside = weakref.ref(y)
        del y
        assert inside() is None
    refs = [weakref.ref(z)]
    gone = len(watched._recorder.states)
    del z
    assert refs[0]() is None
    assert len(watched._recorder.states) < gone
    leaves = weakref.ref(x)
    del x
    gc.collect()
    assert leaves() is None
    assert len(watched.cuts) == 2 and s


def test_a_watch_holds_no_frame():
    def run():
        held = torch.ones(3)
        with watch() as watched:
            held * 2
        return watched, weakref.ref(held)

    watched, held = run()
    assert held() is None
    assert len(watched.operations) == 1


def test_errors_come_through_as_they_are_and_end_the_watch():
    x, y = torch.ones(2), torch.ones(3)
    with pytest.raises(RuntimeError) as plain:
        x + y
    with pytest.raises(RuntimeError) as seen, watch() as watched:
        x * 2
        x + y
    assert str(seen.value) == str(plain.value)
    assert type(seen.value) is type(plain.value)
    x * 3
    assert [o.name for o in watched.operations] == ["mul"]


def test_the_errors_of_in_place_operations_stay():
    x = leaf(1, 2)
    with watch():
        y = x.exp()
        y.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        y.sum().backward()
    with watch(), pytest.raises(RuntimeError, match="a leaf Variable that requires grad"):
        x.add_(1)


def test_warnings_come_through():
    x = leaf(1, 2)
    with watch(), pytest.warns(UserWarning, match="copy construct") as seen:
        torch.tensor(x)
    assert len(seen) == 1


# ---- where it is used


def test_a_watch_is_entered_once():
    watched = watch()
    with watched:
        with pytest.raises(ValueError, match="entered before; call watch"):
            watched.__enter__()
        torch.ones(2) * 2
    with pytest.raises(ValueError, match="entered before; call watch"):
        watched.__enter__()
    assert len(watched.operations) == 2


def test_everything_can_be_asked_while_the_block_runs():
    x = leaf(1, 2)
    with watch() as watched:
        h = x.detach()
        assert code_and_text(watched.cuts) == [("detached", "x.detach()")]
        assert len(watched.operations) == 1
        y = h * x
        assert len(watched.reaching(y)) == 1
        assert watched.mutations == ()
        assert str(watched).startswith("2 operations, 1 cut")
    assert len(watched.operations) == 2


def test_a_backward_pass_in_the_block_is_not_listed():
    x = leaf(1, 2)
    x.register_hook(lambda grad: grad * x.detach())
    gradient = torch.ones(())
    with watch() as watched:
        y = Two.apply(x, x)[0].sum()
        y.backward(retain_graph=True)
        torch.autograd.Variable._execution_engine.run_backward(  # which not all versions announce
            (y,), (gradient,), False, False, (), allow_unreachable=True, accumulate_grad=True
        )
        z = x * 2
    assert [o.name for o in watched.operations] == ["sum", "mul"]
    assert watched.cuts == watched.reaching(z) == ()


def test_what_counts_is_where_a_block_is_entered_and_not_where_watch_was_called():
    in_a_hook, in_a_thread = watch(), watch()

    def hook(gradient):
        with in_a_hook:
            return gradient * 2

    def make_module():
        with in_a_thread:
            nn.Module().register_parameter("weight", nn.Parameter(leaf(1, 2) * 2))

    y = leaf(1, 2) * 1
    y.register_hook(hook)
    y.sum().backward()
    assert [o.source.text for o in in_a_hook.operations] == ["gradient * 2"]
    thread = threading.Thread(target=make_module)
    thread.start()
    thread.join()
    assert [cut.code for cut in in_a_thread.cuts] == ["copied"]


def test_other_threads_are_not_watched():
    x, results = leaf(1, 2), []
    with watch() as watched:
        thread = threading.Thread(target=lambda: results.append(x.detach() * 2))
        thread.start()
        thread.join()
        x * 2
    assert [o.name for o in watched.operations] == ["mul"]
    assert len(results) == 1


def test_a_block_that_is_suspended_goes_on_watching_and_ends_cleanly():
    class Mode(torch.overrides.TorchFunctionMode):
        calls = 0

        def __torch_function__(self, func, types, args=(), kwargs=None):
            Mode.calls += 1
            return func(*args, **(kwargs or {}))

    def steps():
        with watch() as watched:
            yield watched
            yield watched

    x = leaf(1, 2)
    generator = steps()
    watched = next(generator)
    x * 2
    with Mode():
        x * 3
        generator.close()  # while another mode is on top of it
        x * 4
        calls = Mode.calls
        x * 5
        assert Mode.calls == calls + 1
    x * 6
    assert len(watched.operations) == 2
    assert (
        torch.overrides._len_torch_function_stack() == 0
        if hasattr(torch.overrides, "_len_torch_function_stack")
        else True
    )


def test_a_block_that_another_thread_closes_stops_watching():
    def steps():
        with watch() as watched:
            yield watched

    generator = steps()
    watched = next(generator)
    thread = threading.Thread(target=generator.close)
    thread.start()
    thread.join()
    torch.ones(2) * 2
    assert watched.operations == ()
    torch.overrides._pop_mode()  # of this test, which left it there


def test_context_managers_around_it_work():
    @contextmanager
    def mine():
        with watch() as watched:
            yield watched

    x = leaf(1, 2)
    with mine() as watched, ExitStack() as stack:
        other = stack.enter_context(watch())
        WithSetup.apply(x)
        x * 2
    assert [o.name for o in watched.operations] == [o.name for o in other.operations] == ["mul"]


@pytest.mark.usefixtures("fresh_compiler")
def test_functions_of_torch_func_and_of_compile_run_under_it():
    x = torch.ones(3)
    with watch() as watched:
        assert torch.func.grad(lambda v: (v * v).sum())(x).tolist() == [2, 2, 2]
        assert torch.func.vmap(lambda v: v.exp().detach())(x).shape == (3,)
        torch.func.jacrev(torch.sin)(x)
    assert watched.operations
    assert watched.mutations == ()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.usefixtures("fresh_compiler")
def test_a_function_that_is_compiled_under_it_computes_the_same():
    def f(x):
        y = x * 2
        return (y.detach() * x).sum()

    x = leaf(1, 2)
    with watch() as watched:
        y = torch.compile(f, backend="eager", fullgraph=True)(x)
    y.backward()
    assert x.grad.tolist() == [2, 4]
    assert {o.source.file for o in watched.operations} <= {__file__}
    (cut,) = watched.cuts  # torch wrote the code that runs, and the user the detach() in it
    assert cut.code == "detached" and not cut.by_library
    torch._dynamo.reset()


def test_subclasses_do_not_see_that_they_are_watched():
    calls = []

    class Logged(torch.Tensor):
        @classmethod
        def __torch_function__(cls, func, types, args=(), kwargs=None):
            calls.append(func.__name__)
            return super().__torch_function__(func, types, args, kwargs)

    x = torch.ones(2).as_subclass(Logged)
    x * 2
    plain = calls.copy()
    calls.clear()
    with watch() as watched:
        x * 2
    assert calls == plain
    assert [o.name for o in watched.operations] == ["mul"]


def test_modes_of_the_user_see_the_same_calls():
    from torch.utils._python_dispatch import TorchDispatchMode

    class Log(TorchDispatchMode):
        def __init__(self):
            super().__init__()
            self.calls = []

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            self.calls.append(str(func))
            return func(*args, **(kwargs or {}))

    x = torch.randn(300, 300, requires_grad=True)
    with Log() as plain:
        y = (x.T * 2).T.contiguous().sum()
    with watch(), Log() as seen:
        y = (x.T * 2).T.contiguous().sum()
    assert seen.calls == plain.calls
    del y


# ---- a real script


@pytest.fixture
def tagger(monkeypatch):
    monkeypatch.syspath_prepend(str(FIXTURES))
    yield importlib.import_module("tagger")
    for name in ("tagger", "pooling"):
        sys.modules.pop(name, None)


def test_the_one_harmful_cut_of_a_long_script_is_told_at_its_line_in_the_other_file(tagger):
    with watch() as watched:
        model, loss, _ = tagger.main()
    (cut,) = watched.reaching(loss)
    lines = (FIXTURES / "pooling.py").read_text().splitlines()
    assert cut.code == "no-grad"
    assert cut.source == Source(
        str(FIXTURES / "pooling.py"),
        lines.index("    scores = states @ query") + 1,
        "states @ query",
    )
    assert model.query.grad is None
    assert {c.code for c in watched.cuts} == {
        "no-grad",
        "control-flow",
        "left-torch",
        "not-differentiable",
    }
    assert watched.mutations == ()


def test_the_script_learns_the_same_under_a_watch(tagger):
    plain = copy.deepcopy(tagger.main()[0].state_dict())
    with watch():
        seen = tagger.main()[0].state_dict()
    assert all(torch.equal(plain[name], seen[name]) for name in plain)


def test_the_report_has_a_line_for_each_cut():
    x = leaf(1, 2)
    with watch() as watched:
        x.detach()
        x.argmax()
    first, *rest = str(watched).splitlines()
    assert first == "2 operations, 2 cuts"
    assert rest == [str(cut) for cut in watched.cuts]
    assert "test_watching.py:" in rest[0] and "`x.detach()` (detached): " in rest[0]
    assert repr(watched) == "<Watch: 2 operations, 2 cuts>"


def test_the_report_has_what_may_do_harm_first_and_what_is_repeated_once():
    model, x = nn.Linear(2, 1), torch.ones(3, 2)
    with watch() as watched:
        if model(x).sum() > 0:
            pass
        h = model(x).exp()
        loss = h.sum()
        for part in (h, h):
            part.data.mul_(2)
    assert loss.requires_grad
    _, *rest = str(watched).splitlines()
    assert "(detached): " in rest[0] and rest[0].endswith(" (2 times)")
    assert rest[1].startswith("mutation at ") and "(control-flow): " in rest[2]
    assert len(rest) == 3 and len(watched.cuts) == 3


def test_one_operation_is_told_as_one():
    x = leaf(1, 2)
    with watch() as watched:
        x.detach()
    assert repr(watched) == "<Watch: 1 operation, 1 cut>"


def test_tasks_that_take_turns_see_each_other_and_reaching_tells_them_apart():
    async def task(own_turn, next_turn):
        x = leaf(1, 2)
        with watch() as watched:
            y = x.detach() * x
            next_turn.set()
            await own_turn.wait()
            z = y.exp()
        assert [cut.index for cut in watched.reaching(z)] == [0]
        return len(watched.cuts)

    async def tasks():
        first, second = asyncio.Event(), asyncio.Event()
        return await asyncio.gather(task(first, second), task(second, first))

    # In a thread of its own, since the tests in a browser leave a loop running in this one.
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(lambda: asyncio.run(tasks())).result() == [2, 1]


# ---- the first NaN or infinity

ZERO, NAN, INF = torch.zeros(2), torch.tensor([torch.nan, 1.0]), torch.tensor([torch.inf, 1.0])
BIRTHS = [
    (lambda x: (x / ZERO).sum() * 2, "x / ZERO"),
    (lambda x: torch.where(x > 9, x, (x * 1e30).exp()), "(x * 1e30).exp()"),
    (lambda x: (x * torch.inf).relu(), "x * torch.inf"),
    (lambda x: x.masked_fill(x > 0, -torch.inf).softmax(0), "x.masked_fill(x > 0, -torch.inf)"),
    (lambda x: x + torch.full((2,), -torch.inf), "torch.full((2,), -torch.inf)"),
    (lambda x: x.clone().sub_(1).log_(), "x.clone().sub_(1).log_()"),
    (lambda x: x * INF - INF, "x * INF - INF"),  # NaN of infinities from before the block
    (lambda x: (x * INF).tanh().log1p() / ZERO, "(x * INF).tanh().log1p() / ZERO"),
    (lambda x: (x * 3e38).sum() + (x * 3e38).sum(), "(x * 3e38).sum()"),
    (lambda x: x.double().mul(1e300).float(), "x.double().mul(1e300).float()"),
    (lambda x: torch.complex(x, x) / ZERO, "torch.complex(x, x) / ZERO"),
    (
        lambda x: x.expand(3, 2).T.reshape(3, 2)[1:] / ZERO,
        "x.expand(3, 2).T.reshape(3, 2)[1:] / ZERO",
    ),
    (lambda x: (x * torch.ones(99, 99, 2)) / ZERO, "(x * torch.ones(99, 99, 2)) / ZERO"),
]
FINITE = [
    lambda x: x + NAN,  # was there before
    lambda x: (x * INF).relu()[1:],
    lambda x: torch.empty(9).copy_(x[0]).reshape(3, 3) + x[0],
    lambda x: x * torch.full((2,), 3e38),  # of which a sum overflows
    lambda x: (x * NAN).nan_to_num() + x.argmax(),
]


@each(("f", "text"), BIRTHS)
def test_the_first_nan_or_infinity_is_told_where_it_was_born(f, text):
    with watch() as watched:
        f(leaf(1, 1))
    assert watched.first_nonfinite.source.text == text
    assert watched.first_nonfinite in watched.operations


@each("f", FINITE)
def test_what_is_finite_or_was_not_before_the_block_is_no_birth(f):
    with watch() as watched:
        f(leaf(1, 1))
    assert watched.first_nonfinite is None


def test_inside_vmap_where_no_value_can_be_asked_for_all_runs_as_ever():
    with watch():
        y = torch.vmap(lambda t: t / 0 + t)(leaf(1, 1))
    assert y.isinf().all()


def test_what_empty_gave_is_nobodys_birth_until_it_is_written():
    with watch() as watched:
        e = torch.empty(2)
        e.copy_(NAN)
        e[0] = 1.0
        e + 1
    assert watched.first_nonfinite is None


def test_a_birth_through_a_view_is_that_of_the_writer():
    x = torch.ones(2)
    with watch() as watched:
        x[:1].sub_(1).log_()
        (x * 2).sum()
    assert watched.first_nonfinite.source.text == "x[:1].sub_(1).log_()"


def test_a_birth_inside_a_function_is_told_at_the_call_of_apply():
    class Log(Function):
        @staticmethod
        def forward(ctx, x):
            return x.log()

    x = leaf(0, 1)
    with watch() as watched:
        y = x * 1
        Log.apply(y) + 1
    born = watched.first_nonfinite
    assert (born.name, born.source.text, born.index) == ("log", "Log.apply(y)", 1)


def test_looking_for_nan_makes_no_node_and_changes_nothing():
    x = leaf(*range(40))
    before = (x * 1).grad_fn._sequence_nr()
    with watch():
        a = x * 2
        b = x[:, None] * x
    assert [t.grad_fn._sequence_nr() - before for t in (a, b)] == [1, 3]
    assert a._version == 0 and a.is_leaf is False


def test_the_forward_of_a_module_is_not_looked_for_among_all_functions(monkeypatch):
    def fail(code):
        raise AssertionError(code)

    monkeypatch.setattr(places, "_is_of_a_function", fail)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.ReLU())
    model.register_forward_hook(lambda *_: None)
    with watch() as watched:
        model(torch.ones(1, 2))
    assert len(watched.operations) == 3  # that of ones() is one


@pytest.mark.filterwarnings("ignore")
def test_what_is_traced_is_the_same():
    """With what watch asks of each tensor, two traces of a model differed."""
    model, x = nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.Linear(3, 2)), torch.randn(5, 4)
    plain = torch.jit.trace(model, x).inlined_graph
    with watch():
        traced = torch.jit.trace(model, x)  # which traces twice, and compares
        y = traced(x)
    kinds = [[node.kind() for node in g.nodes()] for g in (plain, traced.inlined_graph)]
    assert kinds[0] == kinds[1]
    assert torch.allclose(y, model(x))
