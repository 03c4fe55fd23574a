"""A Graph becomes DOT, the language of Graphviz: what is in a box, and what stands at an arrow.

One picture language everywhere: a root is above all that it leads to, and the arrows run along
``next_functions``, the way the gradient flows. Shape and words tell the kinds apart: an operation
is a rounded box; a leaf is a double box that says ``leaf``; a custom Function is a hexagon that
says so; the root says ``root``; an entry of ``next_functions`` that is None is a short dashed stub
to a dot, or to the scissors of a cut. Several Nodes drawn as one are a block that says how many
they are. With numbers, a box has its value and below it its gradient, and what leaves it along an
edge stands in a pill on the edge. With memory, a box that keeps much is darker. Colours repeat all
that, and course.css has them for a dark page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import Any

import torch

from companion.drawing.boxes import Arrow, Box, Folded, Frame, around, lower_leaves
from companion.drawing.numbers import Numbers, Row
from companion.drawing.scissors import Scissors
from companion.drawing.shortening import lines_of, shortened
from companion.drawing.words import (
    Saved,
    copies_in,
    given_name,
    inside,
    leaves_of,
    names_in,
    saved_in,
    shape_along,
)
from companion.forward.cuts import Cut
from companion.graph.nodes import GraphNode, shape_as_text
from companion.graph.saved import SavedTensor
from companion.naming import counted, one_line

_WIDTH = 20  # characters in a line of a box, so that a drawing fits a phone

_SHORT = 5  # characters of a label at an edge that an arrow seldom bends through
_NUMBERS = 30  # characters in a line of numbers
# Of what is less important, and of gradients.
GREY, ORANGE = "#5a6270", "#8a3b00"
# A space that no text of a user's has: of a line in a box that is a gradient it is the first
# character, in a pill it ends what is grey.
MARK = "\xa0"

# How a box of each class looks.
_LOOKS = {
    "operation": {"style": "rounded,filled", "fillcolor": "#f4f5f7"},
    "leaf": {"style": "filled", "fillcolor": "#e2f3ea", "peripheries": "2"},
    "custom": {"style": "filled", "fillcolor": "#ece5fa", "shape": "hexagon", "margin": "0"},
    "folded": {"style": "filled", "fillcolor": "#f4f5f7", "shape": "box3d"},
    "outside": {"style": "rounded,dotted", "fontcolor": GREY, "color": GREY},
    "output": {"style": "rounded,filled"},
    "root": {"penwidth": "2", "fillcolor": "#dde9fb"},
    "heavy": {"fillcolor": "#ffdcb5"},
    "none": {"shape": "point", "width": "0.07"},
    "cut": {"style": "dashed", "fontcolor": "black"},
    "frame": {"style": "rounded", "color": GREY, "margin": "10"},
    "title": {"shape": "plaintext", "margin": "0.05,0.02"},
    "pill": {
        "style": "rounded,filled",
        "color": ORANGE,
        "fillcolor": "#fff0e0",
        "fontcolor": ORANGE,
        "fontsize": "10",
        "margin": "0.06,0.02",
        "height": "0.2",
        "width": "0.2",
    },
}
_STUB = {"style": "dashed", "arrowhead": "none"}  # an edge that leads to no box
# A leaf that is used in every step of a loop takes Graphviz minutes to lay out well.
_QUICK = {"nslimit": "4", "nslimit1": "5"}


def dot_of(
    folded: Folded,
    saved: Saved,
    numbers: Numbers,
    tags: Mapping[int, str] | None = None,
    scissors: Sequence[Scissors] = (),
    shapes: bool = False,
) -> str:
    """A graph in DOT.

    Args:
        folded: the boxes and edges of the graph.
        saved: for some Nodes the tensors to list in their boxes.
        numbers: the numbers to show, if any.
        tags: for some Nodes one more line of text. Then Nodes and edges also have classes by which
            a script finds them, as ``tagged`` says.
        scissors: the cuts to show.
        shapes: whether to write at each edge the shape of what travels along it.
    """

    def mark(name: str) -> list[str]:
        return [] if tags is None else [name]

    dot = _digraph(len(folded.boxes), pills=bool(numbers.sent))
    ids = {box: str(number) for number, box in enumerate(folded.boxes)}
    names = shortened(names_in(folded), _WIDTH)
    frames = _draw_frames(folded, names, ids, numbers)
    for box, box_id in ids.items():
        frames.get(box.frame, dot).node(
            box_id,
            _label(_lines(folded, box, saved, names, tags or {}), numbers.of(box)),
            tooltip=_tooltip(_hover(folded, box, saved, numbers)),
            **_look(*_classes(folded, box, numbers), *mark(f"n{box.nodes[0]}")),
        )
    _draw_scissors(dot, folded, ids, scissors)
    cut_off = {(box, slot) for box, slot, _ in scissors}
    lower = lower_leaves(folded)
    for box, box_id in ids.items():
        for arrow in folded.arrows(box):
            slot = arrow.edges[0].slot if arrow.edges else arrow.slot or 0
            look = _look(*mark(f"e{box.nodes[0]}-{slot}"))
            here = frames.get(box.frame, dot)
            shape = shape_along(folded, arrow) if shapes else ""
            length = {"minlen": "2"} if arrow.target in lower else {}
            if arrow.target is not None and (number := numbers.along(box, arrow)):
                pill = f"{box_id}.{slot}"
                here.node(pill, _pill(arrow, number, shape), tooltip=" ", **_look("pill"))
                dot.edge(box_id, pill, arrowhead="none")
                dot.edge(pill, ids[arrow.target], **length)
            elif arrow.target is not None:
                label = _edge_label(arrow, shape=shape) or None
                dot.edge(box_id, ids[arrow.target], label, **look | length)
            elif (box, slot) not in cut_off:
                stub = f"{box_id}.{slot}"
                here.node(stub, "", tooltip=" ", **_look("none", *mark(f"n{box.nodes[0]}")))
                dot.edge(box_id, stub, _edge_label(arrow), **_STUB | look)
    for frame in reversed(folded.frames):  # those in others first
        frames.get(frame.outer, dot).subgraph(frames[frame])
    return str(dot.source)


def dot_without_graph(output: torch.Tensor, cuts: Sequence[Cut]) -> str:
    """The box of an output that has no graph, and the cuts that made it so."""
    dot = _digraph(len(cuts))
    words = _escaped("output", "no grad_fn", " ".join(_measures(output)))
    dot.node("0", words, tooltip=words, **_look("output", "root"))
    ids = _draw_cuts(dot, cuts)
    arrow = Arrow(None, None)
    for cut_id, label in dict.fromkeys((ids[cut], _edge_label(arrow, cut)) for cut in cuts):
        dot.edge("0", cut_id, label, **_STUB | _look("cut"))
    return str(dot.source)


def _digraph(boxes: int, pills: bool = False) -> Any:
    import graphviz  # here and not above: who only walks graphs need not wait for it

    font = {"fontname": "Helvetica", "fontsize": "12"}
    return graphviz.Digraph(
        graph_attr={
            "nodesep": "0.15" if boxes > 40 else "0.3",
            "ranksep": "0.25" if pills else "0.35",
        }
        | (_QUICK if boxes > 60 else {}),
        node_attr=font | {"shape": "box", "margin": "0.18,0.07", "height": "0.3"},
        edge_attr=font | {"fontsize": "10", "fontcolor": GREY, "arrowsize": "0.7"},
    )


def _look(*classes: str) -> dict[str, str]:
    """The attributes of what has these classes in the SVG."""
    look = {"class": " ".join(classes)} if classes else {}
    for name in classes:
        look |= _LOOKS.get(name, {})
    return look


# ---- a box, and an edge


def _classes(folded: Folded, box: Box, numbers: Numbers) -> list[str]:
    """What a box is."""
    node = folded.node(box)
    if box.is_outside:
        kind = "outside"
    elif box.is_block:
        kind = "folded"
    elif node.is_leaf:
        kind = "leaf"
    else:
        kind = "custom" if node.is_custom else "operation"
    root, heavy = ["root"] * folded.is_root(box), ["heavy"] * (box in numbers.heavy)
    return [kind, *root, *heavy]


def _lines(
    folded: Folded, box: Box, saved: Saved, names: Mapping[str, str], tags: Mapping[int, str]
) -> list[str]:
    """The lines in a box, from the top."""
    index = box.nodes[0]
    lines = ["root"] if folded.is_root(box) else []
    if box.is_block:
        lines += _block_lines(folded, box, names)
    else:
        lines += _node_lines(folded.node(box), names)
    if box.use:
        lines.append(_use(box.use))
    for tensor in saved_in(box, saved):
        state = _state(tensor)
        words = f"{state}: {tensor.name}"
        lines += [words] if len(words) <= _WIDTH else [f"{state}:", tensor.name]
    if index in tags:
        lines.append(tags[index])
    return lines


def _hover(folded: Folded, box: Box, saved: Saved, numbers: Numbers) -> str:
    """The text where the pointer rests on a box: nothing is cut short in it."""
    parts = [inside(folded, box) if box.is_block else _node_hover(folded.node(box))]
    if box.use:
        parts.append(_use(box.use))
    for tensor in saved_in(box, saved):
        shape = f" {shape_as_text(tensor)}" if tensor.shape else ""
        parts.append(f"{_state(tensor)}: {tensor.name}{shape}")
    parts += [f"{word} {number}" for word, number in numbers.of(box)]
    return ", ".join(parts)


def _edge_label(arrow: Arrow, cut: Cut | None = None, shape: str = "") -> str:
    """What stands at an edge, with room for the bend of the arrow where the text is long."""
    text = " ".join(filter(None, (_edge_text(arrow, cut), shape)))
    room = "  " if len(text) > _SHORT else ""
    return f" {room}{text}{room}" if text else ""


def _edge_text(arrow: Arrow, cut: Cut | None = None) -> str:
    """The slot of an edge where there are several, and how it differs from most."""
    words = [] if arrow.slot is None else [f"[{arrow.slot}]"]
    if arrow.target is None:
        return " ".join([*words, f"✂ {_cut_in_a_word(cut)}" if cut else "None"])
    if arrow.input_nr > 0:
        words.append(f"input_nr {arrow.input_nr}")
    if len(arrow.edges) > 1:
        words.append(f"×{len(arrow.edges)}")
    return " ".join(words)


def _pill(arrow: Arrow, number: str, shape: str) -> str:
    """What stands in the pill of an edge: what an edge says anyway, and the gradient."""
    words = " ".join(filter(None, (_edge_text(arrow), shape))) + (":" if arrow.input_nr else "")
    return _escaped(*_broken(words and f"{words}{MARK}", number))


def _node_lines(node: GraphNode, names: Mapping[str, str]) -> list[str]:
    """What a box of one Node says."""
    name = names.get(given_name(node), "")
    if node.is_leaf:
        measures = _joined(*_measures(node), between=" ")
        return [*lines_of(name, _WIDTH, "leaf "), *measures]
    custom = ["custom Function"] if node.is_custom else []
    return [*custom, *_class_lines(node.name), *(lines_of(name, _WIDTH) if name else [])]


def _node_hover(node: GraphNode) -> str:
    """The same without breaks, and what has no room in a box."""
    name, measures = given_name(node), " ".join(_measures(node))
    if node.is_leaf:
        return f"{node.name} of the leaf {name}".rstrip() + f", {measures}"
    made = f"{node.name}, made {f'{name}, ' if name else ''}{measures}"
    return f"{made}, in the module {node.module}" if node.module else made


def _block_lines(folded: Folded, box: Box, names: Mapping[str, str]) -> list[str]:
    """What a box of several Nodes says."""
    each = len(box.first_copy)
    count = counted(each, "node")
    if box.is_outside:
        return ["outside", *(_class_lines(folded.node(box).name) if each == 1 else [count])]
    leaves = [leaves_of(box)] if box.leaves else []
    if box.kind != "copies":
        start = {"chain": "chain of ", "rest": "the rest: "}.get(box.kind, "")
        return [*_call_lines(box, names), *_joined(f"{start}{count}", *leaves)]
    times = f"×{box.copies}"
    if each == 1:
        return [times, *_class_lines(folded.node(box).name), *leaves]
    return [*_call_lines(box, names), *_joined(times, f"{count} each"), *leaves]


def _call_lines(box: Box, names: Mapping[str, str]) -> list[str]:
    """The path of a module, of copies that differ the first and the last, and its class."""
    if box.call is None:
        return []
    lines = lines_of(names[box.call.path], _WIDTH)
    if box.last_call and box.last_call.path != box.call.path:
        last = lines_of(names[box.last_call.path], _WIDTH, "to ")
        lines = _joined(*lines, *last, between=" ")
    return [*lines, *_module_lines(box.call.kind)]


def _joined(*lines: str, between: str = ", ") -> list[str]:
    """The same as one line where that fits."""
    line = between.join(lines)
    return [line] if len(line) <= _WIDTH else [*lines]


def _measures(value: GraphNode | torch.Tensor) -> tuple[str, str]:
    """The shape and the dtype."""
    return shape_as_text(value), str(value.dtype).removeprefix("torch.")


def _use(use: tuple[int, int]) -> str:
    return "use {} of {}".format(*use)


def _state(tensor: SavedTensor) -> str:
    return "saved" if tensor.state == "kept" else tensor.state


def _class_lines(name: str) -> list[str]:
    """A long name of a Node's class breaks before ``Backward``."""
    start, backward, end = name.rpartition("Backward")
    return [name] if len(name) <= _WIDTH or not start else [start, backward + end]


def _module_lines(name: str) -> list[str]:
    """A long name of a module's class breaks before a capital letter."""
    capitals = [i for i, letter in enumerate(name[: _WIDTH + 1]) if i and letter.isupper()]
    if len(name) <= _WIDTH or not capitals:
        return [name]
    return [name[: capitals[-1]], name[capitals[-1] :]]


# ---- frames


def _draw_frames(
    folded: Folded, names: Mapping[str, str], ids: Mapping[Box, str], numbers: Numbers
) -> dict[Frame | None, Any]:
    """A subgraph for each frame, in which a box without borders says what it is.

    That is a box and no title, because arrows keep away from boxes alone.
    """
    import graphviz

    drawn: dict[Frame | None, Any] = {}
    for number, frame in enumerate(folded.frames):
        subgraph = graphviz.Digraph(f"cluster{number}", graph_attr=_look("frame"))
        subgraph.attr(tooltip=" ")
        title = f"frame{number}"
        words = _label(_frame_lines(frame, names), numbers.of(frame.block))
        tooltip = _tooltip(f"{copies_in(frame)}: {inside(folded, frame.block)}")
        subgraph.node(title, words, tooltip=tooltip, **_look("title"))
        first = next(box for box in ids if box.frame is frame or frame in around(box.frame))
        with subgraph.subgraph() as row:
            row.attr(rank="same")
            row.node(title)
            if first.frame is frame:
                row.node(ids[first])
        drawn[frame] = subgraph
    return drawn


def _frame_lines(frame: Frame, names: Mapping[str, str]) -> list[str]:
    """What a frame says."""
    how = "in a row" if frame.is_row else "side by side"
    return [f"×{frame.block.copies} {how}", *_call_lines(frame.block, names)]


# ---- scissors


def _draw_scissors(
    dot: Any, folded: Folded, ids: Mapping[Box, str], scissors: Sequence[Scissors]
) -> None:
    """The cuts, and the edges that lead to them; what looks the same is drawn once."""
    cut_ids = _draw_cuts(dot, [cut for _, _, cut in scissors])
    edges: dict[tuple[str, str, str], None] = {}
    for box, slot, cut in scissors:
        several = len(folded.slots[box.nodes[0]]) > 1
        arrow = Arrow(None, slot if several else None)
        edges[ids[box], cut_ids[cut], _edge_label(arrow, cut)] = None
    for source, target, label in edges:
        dot.edge(source, target, label, **_STUB | _look("cut"))


def _draw_cuts(dot: Any, cuts: Sequence[Cut]) -> dict[Cut, str]:
    """A box for each line that cut, though it may have cut often; the ids of the boxes."""
    groups: dict[tuple[object, ...], list[Cut]] = {}
    for cut in dict.fromkeys(cuts):
        groups.setdefault((cut.source, cut.code, cut.operation.name), []).append(cut)
    ids: dict[Cut, str] = {}
    for number, group in enumerate(groups.values()):
        cut, cut_id = group[0], f"cut{number}"
        ids |= dict.fromkeys(group, cut_id)
        text = cut.source.text if cut.source and cut.source.text else cut.operation.called
        where = f"{cut.source.short}: " if cut.source else ""
        dot.node(
            cut_id,
            _label([text, *([f"×{len(group)}"] if len(group) > 1 else [])]),
            tooltip=_tooltip(f"{where}{cut.code}: {cut.message}"),
            **_look("cut"),
        )
    return ids


def _cut_in_a_word(cut: Cut) -> str:
    """What cut: a mode without gradients, or the function."""
    modes = {"no-grad": "no_grad", "inference-mode": "inference_mode"}
    return modes.get(cut.code, one_line(cut.operation.name.strip("_"), _WIDTH))


# ---- text in DOT


def _label(lines: Iterable[str], rows: Iterable[Row] = ()) -> str:
    """The lines of a box, each no wider than a box, and below them its numbers."""
    lines = [one_line(line, _WIDTH) for line in lines]
    for word, number in rows:
        mark = MARK if word.startswith("gradient") else ""
        lines += [mark + line for line in _broken(word, number)]
    return _escaped(*lines)


def _broken(words: str, number: str) -> list[str]:
    """What a number is and the number, in lines that fit a box; a row of a matrix is one."""
    line = f"{words} {number}".strip()
    if len(line) <= _NUMBERS:
        return [line]
    rows = re.split(r"(?<=\],) ", number)
    return [words] * bool(words) + [line for row in rows for line in wrap(row, _NUMBERS)]


def _tooltip(text: str) -> str:
    """One long line, in which a backslash is doubled, since Graphviz reads escapes twice here."""
    return _escaped(one_line(text, 10_100).replace("\\", r"\\"))


def _escaped(*lines: str) -> str:
    """Lines as a DOT label, in which a backslash, ``&`` or ``<`` has no meaning of its own."""
    import graphviz

    text = "\n".join(lines).replace("&", "&amp;").replace("\\", r"\\").replace("\n", r"\n")
    label: str = graphviz.nohtml(text)
    return label
