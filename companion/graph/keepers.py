"""Who keeps a graph alive: the Python objects from a variable down to a tensor of the graph.

The heap is searched from the tensors up. First come the tensors and Nodes that are alive and lead
to a Node of the graph, then what refers to those, then what refers to that, until there is a
variable, a module or a class. What the search itself makes is of classes of this file, so that it
can be told from what the user has; none of it outlives the call.
"""

from __future__ import annotations

import gc
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass, replace
from operator import itemgetter
from types import FrameType
from typing import Any, NamedTuple

from companion.findings import as_html
from companion.graph.freeing import is_fuse
from companion.graph.leading import Target, Targets, targets_of
from companion.graph.nodes import GraphNode
from companion.graph.not_a_tensor import check_what, is_node
from companion.graph.reading import Graph, garbage_collection_paused
from companion.graph.references import path_from
from companion.internals import unseen
from companion.naming import Variable, is_tensor, running_modules, running_variables
from companion.source import is_installed, is_ours, is_users

_HITS = 64  # so many of the objects that refer to tensors of the graph are followed
_AT_ONCE = 128  # the referrers of so many objects are asked for in one go through the heap
_LEVELS = 12  # from a tensor up to its name
_COMPARISONS = 5_000_000_000  # so many comparisons of two objects are made in all, about 10 seconds


@dataclass(frozen=True, slots=True)
class Keeper:
    """What keeps a graph alive. It is words only, and keeps nothing itself.

    Attributes:
        name: how to get at it, such as ``"losses[3]"`` or ``"model.encoder.last"``.
        kind: the class of what the first part of the name refers to, such as ``"list"``.
        where: whose name that is, such as ``"variable of train"``.
        holds: what it refers to: a Node, or a tensor and its Node; where the Node is not of the
            graph itself but leads to it, ``"→ … →"`` and the first Node of the graph.
        count: how many tensors and Nodes that lead to the graph lie beside each other there.
    """

    name: str
    kind: str
    where: str
    holds: str
    count: int

    def __str__(self) -> str:
        beside = f", and {self.count - 1} more there" if self.count > 1 else ""
        return f"{self.name} ({self.kind}, {self.where}) → {self.holds}{beside}"


class Keepers(tuple[Keeper, ...]):
    """A tuple of keepers, which prints as a line for each.

    Attributes:
        left_out: how many objects refer to tensors of the graph and were not followed to a name,
            because there are so many.
    """

    left_out = 0

    def __str__(self) -> str:
        lines = [str(keeper) for keeper in self]
        if self.left_out:
            lines.append(f"{self.left_out:,} more objects that refer to it were not followed")
        return "\n".join(lines) or "found no name that keeps this graph"

    def _repr_html_(self) -> str:
        return as_html(str(self))

    def __repr__(self) -> str:
        return f"<{len(self)} keepers>"


def who_keeps(what: Any) -> Keepers:
    """Find what keeps a graph alive besides the variables of the code that is running.

    Ask it of the tensor that you call ``backward()`` on, after a step or two. A keeper is what
    refers to a tensor or Node whose graph leads to this one; of each the shortest way from a name
    is told. Left out is what a step holds in plain variables while it runs: a tensor of the graph,
    or one computed beside it on the way, in a variable of a function (or script) that is running,
    alone or in a tuple.

    Not found are variables of other threads, and what Python's garbage collector cannot see since
    C++ refers to it. Garbage is collected first. The time grows with the number of objects on the
    heap and of Nodes in all graphs that are alive. The search is bounded:
    a tensor from above the graph that it cannot follow to a name is told as ``"no name found"``.

    Args:
        what: a tensor of any shape, a Node, or a ``Graph``. Of a tensor without a graph, and of a
            leaf, who keeps the tensor itself.

    Returns:
        A tuple of ``Keeper``; variables of the running code first, names that begin with an
        underscore last. Empty if no name was found; what only C++ refers to, such as a hook that
        holds its own tensor, may keep it all the same. It prints as a line for each.

    Raises:
        TypeError: ``what`` is none of these.

    Examples:
        >>> import torch
        >>> def train(steps):
        ...     w, losses = torch.ones(3, requires_grad=True), []
        ...     for _ in range(steps):
        ...         loss = (w * w).sum()
        ...         losses.append(loss)
        ...     print(who_keeps(loss))
        ...     losses.clear()
        ...     print(who_keeps(loss))
        >>> train(4)
        losses[3] (list, variable of train) → tensor → SumBackward0
        found no name that keeps this graph
    """
    check_what(what, Graph)
    gc.collect()
    with garbage_collection_paused(), unseen():
        search = _Search(what)
        ranked = sorted(search.keepers(), key=itemgetter(0))
    keepers = _merged(keeper for _, keeper in ranked)
    keepers.left_out = search.left_out
    return keepers


def _merged(keepers: Iterable[Keeper]) -> Keepers:
    """One keeper for those whose names differ by an index alone: ``losses[0]``, ``losses[1]``."""
    merged = dict[tuple[str, str], Keeper]()
    for keeper in keepers:
        key = re.sub(r"\[\d+\]", "[]", keeper.name), keeper.where
        first = merged.setdefault(key, keeper)
        if first.name != keeper.name:
            merged[key] = replace(first, count=first.count + keeper.count)
    return Keepers(merged.values())


# ---- from tensors and Nodes that lead to the graph up to names


class _List(list[Any]):
    """A list of this file."""


class _Hit(NamedTuple):
    """An object that refers to targets."""

    container: Any
    target: Any  # the first of them
    number: int  # how many they are


class _Chain(NamedTuple):
    """The object that a chain of references starts at, and its path to a target."""

    start: Any
    path: str
    target: Target
    hit: int


class _Name(NamedTuple):
    """A name at which a chain ends."""

    rank: int  # the lower, the more it tells the user
    name: str
    kind: str
    where: str


def _hits(targets: Targets, modules: _List) -> _List:
    """What refers to targets, but for tensors, Nodes and what is of the companion.

    The variables of a module have nothing to do with each other, so each is a hit of its own.
    """
    classes = {type(target) for target in targets}
    objects, hits = gc.get_objects(), _List()
    for start in range(0, len(objects), 256):
        some = objects[start : start + 256]
        if classes.isdisjoint(map(type, gc.get_referents(*some))):
            continue
        for container in some:
            if _is_ours(container) or type(container) in classes:
                continue
            held = [x for x in gc.get_referents(container) if type(x) in classes and x in targets]
            held.sort(key=lambda target: targets[target].is_part)
            if held and _is_module(container, modules):
                hits += [_Hit(container, target, 1) for target in held]
            elif held:
                hits.append(_Hit(container, held[0], len(held)))
    hits.sort(key=lambda hit: targets[hit.target].is_part)
    return hits


class _Search:
    """The search for the names that lead to targets."""

    def __init__(self, what: Any) -> None:
        self.what = what
        self.targets = targets_of(what)
        self.variables = _List(running_variables())
        self.modules = _List(running_modules())
        hits = _hits(self.targets, self.modules)
        self.hits, self.left_out = _List(hits[:_HITS]), len(hits[_HITS:])

    def keepers(self) -> list[tuple[int, Keeper]]:
        """The keepers, each after its rank."""
        ranked = list[tuple[int, Keeper]]()
        kinds = {type(target) for target in self.targets}
        for variable in self.variables:  # which are no objects that could be found
            if type(variable.value) in kinds and variable.value in self.targets:
                target = self.targets[variable.value]
                chain = _Chain(variable.value, target.path, target, 0)
                if not _is_in_use(chain, variable.is_users):
                    ranked.append(_ranked(_name_of_variable(variable, chain), target, 1))
        names = self.names()
        for i in range(len(self.hits)):
            container, held, count = self.hits[i]
            target = self.targets[held]
            if i not in names and not target.is_part:
                kind = type(container).__name__
                names[i] = _Name(9, f"a {kind}", kind, "no name found")
            if i in names:  # else the graph itself may hold it, through C++
                ranked.append(_ranked(names[i], target, count))
        return ranked

    def names(self) -> dict[int, _Name]:
        """For each hit, by its index, the best of the names that are nearest to it."""
        names, seen, frontier = dict[int, _Name](), _List(), _List()
        for i in range(len(self.hits)):
            container, held, _ = self.hits[i]
            target = self.targets[held]
            self.step(container, _Chain(held, target.path, target, i), names, frontier)
        work = _COMPARISONS
        for _ in range(_LEVELS):
            chains = _List([chain for chain in frontier if chain.hit not in names][:_AT_ONCE])
            work -= len(gc.get_objects()) * len(chains)
            if not chains or work < 0:
                break
            seen += chains
            frontier = _List()
            for referrer in _List(gc.get_referrers(*[chain.start for chain in chains])):
                for chain in chains:
                    known = _List([*seen, *frontier])
                    if not any(c.start is referrer and c.hit == chain.hit for c in known):
                        self.step(referrer, chain, names, frontier)
        return names

    def step(self, holder: Any, chain: _Chain, names: dict[int, _Name], frontier: _List) -> None:
        """Go from an object to one that refers to it: note its names, or go on from there."""
        if _is_ours(holder) or holder is self.what:
            return
        path = path_from(holder, chain.start, chain.path)
        if path is None:
            return
        above = chain._replace(start=holder, path=path)
        if type(holder).__module__.startswith("companion."):
            above = above._replace(path="")  # where a Graph keeps its Nodes nobody need look
        found_names, is_end = self.names_at(above, chain)
        for name in found_names:
            names[chain.hit] = min(names.get(chain.hit, name), name)
        if not is_end:
            frontier.append(above)

    def names_at(self, above: _Chain, below: _Chain) -> tuple[list[_Name], bool]:
        """The names of an object, and whether there is no need to look what refers to it.

        Args:
            above: the chain that begins at the object.
            below: the same from the next object on.
        """
        holder, path = above.start, above.path
        if _is_module(holder, self.modules):
            is_running = any(module is holder for module in self.modules)
            in_use = is_running and _is_in_use(below, True)
            return ([] if in_use else [_name_in_module(above, below)]), True
        if issubclass(type(holder), type):
            module = holder.__module__
            full = f"{holder.__qualname__}{path}"
            return [_Name(_rank_of_module(module), full, "class", f"of module {module}")], True
        if is_node(holder):
            # If it is the Node of what it holds, nobody frees this circle.
            kind = type(holder).__name__
            name = _Name(1, f"ctx{path}", kind, "Node of the graph itself")
            return ([name] if below.target.node is holder else []), True
        names = [
            _name_of_variable(variable, above)
            for variable in self.variables
            if variable.value is holder and not _is_in_use(above, variable.is_users)
        ]
        return names, bool(names)


def _ranked(name: _Name, target: Target, count: int) -> tuple[int, Keeper]:
    holds = target.holds
    if name.name.isidentifier():  # the variable is the tensor
        holds = holds.removeprefix("tensor → ")
    return name.rank, Keeper(name.name, name.kind, name.where, holds, count)


def _is_in_use(chain: _Chain, is_users: bool) -> bool:
    """Whether a variable of running code that refers to this is part of what the code computes.

    That is a tensor or Node of the graph, alone or in a tuple; in a library also in a dict, such as
    that of the arguments of a call.
    """
    containers = (tuple,) if is_users else (tuple, dict)
    steps = r"(\[\d+\])*" if is_users else r"(\[[^][]*\])*"
    kind = type(chain.start)
    is_plain = kind in containers or is_tensor(chain.start) or hasattr(kind, "next_functions")
    return chain.target.is_part and is_plain and re.fullmatch(steps, chain.path) is not None


def _name_of_variable(variable: Variable, chain: _Chain) -> _Name:
    rank = _rank_of_name(variable.name) + (0 if variable.is_users else 2)
    kind = type(variable.value).__name__
    name = f"{variable.name}{chain.path}"
    return _Name(rank, name, kind, f"variable of {variable.function}")


def _name_in_module(above: _Chain, below: _Chain) -> _Name:
    """The name of a variable of a module; of several for one object one without an underscore."""
    variables = list(above.start.items())
    names = [name for name, value in variables if value is below.start and isinstance(name, str)]
    name, module = min(names, key=_rank_of_name, default=""), above.start.get("__name__")
    rank = _rank_of_name(name) + _rank_of_module(module)
    where = f"variable of module {module}" if module else "global variable"
    return _Name(rank, f"{name}{below.path}", type(below.start).__name__, where)


def _is_module(namespace: Any, running: _List) -> bool:
    """Whether this is where a module has its variables: one of those that run, or another."""
    if type(namespace) is not dict:
        return False
    if any(module is namespace for module in running):
        return True
    name = namespace.get("__name__")
    return isinstance(name, str) and getattr(sys.modules.get(name), "__dict__", None) is namespace


def _is_ours(value: Any) -> bool:
    """Whether the companion made this, and it keeps nothing for longer than the call."""
    if type(value) is FrameType:
        return is_ours(value.f_code.co_filename)
    return type(value) in _OWN or is_fuse(value)


def _rank_of_name(name: str) -> int:
    return 4 if name.startswith("_") else 0


def _rank_of_module(name: Any) -> int:
    file = getattr(sys.modules.get(name), "__file__", None)
    if file is None:  # a notebook, and what is built into Python
        return 3 if name in sys.stdlib_module_names else 1
    return 1 if is_users(file) and not is_installed(file) else 3


_OWN = {Target, Targets, _List, _Hit, _Chain, _Search, Variable, GraphNode}
