"""The tensor that carries a truncated power series through a function.

PyTorch hands every operation on a ``Carrier`` to its ``__torch_function__``, which looks up the
rule of the operation (table.py) and applies it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from typing import Any, NoReturn

import torch

from companion.higher_order.series import Series
from companion.source import line_of, users_source

Tensor = torch.Tensor
Rule = Callable[[Any, Any, Any], Any]  # takes a function of torch, its args and its kwargs
Lookup = Callable[[Any], tuple[str, Rule]]  # the name and the rule of a function of torch

# The position of an operand, and the keywords that torch's functions have for it.
_OPERANDS = ((0, "input"), (0, "self"), (0, "x"), (1, "other"), (1, "exponent"))
_NUMPY_KEYWORDS = {"axis": "dim", "keepdims": "keepdim"}


class Run:
    """One run of a function, whose carriers mean nothing in another run.

    The function runs with gradients enabled, so that a ``no_grad`` inside it is noticed. If they
    were disabled outside, each rule runs without them, and nothing is recorded.
    """

    def __init__(self, lookup: Lookup) -> None:
        self.lookup = lookup
        self.records = torch.is_grad_enabled()
        self.in_rule = False

    def apply(self, rule: Rule, func: Any, args: Any, kwargs: Any) -> Any:
        if self.records or self.in_rule:
            return rule(func, args, kwargs)
        self.in_rule = True
        try:
            with torch.no_grad():
                return rule(func, args, kwargs)
        finally:
            self.in_rule = False


_RUN: ContextVar[Run | None] = ContextVar("run", default=None)


@contextlib.contextmanager
def running(lookup: Lookup) -> Iterator[None]:
    """Carriers that are made in this block belong together, and go by the rules of ``lookup``."""
    before = _RUN.set(Run(lookup))
    try:
        yield
    finally:
        _RUN.reset(before)


class Carrier(Tensor):
    """A tensor that has the value of a series and carries the series along."""

    carried: Series
    run: Run | None

    @property
    def series(self) -> Series:
        if self.run is not _RUN.get():
            _refuse_other_run()
        return self.carried

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        run = _RUN.get()
        if run is None:
            _refuse_other_run()
        name, rule = run.lookup(func)
        if rule is not plain and not run.in_rule and not torch.is_grad_enabled():
            refuse(
                f"{name} under no_grad or in a custom Function, where torch does not "
                "differentiate; use detach() for what is constant"
            )
        if kwargs:
            args, kwargs = _arguments(name, args, kwargs)
        return run.apply(rule, func, args, kwargs or {})

    @classmethod
    def __torch_dispatch__(  # type: ignore[override]
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        """Refuse a call that has gone around the rules and would lose the series silently."""
        refuse(f"{func}, as torch.func and copies call it, has no rule; write it with operations")


def _arguments(name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any]:
    """The operands by position, the options by torch's keywords, and neither inplace nor out."""
    if kwargs.get("inplace") or kwargs.get("out") is not None:
        refuse(f"{name} in place; leave out inplace and out")
    options = {_NUMPY_KEYWORDS.get(key, key): v for key, v in kwargs.items() if key != "out"}
    for position, keyword in _OPERANDS:
        if len(args) == position and keyword in options:
            args = (*args, options.pop(keyword))
    return args, options


def carry(coefficients: Series) -> Any:
    """A tensor that carries a series, whose coefficients are brought to one shape and dtype."""
    value = coefficients[0]
    shape, dtype = value.shape, value.dtype
    for k, c in enumerate(coefficients):
        if c is not None and (c.shape != shape or c.dtype != dtype):
            coefficients[k] = c.to(dtype).expand(shape)
    carrier: Any = value.as_subclass(Carrier)
    carrier.carried, carrier.run = coefficients, _RUN.get()
    return carrier


def value_of(argument: Any) -> Any:
    """An argument, or a list of arguments, without the series that it carries."""
    if type(argument) in (list, tuple):
        return [x.series[0] if isinstance(x, Carrier) else x for x in argument]
    return argument.series[0] if isinstance(argument, Carrier) else argument


def plain(func: Any, args: Any, kwargs: Any) -> Any:
    """The rule of what depends on the value alone: shapes, comparisons, random numbers."""
    return func(*value_of(args), **{key: value_of(x) for key, x in kwargs.items()})


def refuse(reason: str) -> NoReturn:
    """Raise, and name the line of the user's code that is running."""
    source = users_source()
    if source is None:
        raise NotImplementedError(f"derivatives: {reason} (place unknown)")
    line = line_of(source.file, source.line).strip()
    where = f"{Path(source.file).name}:{source.line}" + (f": {line}" if line else "")
    raise NotImplementedError(f"derivatives: {reason} ({where})")


def _refuse_other_run() -> NoReturn:
    refuse(
        "a tensor of another run of derivatives; runs cannot be nested, and what f keeps "
        "for later must be kept with detach()"
    )
