"""The tensor that carries a truncated power series through a function.

PyTorch hands every operation on a ``Carrier`` to its ``__torch_function__``, which looks up the
rule of the operation (table.py) and applies it.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator
from contextvars import ContextVar
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from torch.compiler import is_dynamo_compiling

import companion.higher_order.series as series
from companion.higher_order.deferred import Deferred
from companion.higher_order.partials import Later, Partials
from companion.higher_order.series import Series
from companion.internals import (
    COMPILE_WRAPPER,
    hidden,
    hiding,
    is_of_compiled_function,
    may_compile,
    shown,
)
from companion.source import line_of, users_source

Tensor = torch.Tensor
Rule = Callable[[Any, Any, Any], Any]  # takes a function of torch, its args and its kwargs
Lookup = Callable[[Any], tuple[str, Rule]]  # the name and the rule of a function of torch

# The position of an operand, and the keywords that torch's functions have for it.
_OPERANDS = ((0, "input"), (0, "self"), (0, "x"), (1, "other"), (1, "exponent"))
_RUNS = "companion.higher_order.taylor"  # the module whose series_of calls f
_NUMPY_KEYWORDS = {"axis": "dim", "keepdims": "keepdim"}


class Run:
    """One run of a function, whose carriers mean nothing in another run.

    The function runs with gradients enabled, so that a ``no_grad`` inside it is noticed. If they
    were disabled outside, each rule runs without them, and nothing is recorded.

    With several directions, a coefficient that differs between them has them along a first
    dimension. It is hidden from the rules, but from those that broadcast over it. If the run
    collapses, the last coefficient is the mean over the directions: each operation is linear in the
    last coefficient, so what it makes of the mean is the mean of what it would make of each.

    With ``partials``, the series is one in several variables. ``by_rows`` asks whether a row of the
    result may depend on another row of the argument, as it also does of a run with directions.
    """

    def __init__(
        self,
        lookup: Lookup,
        directions: int = 0,
        collapses: bool = False,
        partials: Partials | None = None,
        by_rows: bool = False,
    ) -> None:
        self.lookup = lookup
        self.directions = directions
        self.collapses = collapses
        self.partials = partials
        self.by_rows = by_rows
        self.records = torch.is_grad_enabled()
        self.in_rule = False
        self.level = 0  # the number of the dimension that is hidden; 0 if none is
        self.may_mix = False  # whether a rule ran that might lead from one row to another

    def apply(self, rule: Rule, func: Any, args: Any, kwargs: Any) -> Any:
        if self.records or self.in_rule:
            return self._apply(rule, func, args, kwargs)
        self.in_rule = True
        try:
            with torch.no_grad():
                return self._apply(rule, func, args, kwargs)
        finally:
            self.in_rule = False

    def _apply(self, rule: Rule, func: Any, args: Any, kwargs: Any) -> Any:
        asks = self.directions or self.by_rows
        if not asks or self.level or _broadcasts(rule, args, kwargs):
            return rule(func, args, kwargs)
        self.may_mix |= rule is not plain
        if not self.directions:
            return rule(func, args, kwargs)
        with hiding(self.directions) as level:
            self.level = level
            try:
                return rule(func, args, kwargs)
            finally:
                self.level = 0

    def finished(self, coefficients: Series) -> Series:
        """The coefficients of a result, with the directions shown, or their mean as the last."""
        if self.level:
            coefficients = series.each(coefficients, lambda c: shown(c, self.level))
        if self.collapses and isinstance(coefficients[-1], Tensor):
            coefficients[-1] = self.mean(coefficients[-1], coefficients[0].dim())
        return coefficients

    def mean(self, last: Tensor, rank: int) -> Tensor:
        """The mean over the directions, if the run collapses, of what has ``rank`` dimensions."""
        return last.mean(0) if self.collapses and last.dim() > rank else last


def broadcasting(rule: Rule) -> Rule:
    """Mark a rule that works on each row of its argument by itself, with more dimensions too."""
    rule.broadcasts = True  # type: ignore[attr-defined]
    return rule


def _broadcasts(rule: Rule, args: Any, kwargs: Any) -> bool:
    if not getattr(rule, "broadcasts", False):
        return False
    if kwargs and Carrier in map(type, kwargs.values()):
        return False
    return Carrier not in map(type, args[1:])


_RUN: ContextVar[Run | None] = ContextVar("run", default=None)


@contextlib.contextmanager
def running(run: Run) -> Iterator[None]:
    """Carriers that are made in this block belong together."""
    before = _RUN.set(run)
    try:
        yield
    finally:
        _RUN.reset(before)


class Carrier(Tensor):
    """A tensor that has the value of a series and carries the series along."""

    carried: Series
    run: Run | None

    @property
    def value(self) -> Tensor:
        return self.series_or_deferred[0]  # type: ignore[no-any-return]

    @property
    def series_or_deferred(self) -> Series:
        """The series with all dimensions shown; what is behind its value may be Deferred."""
        if self.run is not _RUN.get():
            _refuse_other_run()
        return self.carried

    @property
    def series(self) -> Series:
        carried = self.series_or_deferred
        if len(carried) > 1 and isinstance(carried[1], Deferred):
            carried[1:] = carried[1].coefficients_of(carried[0])
        level = 0 if self.run is None else self.run.level
        if not level:
            return carried
        rank = carried[0].dim()
        return series.each(carried, lambda c: c if c.dim() == rank else hidden(c, level))

    @property
    def narrow_series(self) -> Series:
        """The series, for rules that broadcast: what is the same in all rows may stand once."""
        carried = self.series_or_deferred
        if len(carried) > 1 and isinstance(carried[1], Later):
            return [carried[0], *carried[1].narrow()]
        return self.series

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        if is_dynamo_compiling():
            raise NotImplementedError  # so that it calls this as it is, without compiling our rules
        if may_compile() and _inside_compiled_function():
            refuse(
                "torch.compile made this function, and what it makes has no rules; pass the "
                "function or module as it was before, or give it a taylor_rule"
            )
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
    if len(coefficients) > 1 and isinstance(coefficients[1], Deferred):
        return carrier_of(coefficients)  # the others get shape and dtype when they are computed
    value, run = coefficients[0], _RUN.get()
    shape, dtype, rank = value.shape, value.dtype, value.dim()
    for k, c in enumerate(coefficients):
        if c is None or (c.shape == shape and c.dtype == dtype):
            continue
        if c.shape[c.dim() - rank :] != shape or c.dtype != dtype:
            coefficients[k] = c.to(dtype).expand(*c.shape[: max(c.dim() - rank, 0)], *shape)
    if run is not None and run.directions:
        coefficients = run.finished(coefficients)
    return carrier_of(coefficients)


def carrier_of(coefficients: Series) -> Any:
    """A tensor that carries a series, whose coefficients have one shape and dtype already."""
    carrier: Any = coefficients[0].as_subclass(Carrier)
    carrier.carried, carrier.run = coefficients, _RUN.get()
    return carrier


def value_of(argument: Any) -> Any:
    """An argument, or a list of arguments, without the series that it carries."""
    if type(argument) in (list, tuple):
        return [x.value if isinstance(x, Carrier) else x for x in argument]
    return argument.value if isinstance(argument, Carrier) else argument


def elementary(
    recurrence: Callable[[Series], Series],
    a: Series,
    curve: Callable[[Tensor, int], Series] | None = None,
) -> Series:
    """An elementary function of a series, by its recurrence.

    In several variables it is found from the series of the function itself: ``curve`` gives that at
    a value, up to an order, if it has a faster way than the recurrence.
    """
    partials = several_variables()
    if partials is None:
        return recurrence(a)

    return partials.elementary(curve or functools.partial(series.curve, recurrence), a)


def several_variables() -> Partials | None:
    """How to compute with the series of this run, if they are series in several variables."""
    run = _RUN.get()
    return None if run is None else run.partials


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


def _inside_compiled_function() -> bool:
    """Whether f has called a compiled function, which is running."""
    frame: FrameType | None = sys._getframe(2)
    while frame is not None:
        name = frame.f_code.co_name  # which is quick to ask, as each operation does
        if name == "series_of" and frame.f_globals.get("__name__") == _RUNS:
            return False
        if name == COMPILE_WRAPPER and is_of_compiled_function(frame):
            return True
        frame = frame.f_back
    return False


def _refuse_other_run() -> NoReturn:
    refuse(
        "a tensor of another run of derivatives; runs cannot be nested, and what f keeps "
        "for later must be kept with detach()"
    )
