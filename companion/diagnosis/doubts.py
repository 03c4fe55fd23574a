"""Where a graph does not tell whether its backward pass gives what was asked for.

None of this makes ``Diagnosis.ok`` False: that is for what is known. A test calls backward on each.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch

from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.paths import EdgeKey, first_on_the_way, reached_without, shortly_listed
from companion.diagnosis.risks import DIVIDING
from companion.findings import Finding, finding
from companion.graph.nodes import GraphNode
from companion.graph.saved import Peek
from companion.internals import is_of_torch, is_wrapped


class Doubt(NamedTuple):
    """What is in doubt of a Node, in words, and the variant of the finding."""

    reason: str
    variant: str = ""


def about_doubts(case: Case) -> Iterator[Finding]:
    """What of the graph is not known before it ran."""
    if case.graph is None:
        return
    if is_wrapped(case.output):
        message = "the output is inside a transform such as torch.func.grad; backward() raises here"
        yield finding("cannot-know", message, variant="transform")
    yield from _about_undefined(case)
    known = set[Doubt]()
    for node, saved in case.of({"LinalgQr", _CPP, *_OF_TORCHS_FUNCTIONS}):
        doubt = _doubt_of(node, saved)
        if doubt and doubt not in known:
            known.add(doubt)
            message = f"{node.name} {doubt.reason}"
            yield finding("cannot-know", message, variant=doubt.variant, **case.at(node.index))
    if first := next(
        (node for node, saved in case.of(DIVIDING) if _is_hidden(case, node, saved)), None
    ):
        message = f"{first.name} saved through hooks what its formula divides by: whether that is 0"
        message += " is not known"
        yield finding("cannot-know", message, variant="hooks", **case.at(first.index))
    if first := next(iter(_sparse_and_untried(case)), None):
        message = f"{first.name} takes or gives a sparse tensor, and its backward may not"
        yield finding("cannot-know", message, variant="sparse", **case.at(first.index))


def _doubt_of(node: GraphNode, saved: Peek) -> Doubt | None:
    """What is in doubt of one Node, whatever lies below it."""
    if node.name == "LinalgQrBackward0":
        mode, r = saved.values.get("mode"), saved.values.get("R")
        is_tall = isinstance(r, torch.Tensor) and r.shape[-2] > r.shape[-1]
        if mode == "r" or (mode == "complete" and is_tall):
            return Doubt(f"cannot be differentiated with mode='{mode}': it will raise", "option")
    if node.name == _CPP and node.grad_fn.name() != _FALLBACK:
        return Doubt(f"({node.grad_fn.name()}) is written in C++, and cannot be checked unrun")
    if node.is_custom and is_of_torch(node.grad_fn):
        return _OF_TORCHS_FUNCTIONS.get(node.name)
    return None


def _is_hidden(case: Case, node: GraphNode, saved: Peek) -> bool:
    """Whether hooks hide what a formula divides by; of ``x / 2`` that is a number."""
    is_by_number = operation_of(node.name) == "Div" and not any(case.slots(node.index)[1:])
    return saved.hooked and not is_by_number


# ---- gradients that are not there


def _about_undefined(case: Case) -> Iterator[Finding]:
    """Whether every path to an input passes an edge along which no gradient goes, not even 0."""
    if case.graph is None or not (edges := _undefined(case)):
        return
    alive = reached_without(case.graph, edges)
    names_by_node, first = defaultdict[int, list[str]](list), first_on_the_way(case.graph, edges)
    for given in case.inputs:
        if case.is_reached(given) and given.node is not None and given.node not in alive:
            names_by_node[first[given.node][0]].append(given.name)
    if not case.inputs and not alive & {leaf.index for leaf in case.graph.leaves}:
        names_by_node[min(edges)[0]] = []
    for index, names in names_by_node.items():
        name, doubt = case.nodes[index].name, edges[index, 0]
        end = f": the .grad of {shortly_listed(names)} may stay as it is" if names else ""
        message = f"{name} gives no gradient ({doubt.reason}){end}"
        yield finding("cannot-know", message, variant=doubt.variant, **case.at(index))


def _undefined(case: Case) -> dict[EdgeKey, Doubt]:
    """The edges along which a Node sends nothing."""
    edges = dict[EdgeKey, Doubt]()
    for node, saved in case.of({_CPP, *_UNDEFINED}):
        rule = _UNDEFINED.get(operation_of(node.name))
        outputs = {nr for nr in range(2) if (node.index, nr) in case.reached}
        if reason := rule(saved, outputs) if rule else "":
            doubt = Doubt(reason, "undefined")
        elif node.name == _CPP and node.grad_fn.name() == _FALLBACK:
            doubt = Doubt("its operator has no autograd formula", "operator")
        else:
            continue
        slots = range(len(case.slots(node.index)))
        edges.update({(node.index, slot): doubt for slot in slots})
    return edges


def _norm(argument: str) -> Callable[[Peek, set[int]], str]:
    """A norm that counts what is not zero has no gradient."""
    return lambda saved, outputs: "p = 0" if saved.values.get(argument) == 0 else ""


def _sign(saved: Peek, outputs: set[int]) -> str:
    sign = saved.values.get("sign")
    is_real = isinstance(sign, torch.Tensor) and not sign.is_complex()
    return "a sign is constant" if outputs == {0} and is_real else ""


def _empty(saved: Peek, outputs: set[int]) -> str:
    return "it was given no element" if any(not t.numel() for _, t in saved.tensors) else ""


_UNDEFINED: dict[str, Callable[[Peek, set[int]], str]] = {
    "Dist": _norm("p"),
    "LinalgHouseholderProduct": _empty,
    "LinalgSlogdet": _sign,
    "LinalgVectorNorm": _norm("ord"),
    "Ormqr": _empty,
}
_CPP = "CppFunction"  # the class of each Node that is written in C++ outside of torch's table
# The name of the Node of an operator that has a kernel and no autograd formula.
_FALLBACK = "torch::autograd::WarnNotImplemented"
_OF_TORCHS_FUNCTIONS = {
    "CheckpointFunctionBackward": Doubt(
        "(a reentrant checkpoint) makes its graph while it runs", "checkpoint"
    ),
    "CompiledFunctionBackward": Doubt(
        "stands for what torch.compile compiled, which cannot be looked into", "compiled"
    ),
}


# ---- sparse tensors


def _sparse_and_untried(case: Case) -> Iterator[GraphNode]:
    """The Nodes that take or give a sparse tensor, and are none of those known to do with it."""
    if not any("Sparse" in name or name == "ToDense" for name in case.by_operation):
        return
    saved_sparse = {
        node.index
        for node, saved in case.nodes_and_peeks
        if any(tensor.layout in _SPARSE for _, tensor in saved.tensors)
    }
    gave_sparse = set[int]()
    for index in case.graph.order if case.graph else ():  # from the root on
        node, is_sparse = case.nodes[index], index in saved_sparse
        operation = operation_of(node.name)
        if not (is_sparse or index in gave_sparse) or node.is_leaf:
            continue
        if operation not in _FIT_FOR_SPARSE and not operation.startswith(("Sparse", "ToSparse")):
            yield node
        if is_sparse and operation == "ToDense" or index in gave_sparse and operation in _KEEPING:
            gave_sparse |= {edge.target for edge in case.slots(index) if edge}


_SPARSE = {layout for name, layout in vars(torch).items() if name.startswith("sparse_")}
_SPARSE = {layout for layout in _SPARSE if isinstance(layout, torch.layout)}
# The operations whose result is as sparse as what they took, and whose formulas do with that.
_KEEPING = set(
    "Abs Add Ceil Clone Div Log1P Mul Neg Pow Rad2Deg Relu Round Sign ToCopy Transpose "
    "Trunc".split()
)
_FIT_FOR_SPARSE = _KEEPING | set("Addmm Bmm Mm Mv ToDense Values".split())
