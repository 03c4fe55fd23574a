"""What the backward of a custom Function does, as far as its code tells.

A custom Function that saved tensors and was freed fails only if its backward asks for them, and
nobody can tell that from the Node. Nor can anybody tell that it runs a backward pass of its own,
which gives gradients to tensors that no path of the graph leads to.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import replace
from types import CodeType, FunctionType
from typing import Any

from companion.graph.nodes import GraphNode
from companion.graph.saved import Peek, peek
from companion.internals import Node, forward_class_of, is_of_compile

_ATTRIBUTES = {"saved_tensors", "saved_variables"}  # the second is the old name of the first


def peek_at(node: GraphNode) -> Peek:
    """What a Node saved; nothing is broken for a custom Function that does not ask for it."""
    found = peek(node.grad_fn)
    if found.broken and node.is_custom and not reads_saved_tensors(node.grad_fn):
        return replace(found, broken={})
    return found


def attributes_of(node: GraphNode) -> Peek:
    """What a custom Function keeps beside what it saved: the attributes of its ``ctx``."""
    return Peek({f"ctx.{name}": value for name, value in vars(node.grad_fn).items()}, {}, [], False)


def reads_saved_tensors(node: Node) -> bool:
    """Whether the backward of a custom Function names ``saved_tensors`` somewhere.

    It may do so itself, in a function inside of it, or in a function of its module that it names.
    That of ``torch.compile`` does so in another module.
    """
    return is_of_compile(node) or _names_one_of(_ATTRIBUTES, node)


def runs_backward(node: Node) -> bool:
    """Whether the backward of a custom Function names ``backward`` somewhere, in the same places.

    That of ``torch.utils.checkpoint`` with ``use_reentrant=True`` does.
    """
    return _names_one_of({"backward"}, node)


def _names_one_of(names: set[str], node: Node) -> bool:
    """Whether the backward of a custom Function names one of some attributes."""
    function_class = forward_class_of(node)
    functions = [inspect.unwrap(getattr(function_class, name)) for name in ("backward", "vjp")]
    for function in functions:  # the list grows by the functions that they name
        for code in _code_of(function):
            if not names.isdisjoint((*code.co_names, *_strings(code))):
                return True
            functions += [helper for helper in _named(function, code) if helper not in functions]
    return False


def _code_of(function: Any) -> list[CodeType]:
    """The code of a function and of all functions inside of it; none if C++ wrote it."""
    codes = [code] if (code := getattr(function, "__code__", None)) else []
    for code in codes:  # the list grows
        codes += [inner for inner in code.co_consts if isinstance(inner, CodeType)]
    return codes


def _strings(code: CodeType) -> Iterator[str]:
    """The strings in a code object, such as that of ``getattr(ctx, "saved_tensors")``."""
    return (constant for constant in code.co_consts if isinstance(constant, str))


def _named(function: FunctionType, code: CodeType) -> Iterator[FunctionType]:
    """The functions of the module of a function that its code names."""
    for name in code.co_names:
        value = function.__globals__.get(name)
        if inspect.isfunction(value) and value.__module__ == function.__module__:
            yield value
