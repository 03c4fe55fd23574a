"""What ``diagnose`` is given, tensors and modules: what findings call each, and where it is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from companion.graph.nodes import GraphNode, shape_or_none
from companion.graph.reading import edge_of
from companion.graph.saved import Peek
from companion.naming import callers_modules, callers_names, check_names, is_tensor

Tensor = torch.Tensor


@dataclass(slots=True, eq=False)
class Input:
    """A tensor that should get a gradient, and its place in the graph."""

    name: str  # what findings call it
    tensor: Tensor
    saved_by: Sequence[int]  # the Nodes that saved it
    node: int | None = None  # the Node that its gradient comes to
    output_nr: int = 0  # and which output of its operation the tensor is
    trouble: str = ""  # why torch has no Node for it, although it requires grad

    @property
    def first_saved_by(self) -> int | None:
        return self.saved_by[0] if self.saved_by else None

    @property
    def is_constant(self) -> bool:
        """Whether it is a leaf that was used as a constant, at least in one place."""
        return self.tensor.is_leaf and bool(self.saved_by)

    @property
    def grad(self) -> Tensor | None:
        """Its ``.grad``. Torch warns where one asks for a ``.grad`` that always is None."""
        tensor = self.tensor
        return tensor.grad if tensor.is_leaf or tensor.retains_grad else None


def tensors_of(inputs: Sequence[Tensor | nn.Module]) -> list[Tensor]:
    """The tensors among the inputs, and the parameters of the modules; each once.

    Raises:
        TypeError: one is neither a tensor nor a module.
    """
    tensors = list[Tensor]()
    for index, given in enumerate(inputs):
        if isinstance(given, nn.Module):
            tensors += given.parameters()
        elif isinstance(given, Tensor):
            tensors.append(given)
        else:
            raise TypeError(
                f"input {index} must be a tensor or a module, got {type(given).__name__}; give the "
                "module itself, diagnose(loss, model), or unpack lists and generators with a star: "
                "diagnose(loss, *tensors)"
            )
    known = dict.fromkeys(filter(is_tensor, tensors))
    return [*known, *[tensor for tensor in tensors if not is_tensor(tensor)]]


def names_and_modules(
    inputs: Sequence[Tensor | nn.Module], names: Mapping[str, Tensor] | None
) -> tuple[dict[str, Tensor], dict[str, nn.Module]]:
    """What tensors are called, one name for each that has any; and the modules around, by name.

    The parameters of a module go by their paths, as in ``named_parameters``, with the name of the
    module before them where several modules have some. The modules around are those that the
    caller's variables refer to, and those given.

    Args:
        inputs: what was given.
        names: names for tensors; without it the caller's variables, and the modules that are
            variables of the caller have names for the tensors given that have none.
    """
    if names is not None:
        check_names(names)
    theirs = callers_modules()
    named = _by_name(
        {i: given for i, given in enumerate(inputs) if isinstance(given, nn.Module)}, theirs
    )
    parameters = _parameters_of(named)
    called = dict[Tensor, str]()
    for name, tensor in (callers_names() if names is None else names).items():
        if names is not None or tensor not in parameters:
            called.setdefault(tensor, name)
    _name_parameters(called, named, parameters)
    if names is None:
        given = {tensor for tensor in inputs if is_tensor(tensor)}
        _name_parameters(called, theirs, given)  # type: ignore[arg-type]
        # The others in the graph, such as those that stand in the place of the inputs.
        _name_parameters(called, theirs, _parameters_of(theirs))
    modules = theirs | {name: module for name, module in named.items() if name not in theirs}
    return {name: tensor for tensor, name in called.items()}, modules


def _parameters_of(modules: Mapping[str, nn.Module]) -> set[Tensor]:
    """Those that can be looked up in a dict."""
    return {p for module in modules.values() for p in module.parameters() if is_tensor(p)}


def _by_name(
    modules: Mapping[int, nn.Module], theirs: Mapping[str, nn.Module]
) -> dict[str, nn.Module]:
    """The modules given, by their variable or their path in one of the caller's modules."""
    names = {module: variable for variable, module in theirs.items()}
    if not names.keys() >= set(modules.values()):
        for variable, module in theirs.items():
            for path, part in module.named_modules():
                names.setdefault(part, f"{variable}.{path}")
    return {names.get(module, f"inputs[{i}]"): module for i, module in modules.items()}


def _name_parameters(
    called: dict[Tensor, str], modules: Mapping[str, nn.Module], wanted: set[Tensor]
) -> None:
    """Call those of some tensors that have no name by their paths in these modules."""
    if wanted <= called.keys():  # as where the module given is the caller's only one
        return
    found = dict[Tensor, tuple[str, str]]()
    for variable, module in modules.items():
        for path, parameter in module.named_parameters():
            if is_tensor(parameter) and parameter in wanted:
                found.setdefault(parameter, (variable, path))
    alone, taken = len({variable for variable, _ in found.values()}) == 1, set(called.values())
    for tensor, (variable, path) in found.items():
        name = path if alone and path not in taken else f"{variable}.{path}"
        called.setdefault(tensor, name)


# ---- where an input is in the graph


def placed(
    tensors: Sequence[Tensor],
    names: Mapping[str, Tensor],
    nodes: Sequence[GraphNode] = (),
    peeks: Sequence[Peek] = (),
) -> list[Input]:
    """The inputs by the names of the caller, each with its place in the graph of these Nodes."""
    called: dict[Any, str] = {tensor: name for name, tensor in names.items()}
    index = {node.grad_fn: node.index for node in nodes}
    leaf_index, saved_by = _leaf_index(nodes), _saved_by(nodes, peeks)
    inputs = []
    for number, tensor in enumerate(tensors):
        key = tensor if is_tensor(tensor) else None  # None is in none of the dicts
        shape = shape_or_none(tensor)
        unnamed = f"input {number}" if shape is None else f"input {number}, of shape {shape},"
        given = Input(called.get(key, unnamed), tensor, saved_by.get(key, ()))
        inputs.append(given)
        if not tensor.requires_grad:
            continue
        # A leaf may have another Node now than in the graph, such as since its dtype was changed.
        if key in leaf_index:
            given.node = leaf_index[key]
        elif trouble := trouble_of(tensor):
            given.trouble = trouble
        else:
            fn, given.output_nr = edge_of(tensor)[:2]
            given.node = index.get(fn)
    return inputs


def _leaf_index(nodes: Sequence[GraphNode]) -> dict[Any, int]:
    """By leaf tensor the Node that accumulates into its ``.grad``."""
    leaves = [(node.grad_fn.variable, node.index) for node in nodes if node.is_leaf]
    return {tensor: index for tensor, index in leaves if is_tensor(tensor)}


def _saved_by(nodes: Sequence[GraphNode], peeks: Sequence[Peek]) -> dict[Any, list[int]]:
    """By tensor the Nodes that saved it."""
    saved_by = defaultdict[Any, list[int]](list)
    for node, saved in zip(nodes, peeks, strict=True):
        for _, tensor in saved.tensors:
            if is_tensor(tensor):
                saved_by[tensor].append(node.index)
    return saved_by


def trouble_of(tensor: Tensor) -> str:
    """Why a tensor that requires grad has no place in a graph; "" if it has one."""
    try:
        edge_of(tensor)
    except RuntimeError as error:  # a view whose base was changed in place
        return str(error).partition(". ")[0]
    except ValueError as error:
        return str(error)
    return ""


def code_of_trouble(trouble: str, otherwise: str) -> str:
    """The code of the finding for what ``trouble_of`` says."""
    return "multi-view-in-place" if "modified inplace" in trouble else otherwise
