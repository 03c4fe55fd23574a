"""reading.py: what is read, in which order, under which names; what is refused."""

import copy
import gc
import pickle
import sys
import threading
import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from companion import Edge, Graph, GraphNode, draw, walk_grad_fn, write_backward
from companion.graph.nodes import shape_as_text
from tests.programs import OPERATIONS, Double, GivesNone, programs, run


def names(graph: Graph) -> list[str]:
    return [node.name for node in graph.nodes]


# ---- structure


def test_the_pass_of_the_seed_has_five_nodes_and_four_edges():
    x = torch.randn(2, 3, requires_grad=True)
    w = torch.randn(3, 2, requires_grad=True)
    loss = (torch.mm(x, w) + 2.0).mean()
    graph = Graph.of(loss)
    assert names(graph) == [
        "MeanBackward0",
        "AddBackward0",
        "MmBackward0",
        "AccumulateGrad",
        "AccumulateGrad",
    ]
    assert graph.edges == (
        Edge(source=0, target=1, slot=0, input_nr=0),
        Edge(source=1, target=2, slot=0, input_nr=0),
        Edge(source=2, target=3, slot=0, input_nr=0),
        Edge(source=2, target=4, slot=1, input_nr=0),
    )
    assert graph.slots(1) == (Edge(1, 2, 0, 0), None)
    assert len(graph) == len(graph.nodes) == 5
    assert graph.depth == 3
    assert graph.roots == graph.nodes[:1]
    assert graph.leaves == graph.nodes[3:]


def test_a_node_tells_its_place_its_kind_and_what_it_made():
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    y = x.float().sum()
    nodes = Graph.of(y).nodes
    assert [node.index for node in nodes] == [0, 1, 2]
    assert [node.is_leaf for node in nodes] == [False, False, True]
    assert [node.shape for node in nodes] == [(), (2, 3), (2, 3)]
    assert [node.dtype for node in nodes] == [torch.float32, torch.float32, torch.float64]
    assert nodes[0].grad_fn is y.grad_fn
    assert nodes[2].grad_fn.variable is x


def test_a_shared_sub_graph_is_read_once():
    t = torch.ones(2, requires_grad=True)
    for _ in range(100):  # 2 ** 100 ways
        t = t + t
    graph = Graph.of(t)
    assert len(graph) == 101
    assert len(graph.edges) == 200
    assert graph.depth == 100


def test_an_edge_keeps_the_number_of_the_output_it_enters():
    whole = torch.arange(4.0, requires_grad=True)
    first, second = whole.split(2)
    graph = Graph.of(second * first)
    assert [edge.input_nr for edge in graph.edges if edge.target == 1] == [1, 0]
    assert names(graph).count("SplitBackward0") == 1


def test_depth_is_the_longest_way_and_not_the_shortest():
    x = torch.ones(2, requires_grad=True)
    assert Graph.of(x.sin().sin().sin() + x).depth == 4
    assert Graph.of(x + x.sin().sin().sin()).depth == 4
    assert Graph.of(x).depth == 0


def test_several_outputs_give_several_roots_in_the_order_given():
    x = torch.ones(2, requires_grad=True)
    sin, exp = x.sin(), x.exp()
    graph = Graph.of(exp, sin)
    assert [root.name for root in graph.roots] == ["ExpBackward0", "SinBackward0"]
    assert len(graph) == 3


def test_outputs_of_one_node_are_one_root_and_a_root_may_lie_below_another():
    first, second = torch.arange(4.0, requires_grad=True).split(2)
    assert len(Graph.of(first, second).roots) == 1
    graph = Graph.of(first, first.exp())
    assert [root.name for root in graph.roots] == ["SplitBackward0", "ExpBackward0"]
    assert Edge(source=1, target=0, slot=0, input_nr=0) in graph.edges


def test_a_leaf_gives_a_graph_of_one_node():
    x = torch.ones(2, requires_grad=True)
    graph = Graph.of(x)
    assert names(graph) == ["AccumulateGrad"]
    assert graph.roots == graph.leaves == graph.nodes
    assert graph.edges == ()
    assert graph.nodes[0].label == "x"


def test_a_node_can_stand_for_its_tensor():
    x = torch.ones(2, requires_grad=True)
    y = x.exp().sum()
    assert names(Graph.of(y.grad_fn)) == names(Graph.of(y))


def test_the_order_is_the_same_on_every_reading_and_goes_by_distance():
    x = torch.ones(2, requires_grad=True)
    y = (x.exp() * x.sin()).sum()
    expected = ["SumBackward0", "MulBackward0", "ExpBackward0", "SinBackward0", "AccumulateGrad"]
    assert [names(Graph.of(y)) for _ in range(3)] == [expected] * 3


def test_a_custom_function_is_told_from_an_operation():
    x = torch.ones(2, requires_grad=True)
    nodes = Graph.of(Double.apply(x).exp()).nodes
    assert [(node.name, node.is_custom) for node in nodes] == [
        ("ExpBackward0", False),
        ("DoubleBackward", True),
        ("AccumulateGrad", False),
    ]


def test_reading_changes_nothing_of_what_it_reads():
    x = torch.ones(2, requires_grad=True)
    y = (x * x).sum()
    version = x._version
    graph = Graph.of(y)
    assert graph.saved_nbytes > 0 and graph.depth and graph.edges
    assert x.grad is None and x._version == version
    y.backward()
    assert x.grad.tolist() == [2.0, 2.0]


@pytest.mark.parametrize("look", [Graph.of, draw, walk_grad_fn])
def test_looking_keeps_nothing_alive_once_the_caller_lets_go(no_gc, look):
    x = torch.ones(2, requires_grad=True)
    y = x.exp()
    found = look(y)
    leaf = weakref.ref(x)
    del x, y, found
    assert leaf() is None


def test_a_graph_keeps_its_leaves():
    x = torch.ones(2, requires_grad=True)
    graph = Graph.of(x.exp())
    leaf = weakref.ref(x)
    del x
    assert leaf() is graph.leaves[0].grad_fn.variable


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="exec() defines no variable of a function")
def test_looking_for_names_leaves_what_exec_defined():
    exec("defined = 5")
    x = torch.ones(2, requires_grad=True)
    Graph.of(x * 2)
    assert locals()["defined"] == 5


def test_a_local_hides_a_global_of_its_name(monkeypatch):
    monkeypatch.setitem(globals(), "both", torch.ones(2, requires_grad=True))
    monkeypatch.setitem(globals(), "number", torch.ones(2, requires_grad=True))
    both, number = torch.ones(3, requires_grad=True), 5
    assert Graph.of(both * number).leaves[0].label == "both"
    assert Graph.of(globals()["both"] * 2).leaves[0].label == "AccumulateGrad"
    assert Graph.of(globals()["number"] * 2).leaves[0].label == "AccumulateGrad"


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
def test_a_mode_without_gradients_changes_nothing(mode):
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    with mode():
        assert names(Graph.of(x)) == ["AccumulateGrad"]
        assert names(Graph.of(y)) == ["MulBackward0", "AccumulateGrad"]


def test_looking_for_names_leaves_the_callers_variables_as_they_are():
    x = torch.ones(2, requires_grad=True)
    before = locals()
    Graph.of(x * 2)
    assert before["x"] is x
    assert {"x", "before"} <= set(locals())


def test_a_long_chain_needs_no_recursion():
    t = torch.ones(2, requires_grad=True)
    for _ in range(5000):
        t = t + 1
    graph = Graph.of(t)
    assert len(graph) == 5001
    assert graph.depth == 5000


def test_a_graph_made_inside_a_transform_of_torch_func_is_read():
    seen = []

    def f(t):
        y = t.sin().sum()
        seen.append(names(Graph.of(y)))
        return y

    torch.func.grad(f)(torch.ones(2))
    assert seen[0][:2] == ["SumBackward0", "SinBackward0"]


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_graph_of_cuda_tensors_is_read():
    x = torch.ones(2, 3, device="cuda", requires_grad=True)
    graph = Graph.of((x @ x.T).sum())
    assert graph.leaves[0].label == "x"
    assert graph.saved_nbytes == x.nbytes


def test_the_shape_is_that_of_the_output_by_which_a_node_was_reached():
    whole = torch.arange(4.0, requires_grad=True)
    first, second = whole.split([1, 3])
    assert Graph.of(second).nodes[0].shape == (3,)
    assert Graph.of(second.exp()).nodes[1].shape == (3,)
    assert Graph.of(first, second).nodes[0].shape == (1,)


def test_a_function_whose_first_output_is_none_has_the_shape_of_the_one_used():
    class Second(torch.autograd.Function):
        @staticmethod
        def forward(ctx, a):
            return None, a * 2

        @staticmethod
        def backward(ctx, _, gradient):
            return gradient * 2

    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    graph = Graph.of(Second.apply(x)[1])
    node = graph.nodes[0]
    assert (node.shape, node.dtype) == ((2, 3), torch.float64)


def test_a_leaf_of_a_subclass_of_tensor_is_one_node():
    class Own(torch.Tensor):
        pass

    x = torch.ones(2).as_subclass(Own).requires_grad_()
    assert names(Graph.of(x)) == ["AccumulateGrad"]
    y = x * 2
    assert Graph.of(y).roots[0].grad_fn is y.grad_fn


# ---- against an independent reading


def start(tensor):
    return torch.autograd.graph.get_gradient_edge(tensor).node


def naive(*tensors):
    """Nodes and edges by recursion, keyed by the Nodes, in no particular order."""
    edges = {}

    def visit(node):
        if node not in edges:
            edges[node] = node.next_functions
            for child, _ in node.next_functions:
                if child is not None:
                    visit(child)

    for tensor in tensors:
        visit(start(tensor))
    return edges


@settings(deadline=None, max_examples=100)
@given(programs(set(OPERATIONS) - {"item", "reentrant", "dropout"}), st.integers(1, 3))
def test_a_random_program_has_the_nodes_and_edges_of_a_naive_reading(program, roots):
    tensors = [torch.ones(4, requires_grad=True), torch.arange(4.0, requires_grad=True) * 1]
    outputs = run(program, tensors)[-roots:]
    graph, again, expected = Graph.of(*outputs), Graph.of(*outputs), naive(*outputs)
    fns = [node.grad_fn for node in graph.nodes]
    assert [node.grad_fn for node in again.nodes] == fns
    assert len(fns) == len(set(fns)) and set(fns) == set(expected)
    for node in graph.nodes:
        found = tuple(
            (None, 0) if edge is None else (fns[edge.target], edge.input_nr)
            for edge in graph.slots(node.index)
        )
        assert found == expected[node.grad_fn]
    assert [edge.source for edge in graph.edges] == sorted(e.source for e in graph.edges)
    assert [root.grad_fn for root in graph.roots] == list(dict.fromkeys(map(start, outputs)))
    assert graph.heights.tolist() == [height(fn, expected) for fn in fns]
    rank = {i: position for position, i in enumerate(graph.order)}
    assert sorted(rank) == list(range(len(graph)))
    assert all(rank[edge.source] < rank[edge.target] for edge in graph.edges)


def height(node, edges):
    """The longest way down, by recursion without a memory."""
    return max((1 + height(child, edges) for child, _ in edges[node] if child), default=0)


def test_the_order_is_the_one_in_which_the_engine_runs_the_nodes():
    x, w = torch.ones(4, 4, requires_grad=True), torch.ones(4, 4, requires_grad=True)
    h = x
    for _ in range(5):
        h = torch.tanh(h @ w) + h.exp() * x
    early, late = h.exp().sum(), h.sum()
    graph = Graph.of(early, late)
    ran: list[int] = []
    for node in graph.nodes:
        node.grad_fn.register_hook(lambda *_, i=node.index: ran.append(i))
    torch.autograd.backward([early, late])
    assert graph.order.tolist() == ran


def test_leaves_that_one_node_leads_to_come_in_the_order_of_its_slots_as_in_the_engine():
    a, b = torch.ones((), requires_grad=True), torch.ones((), requires_grad=True)
    p = b * a  # whose slots lead to b first, though a is nearer to the root
    graph = Graph.of(p.sin().sin() + torch.maximum(a, p))
    ran: list[int] = []
    for node in graph.nodes:
        node.grad_fn.register_hook(lambda *_, i=node.index: ran.append(i))
    torch.autograd.backward(torch.autograd.graph.GradientEdge(graph.roots[0].grad_fn, 0))
    assert graph.order.tolist() == ran


def test_a_reentrant_checkpoint_hides_leaves_that_get_gradients_all_the_same():
    x, w = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    y = checkpoint(lambda t: t * w, x, use_reentrant=True).sum()
    assert [leaf.label for leaf in Graph.of(y).leaves] == ["x"]
    y.backward()
    assert w.grad is not None


def test_a_leaf_in_the_graph_gets_no_gradient_where_a_function_returns_none():
    x = torch.ones(2, requires_grad=True)
    y = GivesNone.apply(x).sum()
    assert [leaf.label for leaf in Graph.of(y).leaves] == ["x"]
    y.backward()
    assert x.grad is None


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_code_is_one_node_that_says_so():
    x = torch.ones(4, requires_grad=True)
    compiled = torch.compile(lambda t: (t * t).sin(), backend="aot_eager")
    nodes = Graph.of(compiled(x).sum()).nodes
    assert [node.name for node in nodes] == [
        "SumBackward0",
        "CompiledFunctionBackward",
        "AccumulateGrad",
    ]


def test_wrapped_tensors_of_torch_func_are_read_or_refused_clearly():
    x = torch.ones(3, requires_grad=True)
    refused = []

    def f(t):
        with pytest.raises(ValueError, match="output 0 has no graph of its own.*torch.vmap; read"):
            Graph.of(t * 2)
        refused.append(t)
        return t * 2

    assert names(Graph.of(torch.vmap(f)(x))) == ["MulBackward0", "AccumulateGrad"]
    torch.func.jvp(f, (x,), (x,))
    assert len(refused) == 2


def test_threads_read_the_same_graph_at_once():
    x = torch.ones(2, requires_grad=True)
    y = x
    for _ in range(2000):
        y = y * x
    expected = Graph.of(y).edges
    found = []
    threads = [threading.Thread(target=lambda: found.append(Graph.of(y).edges)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [expected] * 4


@pytest.mark.parametrize("on", [True, False])
def test_the_garbage_collector_is_left_as_it_was(on):
    def with_an_error_in_it():
        class Broken:
            next_functions = property(lambda self: 1 / 0)
            metadata = {}

        Graph.of(Broken())

    was = gc.isenabled()
    (gc.enable if on else gc.disable)()
    try:
        _ = Graph.of(torch.ones(2, requires_grad=True) * 2).nodes
        assert gc.isenabled() is on
        with pytest.raises(ZeroDivisionError):
            with_an_error_in_it()
        assert gc.isenabled() is on
    finally:
        (gc.enable if was else gc.disable)()


# ---- names


def test_a_leaf_takes_the_name_of_the_callers_variable():
    weight = torch.ones(2, requires_grad=True)
    assert Graph.of(weight * 2).leaves[0].label == "weight"


def test_of_several_variables_the_first_counts_and_underscores_do_not():
    _hidden = torch.ones(2, requires_grad=True)
    first = second = _hidden
    assert Graph.of(second * 2).leaves[0].label == "first"
    assert first is _hidden


def test_a_node_without_a_name_is_labelled_with_its_class():
    graph = Graph.of(torch.ones(2, requires_grad=True) * 2)
    assert [node.label for node in graph.nodes] == ["MulBackward0", "AccumulateGrad"]


def test_given_names_count_alone_and_may_name_results_too():
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    graph = Graph.of(y, names={"layer.weight": x, "alias": x, "scaled": y})
    assert [node.label for node in graph.nodes] == ["scaled", "layer.weight, alias"]
    assert Graph.of(y, names={}).leaves[0].label == "AccumulateGrad"


def test_the_parameters_of_a_model_name_its_leaves():
    model = torch.nn.Linear(2, 1)
    graph = Graph.of(model(torch.ones(2)).sum(), names=dict(model.named_parameters()))
    assert {leaf.label for leaf in graph.leaves} == {"weight", "bias"}


def test_looking_for_names_runs_no_code_of_the_caller():
    class Spy:
        @property
        def __class__(self):
            raise AssertionError("looked at by isinstance")

    spy = Spy()
    x = torch.ones(2, requires_grad=True)
    assert Graph.of(x * 2).leaves[0].label == "x"
    assert type(spy) is Spy


def test_a_stranger_among_the_variables_is_no_hindrance(monkeypatch):
    class Unhashable(torch.Tensor):
        __hash__ = None

    stranger = torch.ones(2).as_subclass(Unhashable)
    monkeypatch.setitem(globals(), 1, torch.ones(2))
    x = torch.ones(2, requires_grad=True)
    assert Graph.of(x * 2).leaves[0].label == "x"
    assert stranger.shape == (2,)
    with pytest.raises(TypeError, match="the key 's' with a value of type Unhashable"):
        Graph.of(x, names={"s": stranger})


def test_one_leaf_is_told_as_one():
    x, w = torch.ones(2, requires_grad=True), torch.ones(2, requires_grad=True)
    assert repr(Graph.of(x)) == "<Graph of AccumulateGrad: 1 node, 1 leaf>"
    assert repr(Graph.of(x * w)) == "<Graph of MulBackward0: 3 nodes, 2 leaves>"


# ---- copies


@pytest.mark.parametrize("make", [copy.copy, copy.deepcopy, pickle.dumps])
def test_a_copy_is_refused_with_the_reason(make):
    graph = Graph.of(torch.ones(2, requires_grad=True) * 2)
    with pytest.raises(TypeError, match=r"holds live Nodes.*to_networkx\(\)"):
        make(graph)


# ---- in Node.metadata


def test_a_small_graph_gets_no_entry_in_its_metadata_and_a_large_one_few():
    y = torch.ones(2, requires_grad=True)
    for _ in range(900):
        y = y * 1.0
    assert not any(node.grad_fn.metadata for node in Graph.of(y).nodes)
    for _ in range(4000):
        y = y * 1.0
    with_one = [node for node in Graph.of(y).nodes if node.grad_fn.metadata]
    assert len(with_one) == 4900 // 32 - 1000 // 32
    before = [list(node.grad_fn.metadata.items()) for node in with_one]
    assert [list(n.grad_fn.metadata.items()) for n in Graph.of(y).nodes if n.grad_fn.metadata] == (
        before
    )


# ---- what is refused


def test_no_output_is_refused_with_an_example():
    with pytest.raises(ValueError, match=r"got no output.*Graph\.of\(loss\)"):
        Graph.of()


@pytest.mark.parametrize(
    "make",
    [
        pytest.param(lambda x: x.detach(), id="detached"),
        pytest.param(lambda x: torch.ones(2) * 2, id="no input requires grad"),
        pytest.param(lambda x: x > 0, id="comparison"),
        pytest.param(lambda x: torch.special.airy_ai(x), id="no derivative"),
    ],
)
def test_a_tensor_without_a_graph_is_refused_with_a_cure(make):
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(ValueError, match=r"output 1 has no graph.*detach\(\).*requires_grad_\(\)"):
        Graph.of(x, make(x))


def test_a_tensor_made_under_no_grad_is_refused():
    x = torch.ones(2, requires_grad=True)
    with torch.no_grad():
        y = x * 2
    with pytest.raises(ValueError, match="has no graph"):
        Graph.of(y)


def test_none_is_refused_with_what_it_stands_for():
    with pytest.raises(ValueError, match="output 0 is None, which is the grad_fn of a leaf"):
        Graph.of(torch.ones(2, requires_grad=True).grad_fn)


@pytest.mark.parametrize("output", [1.0, "loss", [torch.ones(1, requires_grad=True)]])
def test_something_else_is_refused_by_its_kind(output):
    with pytest.raises(TypeError, match=f"must be a tensor or a Node.*{type(output).__name__}"):
        Graph.of(output)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (["w"], "got list"),
        ({"w": 1.0}, "the key 'w' with a value of type float"),
        ({1: torch.ones(1)}, "the key 1 with a value of type Tensor"),
    ],
)
def test_names_that_name_no_tensors_are_refused(wrong, message):
    with pytest.raises(TypeError, match=f"names must map names to tensors.*{message}"):
        Graph.of(torch.ones(1, requires_grad=True), names=wrong)


@pytest.mark.parametrize("index", [-1, 2])
def test_slots_of_a_node_that_is_not_there_are_refused(index):
    graph = Graph.of(torch.ones(1, requires_grad=True) * 2)
    with pytest.raises(IndexError, match=f"index must be from 0 to 1, got {index}"):
        graph.slots(index)


def test_a_graph_is_not_made_by_hand():
    with pytest.raises(TypeError, match=r"use Graph\.of\(loss\)"):
        Graph()


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")  # once in a process
def test_a_nested_tensor_without_a_shape_is_refused_when_its_shape_is_asked_for():
    x = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], requires_grad=True)
    graph = Graph.of(x.sin())
    assert names(graph) == ["SinBackward0", "AccumulateGrad"]
    with pytest.raises(ValueError, match=r"SinBackward0.*layout=torch\.jagged"):
        _ = graph.nodes[0].shape


def test_a_lazy_parameter_is_not_called_a_nested_tensor():
    weight = torch.nn.LazyLinear(3).weight
    (leaf,) = Graph.of(weight).leaves
    with pytest.raises(ValueError, match="AccumulateGrad has no shape before the module is called"):
        _ = leaf.shape
    assert shape_as_text(leaf) == shape_as_text(weight) == "lazy"


def test_nodes_are_told_apart_by_what_they_are_and_not_by_what_they_say():
    x = torch.ones(2, requires_grad=True)
    y = x * 2
    first, again = Graph.of(y).nodes[0], Graph.of(y).nodes[0]
    assert isinstance(first, GraphNode)
    assert first != again and first.grad_fn is again.grad_fn


def test_a_view_that_nobody_may_use_any_more_gives_no_node_its_name():
    w = torch.ones(3, requires_grad=True)
    base = w * 1.0
    with torch.no_grad():
        stale = base[:2]
    base.mul_(2.0)
    named = {"stale": stale, "base": base}
    graph = Graph.of(base.sum(), names=named)
    assert [node.label for node in graph.nodes[:2]] == ["SumBackward0", "base"]
    assert "stale" not in draw(base.sum(), names=named, values=True).dot
    assert "stale" not in str(write_backward(base.sum(), names=named))
