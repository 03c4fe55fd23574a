"""What will happen in ``output.backward()``, told from the graph alone, before it is called.

Nothing runs: a loop over the Nodes looks at what they are, where they lead and what they saved.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, overload

import torch

from companion.diagnosis.custom_functions import peek_at
from companion.diagnosis.risks import is_plain, risks, tensors_in
from companion.findings import Finding, Severity, finding
from companion.forward.watching import Cut, Watch
from companion.graph.nodes import GraphNode, shape_or_none
from companion.graph.reading import Graph, edge_of
from companion.graph.saved import Peek
from companion.internals import Node, hooks_on, is_wrapped, unseen
from companion.naming import callers_names, is_tensor, one_line

Tensor = torch.Tensor
_ORDER = {"error": 0, "warning": 1, "info": 2}


class Diagnosis(Sequence[Finding]):
    """What ``diagnose`` found: a sequence of findings, errors first. Its ``str`` reads as advice.

    Attributes:
        ok: True if ``output.backward()`` would run without an error and leave a gradient in every
            input.
    """

    def __init__(self, findings: Sequence[Finding], subject: str) -> None:
        self._findings = tuple(sorted(findings, key=lambda one: _ORDER[one.severity]))
        self._subject = subject

    @property
    def ok(self) -> bool:
        return all(one.severity != "error" for one in self)

    @overload
    def __getitem__(self, index: int) -> Finding: ...

    @overload
    def __getitem__(self, index: slice) -> tuple[Finding, ...]: ...

    def __getitem__(self, index: int | slice) -> Finding | tuple[Finding, ...]:
        return self._findings[index]

    def __len__(self) -> int:
        return len(self._findings)

    def __repr__(self) -> str:
        return f"<Diagnosis: {', '.join(one.code for one in self) or 'nothing found'}>"

    def __str__(self) -> str:
        if self.ok:
            verdict = f"backward() will run: {self._subject}."
        else:
            verdict = f"backward() will not do what you want: {self._subject}."
        return "\n\n".join([verdict, *map(str, self)])


def diagnose(output: Any, *inputs: Tensor, watch: Watch | None = None) -> Diagnosis:
    """Tell what ``output.backward()`` would do, and why a gradient would be missing or wrong.

    Nothing is executed, no gradient is computed, no ``.grad`` is touched. Saved tensors are looked
    at, but not where that would run hooks (``saved_tensors_hooks``, a non-reentrant checkpoint).

    ``.ok`` is True exactly when ``output.backward()`` would run without an error and leave a
    gradient, not None, in every input; a ``.grad`` that is left over from before does not count.
    Warnings and infos do not change it. What nobody can tell from a graph:

    - what the ``backward`` of a custom Function does: whether it raises, gives None, or gives
      gradients of a wrong number or shape. One that was freed is taken to fail where its code,
      or that of a function of its module that it names, names ``saved_tensors``;
    - what was saved inside a ``CopySlices``, the Node of a change to a part of a tensor, and
      whether an earlier backward pass freed it;
    - whether a tensor that was saved through hooks can be had again;
    - what a backward pass inside the backward of a custom Function reaches. That of
      ``torch.utils.checkpoint`` with ``use_reentrant=True`` gives gradients to parameters that no
      path of the graph leads to: with one in the graph they are a warning;
    - what your hooks do: raise, or change the gradient;
    - what becomes of a leaf that was given other values of another shape through ``.data``;
    - errors that depend on the values of gradients, such as those of singular value
      decompositions, on how they lie in memory, or on devices.

    Args:
        output: the tensor to call backward on, of any shape and dtype. A number or an array is a
            finding, not an error.
        *inputs: the tensors that should get a gradient, such as ``*model.parameters()``.
        watch: what ``with watch() as watched:`` saw of the forward pass. With it findings have the
            line of your program, and cuts that leave the rest of the graph whole are found.

    Returns:
        The findings, errors first, then warnings, then infos.

    Raises:
        TypeError: an input is not a tensor, or ``watch`` is not a ``Watch``.

    Examples:
        >>> x = torch.tensor([1.0, 2.0], requires_grad=True)
        >>> w = torch.ones(2, requires_grad=True)
        >>> diagnose((x * x).sum(), x).ok
        True
        >>> diagnosis = diagnose((x * x).sum(), x, w)
        >>> diagnosis.ok, diagnosis[0].code, diagnosis[0].message
        (False, 'unused-input', 'w is not in the graph of the output: its .grad stays None')
        >>> diagnose(x * x, x)[0].code
        'non-scalar'
    """
    for place, one in enumerate(inputs):
        if not isinstance(one, Tensor):
            raise TypeError(
                f"input {place} must be a tensor, got {type(one).__name__}; unpack lists and "
                "generators with a star: diagnose(loss, *model.parameters())"
            )
    if watch is not None and not isinstance(watch, Watch):
        raise TypeError(
            f"watch must be what `with watch() as watched:` gave, got {type(watch).__name__}"
        )
    names = callers_names()
    with unseen(), torch.no_grad():
        seen = _look(output, inputs, names, watch)
        findings = [one for about in _QUESTIONS for one in about(seen)]
        return Diagnosis(findings, seen.subject)


@dataclass(frozen=True, slots=True, eq=False)
class _Seen:
    """What there is to be asked about."""

    output: Any
    inputs: list[tuple[str, Tensor]]  # with what the findings call them
    graph: Graph | None  # None: the output has none
    peeks: list[Peek]  # by Node
    index: dict[Node, int]
    reached: set[tuple[int, int]]  # by Node and number of its output: gradients come here
    watch: Watch | None

    @property
    def subject(self) -> str:
        if self.graph is None:
            return "the output has no graph"
        nodes, leaves = len(self.graph), len(self.graph.leaves)
        s, ves = "s" * (nodes != 1), "f" if leaves == 1 else "ves"
        return f"the graph has {nodes} node{s}, {leaves} lea{ves} among them"

    def node(self, index: int) -> dict[str, Any]:
        """Where a finding about a Node is."""
        assert self.graph is not None
        node = self.graph.nodes[index]
        named = "" if node.label == node.name else f" ({one_line(node.label, 40)})"
        source = self.watch.source_of(node.grad_fn) if self.watch else None
        told = f"node {index}, {node.name}{named}" + (f", at {source}" if source else "")
        return {"where": told, "node": index, "source": source}


def _look(
    output: Any, inputs: Sequence[Tensor], names: Mapping[str, Tensor], watch: Watch | None
) -> _Seen:
    called = {tensor: name for name, tensor in names.items()}
    given = list[tuple[str, Tensor]]()
    for place, tensor in enumerate(inputs):
        name = called.get(tensor) if is_tensor(tensor) else None
        shape = _shape(tensor)
        unnamed = f"input {place}" if shape is None else f"input {place}, of shape {shape},"
        given.append((name or unnamed, tensor))
    if not isinstance(output, Tensor) or not output.requires_grad or _trouble(output):
        return _Seen(output, given, None, [], {}, set(), watch)
    graph = Graph.of(output, names=names)
    peeks = [peek_at(node) for node in graph.nodes]
    index = {node.grad_fn: node.index for node in graph.nodes}
    reached = {(0, edge_of(output)[1]), *((e.target, e.input_nr) for e in graph.edges)}
    return _Seen(output, given, graph, peeks, index, reached, watch)


def _shape(tensor: Tensor) -> tuple[int, ...] | None:
    try:
        return tuple(tensor.shape)
    except RuntimeError:  # a nested tensor; a parameter of a lazy module that has not run
        return None


# ---- the output


def _about_the_output(seen: _Seen) -> Iterator[Finding]:
    output = seen.output
    if not isinstance(output, Tensor):
        message = f"the output is a {type(output).__name__}, not a tensor"
        yield finding("not-a-tensor", message)
        return
    if output.requires_grad and (trouble := _trouble(output)):
        yield finding(_code_of(trouble, "no-graph"), f"backward() will raise: {trouble}")
    elif seen.graph is None:
        message = f"the output does not require grad: {_why_no_graph(seen)}"
        cuts = seen.watch.first_reaching(output) if seen.watch else ()
        source = cuts[0].source if cuts else None
        yield finding("no-graph", message, where=str(source or ""), source=source)
    elif _is_a_leaf_apart(seen):
        message = "the output is itself a leaf: no other tensor can get a gradient from it"
        # Without inputs to fill, this backward does what it says.
        yield finding("leaf-output", message, severity="error" if seen.inputs else "warning")
    if output.numel() != 1 and output.requires_grad:
        what = "is nested" if (shape := _shape(output)) is None else f"has shape {shape}"
        yield finding("non-scalar", f"the output {what}, and backward() needs one element")
    elif output.layout is not torch.strided and output.requires_grad:
        message = f"the output is {output.layout}, and backward() needs a dense tensor"
        yield finding("non-scalar", message)
    elif output.is_complex() and output.requires_grad:
        message = f"the output is complex ({output.dtype}), and backward() needs a real number"
        yield finding("complex-output", message)
    if is_plain(output) and not output.isfinite().all():
        yield finding("non-finite", "the output itself is infinite or NaN")


def _is_a_leaf_apart(seen: _Seen) -> bool:
    """Whether the output is a leaf, and none of the inputs."""
    return seen.output.is_leaf and all(tensor is not seen.output for _, tensor in seen.inputs)


def _trouble(tensor: Tensor) -> str:
    """Why a tensor that requires grad has no place in a graph; "" if it has one."""
    try:
        edge_of(tensor)
    except RuntimeError as error:  # a view whose base was changed in place
        return str(error).partition(". ")[0]
    except ValueError as error:
        return str(error)
    return ""


def _code_of(trouble: str, otherwise: str) -> str:
    return "multi-view-in-place" if "modified inplace" in trouble else otherwise


def _why_no_graph(seen: _Seen) -> str:
    output = seen.output
    if is_wrapped(output):
        return "it is inside a transform such as torch.vmap; diagnose the result, outside of it"
    if output.is_inference():
        return "it was made under torch.inference_mode()"
    if not (output.is_floating_point() or output.is_complex()):
        return f"it is {output.dtype}, and whole numbers have no derivative"
    if seen.inputs and not any(tensor.requires_grad for _, tensor in seen.inputs):
        return "none of the inputs requires grad"
    if seen.watch and (cuts := seen.watch.first_reaching(output)):
        return cuts[0].message
    return "its history was cut, or no tensor in it required grad"


# ---- the inputs


def _about_the_inputs(seen: _Seen) -> Iterator[Finding]:
    keepers = defaultdict[Tensor, list[int]](list)  # what was saved, and by which Nodes
    for index, one in enumerate(seen.peeks):
        for _, value in tensors_in(one):
            if is_tensor(value):
                keepers[value].append(index)
    strangers, leaves = list[GraphNode](), dict[Tensor, int]()  # strangers are no inputs
    given = {tensor for _, tensor in seen.inputs if is_tensor(tensor)}
    for leaf in seen.graph.leaves if seen.graph is not None else ():
        variable = leaf.grad_fn.variable
        if is_tensor(variable):
            leaves[variable] = leaf.index
        if not is_tensor(variable) or variable not in given:
            strangers.append(leaf)
    told = seen.graph is not None and _is_a_leaf_apart(seen)
    for name, tensor in seen.inputs:
        kept = keepers.get(tensor, []) if is_tensor(tensor) else []
        kept_by = kept[0] if kept else None
        if not tensor.requires_grad:
            yield _without_grad(seen, name, tensor, kept_by)
            continue
        place, nr = leaves.get(tensor) if is_tensor(tensor) else None, 0
        if place is None:  # a leaf may have another Node now, such as since its dtype was changed
            if trouble := _trouble(tensor):
                code = _code_of(trouble, "input-without-grad")
                yield finding(code, f"{name} cannot get a gradient: {trouble}")
                continue
            fn, nr = edge_of(tensor)[:2]
            place = seen.index.get(fn)
        if seen.graph is not None and (place, nr) not in seen.reached:
            if not told:
                yield _unreached(seen, name, tensor, kept_by, strangers)
        elif tensor.is_leaf and (apart := [i for i in kept if not _leads_to(seen, i, place)]):
            message = f"{name} counts as a constant in one place, where it required no grad yet"
            yield finding("late-requires-grad", message, severity="warning", **seen.node(apart[0]))
        elif not tensor.is_leaf and not tensor.retains_grad:
            message = f"{name} is not a leaf: its .grad stays None"
            yield finding("not-a-leaf", message, **({} if place is None else seen.node(place)))
        if (tensor.is_leaf or tensor.retains_grad) and tensor.grad is not None:
            message = f"{name} has a .grad already: backward() adds to it"
            yield finding("accumulates", message)
            if tensor.grad.requires_grad:
                message = f"the .grad of {name} has a graph, which keeps all that is in it alive"
                yield finding("reference-cycle", message)
        if tensor.is_complex():
            message = f"{name} is complex: its gradient is that of steepest ascent"
            yield finding("complex-conjugate", message)
        if hooks := hooks_on(tensor):
            s = "s" * (hooks != 1)
            yield finding("hook", f"{name} has {hooks} hook{s} that may change its gradient")


def _leads_to(seen: _Seen, index: int, place: int | None) -> bool:
    slots = seen.graph.slots(index) if seen.graph is not None else ()
    return any(edge and edge.target == place for edge in slots)


def _without_grad(seen: _Seen, name: str, tensor: Tensor, kept_by: int | None) -> Finding:
    at = {} if kept_by is None else seen.node(kept_by)
    as_constant = "" if kept_by is None else ", and the graph has it as a constant"
    if tensor.is_inference():
        message = f"{name} was made under torch.inference_mode() and cannot get a gradient"
        return finding("inference-tensor", message, **at)
    if not (tensor.is_floating_point() or tensor.is_complex()):
        message = f"{name} is {tensor.dtype} and cannot get a gradient"
        return finding("integer-tensor", message, **at)
    message = f"{name} does not require grad{as_constant}: its .grad stays None"
    return finding("input-without-grad", message, **at)


def _unreached(
    seen: _Seen, name: str, tensor: Tensor, kept_by: int | None, strangers: list[GraphNode]
) -> Finding:
    if kept_by is not None and tensor.is_leaf:
        message = f"{name} required no grad yet when it was used: its .grad stays None"
        return finding("late-requires-grad", message, **seen.node(kept_by))
    if tensor.is_leaf and seen.graph is not None:
        for node in seen.graph.nodes:
            if node.name == "CheckpointFunctionBackward":
                message = (
                    f"{name} is not in the graph of the output; the checkpoint runs a backward "
                    "pass of its own (use_reentrant=True), which may give it a gradient"
                )
                at = seen.node(node.index)
                return finding("unused-input", message, severity="warning", **at)
        for leaf in strangers:
            label = "" if leaf.label == leaf.name else f", {one_line(leaf.label, 40)}"
            if label and name.isidentifier():  # two tensors with a variable each
                continue
            if shape_or_none(leaf) == _shape(tensor):
                message = (
                    f"{name} is not in the graph of the output, but another leaf of its shape "
                    f"is{label}: its .grad stays None"
                )
                return finding("reassigned", message, **seen.node(leaf.index))
    message = f"{name} is not in the graph of the output: its .grad stays None"
    return finding("unused-input", message)


# ---- the Nodes


def _about_the_nodes(seen: _Seen) -> Iterator[Finding]:
    freed = list[int]()
    for index, node, one in _nodes(seen):
        if node.name == "Error":
            message = "the pass will raise at the end of a backward that was not recorded"
            yield finding("once-differentiable", message, **seen.node(index))
        if node.name == "NotImplemented" or _lacks_a_formula(seen, node):
            message = "backward() will raise at a Node without a formula"
            yield finding("not-implemented", message, **seen.node(index))
        if node.is_leaf and node.grad_fn.variable.grad_fn is not None:
            what = "a leaf" if node.label == node.name else f"the leaf {one_line(node.label, 40)}"
            message = f"backward() will raise: {what} was overwritten by a result"
            yield finding("leaf-in-place", message, **seen.node(index))
        if not _differentiable(node):
            message = f"backward() will raise: the values of {node.name} are {node.dtype}"
            yield finding("integer-tensor", message, **seen.node(index))
        if "freed" in one.broken.values():
            freed.append(index)
        elif "a stale view" in one.broken.values():
            message = f"backward() will raise: {node.name} saved a view whose base was changed"
            yield finding("multi-view-in-place", message, **seen.node(index))
        elif one.broken:
            what = " and ".join(one.broken)
            message = f"backward() will raise: {node.name} saved {what}, which was changed since"
            written = [seen.watch.written_at(one) for one in one.changed] if seen.watch else []
            at = seen.node(index)
            if source := next(filter(None, written), None):  # better than where it was saved
                at |= {"where": f"{at['where']}; changed at {source}", "source": source}
            yield finding("modified-in-place", message, **at)
    if freed:
        those = (
            "a Node has freed what it"
            if len(freed) == 1
            else f"{len(freed)} Nodes have freed what they"
        )
        message = f"{those} saved: an earlier backward pass ran here"
        yield finding("freed", message, **seen.node(freed[0]))


def _nodes(seen: _Seen) -> Iterator[tuple[int, GraphNode, Peek]]:
    if seen.graph is not None:
        for node, one in zip(seen.graph.nodes, seen.peeks, strict=True):
            yield node.index, node, one


def _differentiable(node: GraphNode) -> bool:
    """Whether its values can have a gradient. Torch lets floats with a graph into whole numbers."""
    return node.dtype.is_floating_point or node.dtype.is_complex


def _lacks_a_formula(seen: _Seen, node: GraphNode) -> bool:
    """Whether a gradient is wanted that PyTorch's table of derivatives calls not implemented."""
    if node.name not in NOT_IMPLEMENTED or seen.graph is None:
        return False
    slots = seen.graph.slots(node.index)
    return any(slots[slot] for slot in NOT_IMPLEMENTED[node.name] if slot < len(slots))


def _about_the_values(seen: _Seen) -> Iterator[Finding]:
    for index, node, one in _nodes(seen):
        slots = seen.graph.slots(index) if seen.graph is not None else ()
        outputs = {nr for nr in range(3) if (index, nr) in seen.reached}
        for code, message in risks(node.name, one, slots, outputs):
            yield finding(code, message, **seen.node(index))


def _about_precision(seen: _Seen) -> Iterator[Finding]:
    for index, node, _ in _nodes(seen):
        if node.dtype in (torch.float16, torch.bfloat16):
            message = f"gradients pass here as {node.dtype}"
            yield finding("half-precision", message, **seen.node(index))
            break  # one tells of all


def _about_custom_functions(seen: _Seen) -> Iterator[Finding]:
    told = set[str]()
    for index, node, _ in _nodes(seen):
        if node.is_custom and node.name not in told:
            told.add(node.name)
            message = f"{node.name} is a custom Function, whose backward cannot be checked unrun"
            yield finding("custom-gradients", message, severity="info", **seen.node(index))


def _about_zeros(seen: _Seen) -> Iterator[Finding]:
    """Inputs that only paths through Nodes lead to that always send zero."""
    graph = seen.graph
    if graph is None:
        return
    zeros = {n.index for n in graph.nodes if re.sub(r"(?<=Backward)\d+$", "", n.name) in _ZERO}
    zeros |= {n.index for n in graph.nodes if n.name in ("FillBackward0", "FillBackward2")}
    zeros |= {i for i, _, one in _nodes(seen) if one.values.get("rounding_mode")}  # of torch.div
    if not zeros:
        return
    alive = {0}
    for i in graph.order:  # every Node after all that lead to it
        if i in alive and i not in zeros:
            alive |= {edge.target for edge in graph.slots(i) if edge}
    for name, tensor in seen.inputs:
        known = tensor.requires_grad and not _trouble(tensor)
        place = seen.index.get(edge_of(tensor)[0]) if known else None
        if place is not None and place not in alive:
            message = f"every path to {name} passes a Node that sends zero: so is its gradient"
            yield finding("zero-derivative", message, **seen.node(min(zeros)))
    if not seen.inputs:
        at = seen.node(min(zeros))
        yield finding("zero-derivative", f"{graph.nodes[min(zeros)].name} always sends zero", **at)


# ---- what a watch saw


def _about_the_cuts(seen: _Seen) -> Iterator[Finding]:
    if seen.watch is None:
        return
    reaching = seen.watch.reaching(seen.output) if isinstance(seen.output, Tensor) else ()
    if not reaching and seen.graph is not None:  # the output was computed after the block
        nodes = (node.grad_fn for node in seen.graph.nodes)
        found = {cut.index: cut for fn in nodes for _, cut in seen.watch.cut_off(fn)}
        reaching = tuple(found[index] for index in sorted(found))
    # What became of a number in Python, or of an array in NumPy, nobody followed.
    known = {cut.index for cut in reaching}
    lost = [cut for cut in seen.watch.cuts if not cut.follows and cut.index not in known]
    unknown = "; whether it came back into the output is not known"
    groups: tuple[tuple[Sequence[Cut], str, Severity | None], ...]
    groups = (reaching, "", None), (lost, unknown, "info")
    for cuts, end, severity in groups:
        places = Counter((cut.code, cut.message, cut.source) for cut in cuts)
        for (code, message, source), times in places.items():
            told = message + (f" ({times} times)" if times > 1 else "") + end
            where = str(source or "")
            yield finding(code, told, severity=severity, where=where, source=source)
    for mutation in seen.watch.mutations:
        where = str(mutation.source or "")
        yield finding("changed-behind", mutation.message, where=where, source=mutation.source)


_QUESTIONS: tuple[Callable[[_Seen], Iterator[Finding]], ...] = (
    _about_the_output,
    _about_the_inputs,
    _about_the_nodes,
    _about_the_cuts,
    _about_zeros,
    _about_the_values,
    _about_precision,
    _about_custom_functions,
)


# Of first derivatives, and of second ones without lists of tensors: the slots whose formula is
# not_implemented in PyTorch's derivatives.yaml.
NOT_IMPLEMENTED = {
    "AcoshBackward1": (0,),
    "AsinhBackward1": (0,),
    "AtanhBackward1": (0,),
    "BatchNormBackwardBackward0": (3, 4, 5),
    "CudnnBatchNormBackwardBackward0": (3, 4, 5),
    "EmbeddingBagBackwardBackward0": (0, 1),
    "EmbeddingBagDenseBackwardBackward0": (0, 1),
    "EmbeddingRenormBackward0": (0,),
    "GeqrfBackward0": (0,),
    "IgammaBackward0": (0,),
    "IgammacBackward0": (0,),
    "MiopenBatchNormBackwardBackward0": (3, 4),
    "NativeBatchNormBackwardBackward0": (3, 4),
    "NativeDropoutBackwardBackward0": (1,),
    "NativeLayerNormBackwardBackward0": (2, 3),
    "SpecialZetaBackward0": (0,),
    "SpecialZetaBackward2": (0,),
    "StandardGammaGradBackward0": (0,),
    "Unique2Backward0": (0,),
    "UniqueBackward0": (0,),
    "UniqueConsecutiveBackward0": (0,),
    "UniqueDimBackward0": (0,),
    "UniqueDimConsecutiveBackward0": (0,),
}
_TORCH = tuple(int(part) for part in torch.__version__.split(".")[:2])
if _TORCH < (2, 14):
    NOT_IMPLEMENTED |= {"CdistBackwardBackward0": (0, 1, 2, 3), "PdistBackwardBackward0": (0, 1, 2)}
if _TORCH < (2, 13):
    NOT_IMPLEMENTED |= {"NextafterBackward0": (0, 1)}
# Those whose formula is zeros, in the same file.
_ZERO = {
    f"{name}Backward"
    for name in (
        "Bernoulli Cauchy Ceil Eq Exponential Floor Ge Geometric Gt Le LogNormal Lt Ne Normal "
        "Poisson Random Round Sgn Sign Trunc Uniform Zero"
    ).split()
}
