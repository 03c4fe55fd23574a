"""What ``diagnose`` is given, tensors and modules, and what its findings call each tensor."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import nn

from companion.naming import callers_modules, callers_names, check_names, is_tensor

Tensor = torch.Tensor


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


def names_of(
    inputs: Sequence[Tensor | nn.Module], names: Mapping[str, Tensor] | None
) -> dict[str, Tensor]:
    """What tensors are called, one name for each that has any.

    The parameters of a module go by their paths, as in ``named_parameters``, with the name of the
    module before them where several modules have some.

    Args:
        inputs: what was given.
        names: names for tensors; without it the caller's variables, and the modules that are
            variables of the caller have names for the tensors given that have none.
    """
    if names is not None:
        check_names(names)
    modules = {i: given for i, given in enumerate(inputs) if isinstance(given, nn.Module)}
    parameters = {p for p in tensors_of(list(modules.values())) if is_tensor(p)}
    called = dict[Tensor, str]()
    for name, tensor in (callers_names() if names is None else names).items():
        if names is not None or tensor not in parameters:
            called.setdefault(tensor, name)
    _name_parameters(called, _by_name(modules), parameters)
    if names is None:
        theirs = callers_modules()
        given = {tensor for tensor in inputs if is_tensor(tensor)}
        _name_parameters(called, theirs, given)  # type: ignore[arg-type]
        # The others in the graph, such as those that stand in the place of the inputs.
        others = {p for p in tensors_of(list(theirs.values())) if is_tensor(p)}
        _name_parameters(called, theirs, others)
    return {name: tensor for tensor, name in called.items()}


def _by_name(modules: Mapping[int, nn.Module]) -> dict[str, nn.Module]:
    """The modules given, by their variable or their path in one of the caller's modules."""
    variables = callers_modules() if modules else {}
    names = {module: variable for variable, module in variables.items()}
    for variable, module in variables.items():
        for path, part in module.named_modules():
            names.setdefault(part, f"{variable}.{path}")
    return {names.get(module, f"inputs[{i}]"): module for i, module in modules.items()}


def _name_parameters(
    called: dict[Tensor, str], modules: Mapping[str, nn.Module], wanted: set[Tensor]
) -> None:
    """Call those of some tensors that have no name by their paths in these modules."""
    found = dict[Tensor, tuple[str, str]]()
    for variable, module in modules.items():
        for path, parameter in module.named_parameters():
            if is_tensor(parameter) and parameter in wanted:
                found.setdefault(parameter, (variable, path))
    alone, taken = len({variable for variable, _ in found.values()}) == 1, set(called.values())
    for tensor, (variable, path) in found.items():
        name = path if alone and path not in taken else f"{variable}.{path}"
        called.setdefault(tensor, name)
