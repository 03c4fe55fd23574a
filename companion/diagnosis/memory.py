"""Where the memory of a graph goes: the bytes it saved, by module, by Node and by line."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch

from companion.findings import as_html
from companion.forward.tracing import source_of
from companion.forward.watching import Watch
from companion.graph.nodes import GraphNode
from companion.graph.not_a_tensor import check_what
from companion.graph.reading import Graph
from companion.graph.storages import freed_nodes, held_storages
from companion.naming import counted, in_short, one_line
from companion.source import Source

_By = Literal["module", "name", "line"]
_ALL: tuple[_By, ...] = ("module", "name", "line")
_SHOWN = 20  # rows of the printed table
_BAR = 10  # characters of a bar that stands for everything


@dataclass(frozen=True, slots=True)
class SavedRow:
    """The memory that one module, name or line saved, or what one combination of them did.

    Attributes:
        module: the path of the module; ``""`` where no module or the model itself made the Node;
            None if the rows are not by module.
        name: the Node and its name for the tensor, as in ``"TanhBackward0.result"``; None if the
            rows are not by name. ``"leaves"`` is the row of the leaves.
        source: the line that made the Node; None if it is not known, or the rows are not by line.
        nbytes: the bytes of memory, each storage counted once and whole.
        share: the same as a part of all, from 0 to 1.
        shared: the bytes of it that Nodes of other rows hold as well: these go only when both do.
        count: the number of storages.
    """

    module: str | None
    name: str | None
    source: Source | None
    nbytes: int
    share: float
    shared: int
    count: int


class SavedMemory(tuple[SavedRow, ...]):
    """A tuple of rows, the largest first, which prints as a table.

    Attributes:
        nbytes: the bytes of all rows.
        unseen: how many tensors were saved through hooks, whose memory is not counted.
        freed: how many Nodes a backward pass has freed, so that they keep nothing any more.
    """

    unseen: int
    freed: int

    @property
    def nbytes(self) -> int:
        return sum(row.nbytes for row in self)

    def __str__(self) -> str:
        count = sum(row.count for row in self)
        lines = [f"{self.nbytes:,} bytes in {count:,} storage{'s' * (count != 1)}"]
        if self.unseen:
            lines.append(
                f"and what {self.unseen:,} tensors saved through hooks take, which is not seen"
            )
        if self.freed:
            lines.append(f"a backward pass has freed what {counted(self.freed, 'Node')} had saved")
        shown, others = self[:_SHOWN], self[_SHOWN:]
        lines += _table(shown)
        if any(row.shared for row in shown):
            lines.append("* other rows hold it too")
        if others:
            rest = sum(row.nbytes for row in others)
            lines.append(f"and {len(others):,} more rows: {rest:,} bytes")
        return "\n".join(lines)

    def __repr__(self) -> str:
        return f"<{self.nbytes:,} bytes in {counted(len(self), 'row')}>"

    def _repr_html_(self) -> str:
        return as_html(str(self))


def saved_memory(
    what: Any,
    *,
    by: _By | Sequence[_By] | None = None,
    names: Mapping[str, torch.Tensor] | None = None,
    watch: Watch | None = None,
) -> SavedMemory:
    """Tell which modules, names and lines saved the memory that a graph keeps.

    ``draw(what, saved="bytes")`` shows the same in a drawing.

    A storage that several Nodes hold counts once, for the Node that was made first. The memory of
    leaves, such as parameters, is a row of its own: it is there without the graph. Of a tensor that
    a Node was given and does not require grad, such as a batch, that cannot be known.

    Nothing is unpacked: no hook runs, and a checkpoint recomputes nothing. What was saved through
    hooks, as under ``torch.utils.checkpoint`` or ``save_on_cpu``, is not counted, and the table
    says how many tensors those are. Otherwise the sum is ``Graph.saved_nbytes``. What a custom
    Function keeps as an attribute of ``ctx`` is not counted either.

    Args:
        what: a tensor of any shape that requires grad, a Node, or a ``Graph``.
        by: ``"module"``, ``"name"`` or ``"line"``, or several of them. Without it all that is
            known: the name; the module if ``modules`` noted them; the line if there is a watch.
        names: what ``modules`` gave, for the modules.
        watch: what ``watch`` saw of the forward pass, for the lines.

    Returns:
        A tuple of rows, the largest first. It prints as a table of the first 20; ``*`` marks
        bytes that Nodes of other rows hold too.

    Raises:
        ValueError: ``what`` has no graph; ``by`` is something else, or what it asks for was not
            noted; or ``names`` is given with a Graph, whose names were settled when it was read.
        TypeError: ``what`` is something else, or ``watch`` is no ``Watch``.

    Examples:
        >>> from companion import modules, watch
        >>> model = torch.nn.Sequential(torch.nn.Linear(10, 50), torch.nn.Tanh())
        >>> with modules(model) as names, watch() as watched:
        ...     y = model(torch.ones(100, 10))
        ...     loss = y.square().sum()
        >>> print(saved_memory(loss, names=names, watch=watched))
        24,000 bytes in 2 storages
         bytes  share            module  name                  line
        20,000   83% ######## *  1       TanhBackward0.result  `model(torch.ones(100, 10))`
         4,000   17% ##          0       AddmmBackward0.mat1   `model(torch.ones(100, 10))`
        * other rows hold it too
        >>> [(row.module, row.nbytes) for row in saved_memory(loss, by="module", names=names)]
        [('1', 20000), ('0', 4000)]
    """
    graph = _graph_of(what, names)
    if watch is not None and not isinstance(watch, Watch):
        raise TypeError(f"watch must be what companion.watch gave, got {type(watch).__name__}")
    has_modules = any(graph.calls)
    known: dict[_By, bool] = {"name": True, "module": has_modules, "line": watch is not None}
    columns = tuple(c for c in _ALL if known[c]) if by is None else _checked(by, known)
    sizes, holders, unseen = dict[int, int](), dict[int, dict[_Key, None]](), 0
    all_held = list(held_storages(graph))
    for held in all_held:
        if held.address is None:
            unseen += 1
            continue
        node = graph.nodes[held.node]
        source = source_of(watch, node.grad_fn) if watch and "line" in columns else None
        key = _LEAVES if held.is_of_leaf else _key(node, held.name, source, columns)
        sizes[held.address] = held.nbytes
        holders.setdefault(held.address, {})[key] = None
    result = SavedMemory(_rows(sizes, holders))
    result.unseen, result.freed = unseen, freed_nodes(graph, all_held)
    return result


_Key = tuple[str | None, str | None, Source | None]
_LEAVES: _Key = (None, "leaves", None)


def _graph_of(what: Any, names: Mapping[str, torch.Tensor] | None) -> Graph:
    if isinstance(what, Graph):
        if names is not None:
            raise ValueError(
                "names go with a tensor; those of a Graph were settled when it was read: "
                "Graph.of(loss, names=names)"
            )
        return what
    check_what(what, Graph)
    return Graph.of(what, names={} if names is None else names)


def _checked(by: Any, known: Mapping[_By, bool]) -> tuple[_By, ...]:
    """The columns that the caller asked for; raises for one that is not there."""
    asked = tuple(by) if isinstance(by, tuple | list) else (by,)
    if not asked or not all(isinstance(column, str) and column in _ALL for column in asked):
        raise ValueError(
            f'by must be "module", "name", "line" or several of them, got {in_short(by)}'
        )
    if "module" in asked and not known["module"]:
        raise ValueError(
            "no module is known that made a Node of this graph; run the model in a block `with "
            "modules(model) as names:` and give names=names. What a compiled module, a custom "
            "Function or torch.no_grad() runs is not seen"
        )
    if "line" in asked and not known["line"]:
        raise ValueError(
            "which line made which Node was not noted; run the forward pass in a block "
            "`with watch() as watched:` and give watch=watched"
        )
    return tuple(column for column in _ALL if column in asked)


def _key(node: GraphNode, name: str, source: Source | None, columns: Sequence[_By]) -> _Key:
    module = node.module or "" if "module" in columns else None
    return module, f"{node.name}.{name}" if "name" in columns else None, source


def _rows(sizes: Mapping[Any, int], holders: Mapping[Any, Mapping[_Key, None]]) -> list[SavedRow]:
    """A row for each key, the largest first."""
    total = sum(sizes.values())
    rows = dict[_Key, list[int]]()  # bytes, those that are shared, storages
    for address, keys in holders.items():
        row = rows.setdefault(next(iter(keys)), [0, 0, 0])
        row[0] += sizes[address]
        row[1] += sizes[address] if len(keys) > 1 else 0
        row[2] += 1
    found = [
        SavedRow(*key, nbytes, nbytes / total if total else 0.0, shared, count)
        for key, (nbytes, shared, count) in rows.items()
    ]
    return sorted(found, key=lambda row: -row.nbytes)


def _table(rows: Sequence[SavedRow]) -> Iterator[str]:
    """The rows as lines, below a line of headings, with columns as wide as they need."""
    columns: dict[str, list[str | None]] = {
        "module": [row.module for row in rows],
        "name": [None if row.name == _LEAVES[1] else row.name for row in rows],
        "line": [str(row.source) if row.source else None for row in rows],
    }
    filled = {name: cells for name, cells in columns.items() if any(c is not None for c in cells)}
    columns = filled or {"name": columns["name"]}  # leaves alone
    texts = [["bytes", "share", *columns]]
    for i, row in enumerate(rows):
        cells = [one_line(cells[i] or "", 60) for cells in columns.values()]
        if row.name == _LEAVES[1]:
            cells[:1] = ["leaves"]
        bar = "#" * round(_BAR * row.share) + (" *" if row.shared else "")
        texts.append([f"{row.nbytes:,}", f"{row.share:4.0%} {bar}", *cells])
    widths = [max(map(len, column)) for column in zip(*texts, strict=True)]
    for first, *others in texts if rows else ():
        padded = (text.ljust(width) for text, width in zip(others, widths[1:], strict=True))
        yield f"{first:>{widths[0]}}  {'  '.join(padded)}".rstrip()
