"""A Graph becomes DOT, the language of Graphviz: what is in a box, and what stands at an arrow.

One picture language everywhere: a root is above all that it leads to, and the arrows run along
``next_functions``, the way the gradient flows. Shape and words tell the kinds apart: an operation
is a rounded box; a leaf is a double box that says ``leaf``; a custom Function is a hexagon that
says so; the root says ``root``; an entry of ``next_functions`` that is None is a short dashed stub
to a dot, or to the scissors of a cut. Several Nodes drawn as one are a block that says how many
they are. With numbers, a box has its value and below it its gradient, and what leaves it along an
edge stands in a pill on the edge. Colours repeat all that, and course.css has them for a dark page.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from textwrap import wrap
from typing import Any, NamedTuple

import torch

from companion.drawing.folding import Arrow, Box, Folded
from companion.drawing.numbers import Numbers, Row
from companion.drawing.words import Saved, counted, given_name, inside, leaves_of
from companion.forward.cuts import Cut
from companion.forward.tracing import cuts_into
from companion.forward.watching import Watch
from companion.graph.nodes import GraphNode, shape_as_text
from companion.graph.saved import SavedTensor
from companion.naming import one_line

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
    "output": {"style": "rounded,filled"},
    "root": {"penwidth": "2", "fillcolor": "#dde9fb"},
    "none": {"shape": "point", "width": "0.07"},
    "cut": {"style": "dashed", "fontcolor": "black"},
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
_QUICK = {"splines": "line", "nslimit": "1", "nslimit1": "5"}


def dot_of(
    folded: Folded,
    saved: Saved,
    numbers: Numbers,
    tags: Mapping[int, str] | None = None,
    scissors: Sequence[Scissors] = (),
) -> str:
    """A graph in DOT.

    Args:
        folded: the boxes and edges of the graph.
        saved: for some Nodes the tensors to list in their boxes.
        numbers: the numbers to show, if any.
        tags: for some Nodes one more line of text. Then Nodes and edges also have classes by which
            a script finds them, as ``tagged`` says.
        scissors: the cuts to show.
    """

    def mark(name: str) -> list[str]:
        return [] if tags is None else [name]

    dot = _digraph(len(folded.boxes), pills=bool(numbers.sent))
    ids = {box: str(number) for number, box in enumerate(folded.boxes)}
    for box, box_id in ids.items():
        dot.node(
            box_id,
            _label(_lines(folded, box, saved, tags or {}), numbers.of(box)),
            tooltip=_tooltip(_hover(folded, box, saved, numbers)),
            **_look(*_classes(folded, box), *mark(f"n{box.nodes[0]}")),
        )
    _draw_scissors(dot, folded, ids, scissors)
    cut_off = {(box, slot) for box, slot, _ in scissors}
    for box, box_id in ids.items():
        for arrow in folded.arrows(box):
            slot = arrow.slot or 0
            look = _look(*mark(f"e{box.nodes[0]}-{slot}"))
            if arrow.target is not None and (number := numbers.along(box, arrow)):
                pill = f"{box_id}.{slot}"
                dot.node(pill, _pill(arrow, number), tooltip=" ", **_look("pill"))
                dot.edge(box_id, pill, arrowhead="none")
                dot.edge(pill, ids[arrow.target])
            elif arrow.target is not None:
                dot.edge(box_id, ids[arrow.target], _edge_label(arrow) or None, **look)
            elif (box, slot) not in cut_off:
                stub = f"{box_id}.{slot}"
                dot.node(stub, "", tooltip=" ", **_look("none", *mark(f"n{box.nodes[0]}")))
                dot.edge(box_id, stub, _edge_label(arrow), **_STUB | look)
    return str(dot.source)


def dot_without_graph(output: torch.Tensor, cuts: Sequence[Cut]) -> str:
    """The box of an output that has no graph, and the cuts that made it so."""
    dot = _digraph(len(cuts))
    words = _escaped("output", "no grad_fn", _shape_and_dtype(output))
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
        graph_attr={"nodesep": "0.3", "ranksep": "0.25" if pills else "0.35"}
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


def _classes(folded: Folded, box: Box) -> list[str]:
    """What a box is."""
    node = folded.node(box)
    if box.is_block:
        kind = "folded"
    elif node.is_leaf:
        kind = "leaf"
    else:
        kind = "custom" if node.is_custom else "operation"
    return [kind, "root"] if folded.is_root(box) else [kind]


def _lines(folded: Folded, box: Box, saved: Saved, tags: Mapping[int, str]) -> list[str]:
    """The lines in a box, from the top."""
    index = box.nodes[0]
    lines = ["root"] if folded.is_root(box) else []
    lines += _block_lines(folded, box) if box.is_block else _node_lines(folded.node(box))
    if box.use:
        lines.append(_use(box.use))
    for tensor in saved.get(index, ()):
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
    for tensor in saved.get(box.nodes[0], ()):
        shape = f" {shape_as_text(tensor)}" if tensor.shape else ""
        parts.append(f"{_state(tensor)}: {tensor.name}{shape}")
    parts += [f"{word} {number}" for word, number in numbers.of(box)]
    return ", ".join(parts)


def _edge_label(arrow: Arrow, cut: Cut | None = None) -> str:
    """What stands at an edge, with room for the bend of the arrow where the text is long."""
    text = _edge_text(arrow, cut)
    room = "  " if len(text) > _SHORT else ""
    return f" {room}{text}{room}" if text else ""


def _edge_text(arrow: Arrow, cut: Cut | None = None) -> str:
    """The slot of an edge where there are several, and how it differs from most."""
    words = [] if arrow.slot is None else [f"[{arrow.slot}]"]
    if arrow.target is None:
        return " ".join([*words, f"✂ {_cut_in_a_word(cut)}" if cut else "None"])
    if arrow.input_nr > 0:
        words.append(f"input_nr {arrow.input_nr}")
    if arrow.edges > 1:
        words.append(f"×{arrow.edges}")
    return " ".join(words)


def _pill(arrow: Arrow, number: str) -> str:
    """What stands in the pill of an edge: what an edge says anyway, and the gradient."""
    words = _edge_text(arrow) + (":" if arrow.input_nr else "")
    return _escaped(*_broken(words and f"{words}{MARK}", number))


def _node_lines(node: GraphNode) -> list[str]:
    """What a box of one Node says."""
    name = given_name(node)
    if node.is_leaf:
        leaf = f"leaf {_end_of(name, _WIDTH - len('leaf '))}".rstrip()
        return [leaf, _shape_and_dtype(node)]
    custom = ["custom Function"] if node.is_custom else []
    return [*custom, *_class_lines(node.name), *([name] if name else [])]


def _node_hover(node: GraphNode) -> str:
    """The same without breaks, and what has no room in a box."""
    name, measures = given_name(node), _shape_and_dtype(node)
    if node.is_leaf:
        return f"{node.name} of the leaf {name}".rstrip() + f", {measures}"
    made = f"{node.name}, made {f'{name}, ' if name else ''}{measures}"
    return f"{made}, in the module {node.module}" if node.module else made


def _block_lines(folded: Folded, box: Box) -> list[str]:
    """What a box of several Nodes says."""
    lines = []
    if box.call:
        lines += [_end_of(box.call.path, _WIDTH), *_module_lines(box.call.kind)]
    each = len(box.first_copy)
    count = counted(each, "node")
    if box.kind == "copies":
        alike = _class_lines(folded.node(box).name) if each == 1 else [f"{count} each"]
        lines += [f"×{box.copies}", *alike]
    else:
        start = {"module": "", "chain": "chain of ", "rest": "the rest: "}[box.kind]
        lines.append(f"{start}{count}")
    if box.leaves:
        lines.append(leaves_of(box))
    if box.nones:
        lines.append(f"{box.nones} × None")
    return lines


def _shape_and_dtype(value: GraphNode | torch.Tensor) -> str:
    return f"{shape_as_text(value)} {str(value.dtype).removeprefix('torch.')}"


def _use(use: tuple[int, int]) -> str:
    return "use {} of {}".format(*use)


def _state(tensor: SavedTensor) -> str:
    return "saved" if tensor.state == "kept" else tensor.state


def _end_of(path: str, width: int) -> str:
    """Of a path with dots its end, which tells more than its start."""
    return f"…{path[1 - width :]}" if "." in path and len(path) > width else path


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


# ---- scissors


class Scissors(NamedTuple):
    """Where a cut is drawn: at the box and slot that took its value."""

    box: Box
    slot: int | None  # None: the value has no slot
    cut: Cut


def scissors_of(folded: Folded, watch: Watch) -> list[Scissors]:
    """Where the operation of a Node took the value of a cut.

    Of an operation with several Nodes the one counts that has a slot for the value; or the first.
    """
    with_slot, without = list[Scissors](), dict[Cut, Scissors]()
    for box in folded.boxes:
        for i in box.nodes:
            for slot, cut in cuts_into(watch, folded.graph.nodes[i].grad_fn):
                scissors = Scissors(box, None if box.is_block else slot, cut)
                if slot is None:
                    without.setdefault(cut, scissors)
                else:
                    with_slot.append(scissors)
    for _, _, cut in with_slot:
        without.pop(cut, None)
    found = [*with_slot, *without.values()]
    cuts = set(harmful([scissors.cut for scissors in found]))
    return [scissors for scissors in found if scissors.cut in cuts]


def harmful(cuts: Sequence[Cut]) -> Sequence[Cut]:
    """Without comparisons, which are cut off as a rule, unless there is nothing else."""
    return [cut for cut in cuts if cut.code != "control-flow" and not _is_mask(cut)] or cuts


def _is_mask(cut: Cut) -> bool:
    return all(value.dtype is torch.bool for value in cut.operation.outputs)


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
