"""A drawing in sentences, for those who cannot see it, and words that its boxes share with them.

A small graph is told box by box and arrow by arrow; a large one is summed up. Then follows what is
in each block, and each place where the graph was cut.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch

from companion.drawing.boxes import Arrow, Box, Folded, Frame, around
from companion.drawing.numbers import Numbers
from companion.drawing.shortening import shortened
from companion.forward.cuts import Cut
from companion.graph.nodes import GraphNode, shape_as_text
from companion.graph.saved import SavedTensor
from companion.internals import metadata_of
from companion.naming import counted, one_line

Saved = Mapping[int, Sequence[SavedTensor]]  # by the index of the Node

_FEW = 6  # of many things, those that are named
_MOST = 15  # boxes of a graph that is told arrow by arrow; cuts that are told


def alt_of(
    folded: Folded,
    saved: Saved,
    numbers: Numbers,
    cuts: Sequence[Cut] = (),
    shapes: bool = False,
) -> str:
    """The sentences for a graph."""
    names = names_of(folded)
    if len(folded.boxes) > _MOST:
        sentences = _summary(folded, names, numbers)
    else:
        sentences = _arrow_by_arrow(folded, names, saved, numbers, shapes)
    frames = [_frame(folded, frame, names) for frame in folded.frames]
    return " ".join([*sentences, *frames, *_insides(folded, names), *_cut_sentences(cuts)])


def alt_without_graph(output: torch.Tensor, cuts: Sequence[Cut]) -> str:
    """The sentences for an output that has no graph because of some cuts."""
    return " ".join([f"Output {shape_as_text(output)} without grad_fn.", *_cut_sentences(cuts)])


# ---- what boxes and sentences share


def given_name(node: GraphNode) -> str:
    """The name of the tensor that a Node stands for; "" where none is known."""
    return "" if node.label == node.name else node.label


def saved_in(box: Box, saved: Saved) -> Sequence[SavedTensor]:
    """The tensors to list of a box; of a block none."""
    return () if box.is_block else saved.get(box.nodes[0], ())


def names_in(folded: Folded) -> list[str]:
    """The names of tensors and the paths of modules that a drawing shows."""
    names = [given_name(folded.node(box)) for box in folded.boxes if not box.is_block]
    blocks = [*(box for box in folded.boxes if box.is_block), *(f.block for f in folded.frames)]
    calls = [call.path for block in blocks for call in (block.call, block.last_call) if call]
    return [*filter(None, names), *calls]


def copies_in(frame: Frame) -> str:
    """What a frame stands for."""
    block = frame.block
    what = one_line(block.call.kind, 40) if block.call else counted(len(block.first_copy), "node")
    how = "each leads to the next" if frame.is_row else "side by side"
    return f"one of {block.copies} copies of {what}, {how}"


def shape_along(folded: Folded, arrow: Arrow) -> str:
    """The shape of what travels along an arrow; "" where its edges differ, or it ends in None."""
    shapes = set[str]()
    for edge in arrow.edges:
        node = folded.graph.nodes[edge.target]
        value = node if node.is_leaf else metadata_of(node.grad_fn, edge.input_nr)
        shapes.add(shape_as_text(value))
    return shapes.pop() if len(shapes) == 1 else ""


def leaves_of(box: Box) -> str:
    """How many leaves are in a block."""
    return counted(len(box.leaves), "leaf", "leaves")


def inside(folded: Folded, box: Box, most: int | None = None) -> str:
    """What is in a block: all of it, or only the ``most`` frequent kinds."""
    nodes = folded.graph.nodes
    kinds = Counter(one_line(nodes[i].name, 40) for i in box.first_copy)
    content = _few([name if n == 1 else f"{n} {name}" for name, n in kinds.most_common()], most)
    if box.copies > 1:
        content = f"{box.copies} × ({content})"
    if box.call:
        content = f"{one_line(box.call.kind, 40)}, {content}"
    if box.nones:
        content += f"; {box.nones} × None"
    if box.leaves:
        content += f"; {leaves_of(box)}"
    return content if most is not None else content + _names_inside(folded, box)


def _names_inside(folded: Folded, box: Box) -> str:
    """The names of the leaves in a block, and the modules that made its Nodes."""
    nodes = folded.graph.nodes
    leaves = shortened([name for i in box.leaves if (name := given_name(nodes[i]))], 40).values()
    modules = dict.fromkeys(path for i in box.nodes if (path := nodes[i].module))
    return (f": {', '.join(leaves)}" if leaves else "") + (
        f"; made in {', '.join(modules)}" if modules else ""
    )


def names_of(folded: Folded) -> dict[Box, str]:
    """A name for each box; boxes that would share one are told apart by a number."""
    short = shortened(names_in(folded), 40)
    shared = {box: _name(folded, box, short) for box in folded.boxes}
    boxes, numbers, names = Counter(shared.values()), Counter[str](), dict[Box, str]()
    for box, name in shared.items():
        numbers[name] += not box.is_further_use
        names[box] = f"{name} #{numbers[name]}" if boxes[name] > 1 and not box.use else name
    return names


def name_of_kind(node: GraphNode) -> str:
    """The class of a Node, and that it is a custom Function's."""
    return ("custom Function " if node.is_custom else "") + one_line(node.name, 40)


def ends_of(folded: Folded, box: Box, names: Mapping[Box, str], shapes: bool = False) -> list[str]:
    """Where each arrow from a box leads, in words, perhaps with the shape of what travels along."""
    return [
        _end(arrow, names, shape_along(folded, arrow) if shapes else "")
        for arrow in folded.arrows(box)
    ]


def _name(folded: Folded, box: Box, short: Mapping[str, str]) -> str:
    """What a box is called, which others may share."""
    node = folded.node(box)
    if not box.is_block:
        name = short.get(given_name(node), "")
        if node.is_leaf:
            return " ".join(filter(None, ("leaf", name, shape_as_text(node))))
        return name_of_kind(node) + (f" ({name})" if name else "")
    if box.is_outside:
        return f"outside, {box.kind}"
    words = ["the rest" if box.kind == "rest" else "block"]
    if box.call:
        words.append(short[box.call.path])
    if box.copies > 1:
        words.append(f"×{box.copies}")
    if not box.call:
        each = len(box.first_copy)
        words.append(f"of {each} nodes" if each > 1 else f"of {one_line(node.name, 40)}")
    return " ".join(words)


# ---- the sentences


def _start(folded: Folded) -> str:
    """How every drawing of a graph begins."""
    start = f"Backward graph with {counted(len(folded.graph), 'node')}"
    is_folded = any(box.is_block or box.frame for box in folded.boxes)
    return f"{start}, drawn as {len(folded.boxes)}" if is_folded else start


def _summary(folded: Folded, names: Mapping[Box, str], numbers: Numbers) -> Iterator[str]:
    """A large graph: how many Nodes of which kinds, its roots and its leaves."""
    kinds = Counter(one_line(node.name, 40) for node in folded.graph.nodes)
    yield f"{_start(folded)}: {_few([f'{n} {name}' for name, n in kinds.most_common()])}."
    roots = {names[box]: box for box in folded.boxes if folded.is_root(box)}
    yield f"Root {_few(roots)}."
    leaves = {names[box]: box for box in folded.boxes if folded.node(box).is_leaf}
    if leaves:
        yield f"It ends at {_few(leaves)}."
    for name, box in [*roots.items()][:_FEW] + [*leaves.items()][:_FEW]:
        yield from _numbers(name, folded, box, numbers)
    heavy = [b for b in folded.boxes if b in numbers.heavy and not folded.is_root(b)]
    if heavy:
        kept = [f"{names[box]} with {' '.join(numbers.memory[box][0])}" for box in heavy]
        yield f"Most is kept by {_few(kept)}."


def _arrow_by_arrow(
    folded: Folded, names: Mapping[Box, str], saved: Saved, numbers: Numbers, shapes: bool
) -> Iterator[str]:
    """A small graph: of each box where it leads, its numbers, and what it saved."""
    yield f"{_start(folded)}."
    for box in folded.boxes:
        root = "Root " if folded.is_root(box) else ""
        ends = ends_of(folded, box, names, shapes)
        if ends:
            yield f"{root}{names[box]} leads to {' and '.join(ends)}."
        elif root and not box.is_further_use:
            yield f"Root {names[box]}."
        if not box.is_further_use:
            yield from _numbers("It" if ends or root else names[box], folded, box, numbers)
        by_state: dict[str, list[str]] = {}
        for tensor in saved_in(box, saved):
            by_state.setdefault(tensor.state, []).append(tensor.name)
        for state, tensors in by_state.items():
            now = "" if state == "kept" else f", now {state}"
            yield f"{names[box]} saved {' and '.join(tensors)}{now}."


def _numbers(name: str, folded: Folded, box: Box, numbers: Numbers) -> Iterator[str]:
    """The value of a box, its gradient, and what it sent, in the order of its arrows."""
    has = [f"{word} {number}" for word, number in numbers.of(box)]
    sent = [number for arrow in folded.arrows(box) if (number := numbers.along(box, arrow))]
    both = {"has": has, "sends": sent}
    phrases = [f"{verb} {' and '.join(words)}" for verb, words in both.items() if words]
    if phrases:
        yield f"{name[0].upper()}{name[1:]} {', and '.join(phrases)}."


def _end(arrow: Arrow, names: Mapping[Box, str], shape: str) -> str:
    """Where an arrow leads."""
    if arrow.target is None:
        return "None" if arrow.slot is None else f"None at slot {arrow.slot}"
    output = f"output {arrow.input_nr} of " if arrow.input_nr > 0 else ""
    edges = f" ({len(arrow.edges)} edges)" if len(arrow.edges) > 1 else ""
    along = f" along {shape}" if shape else ""
    return f"{output}{names[arrow.target]}{edges}{along}"


def _frame(folded: Folded, frame: Frame, names: Mapping[Box, str]) -> str:
    """What stands in a frame, and for what."""
    boxes = [names[b] for b in folded.boxes if frame in around(b.frame) and not b.is_further_use]
    return f"A frame shows {copies_in(frame)}: {_few(boxes)}."


def _insides(folded: Folded, names: Mapping[Box, str]) -> list[str]:
    """What is in the blocks; equal ones are described once."""
    described: dict[str, list[str]] = {}
    for box in folded.boxes:
        if box.is_block:
            described.setdefault(inside(folded, box, 6), []).append(names[box])
    return [f"In {_few(blocks)}: {content}." for content, blocks in described.items()]


def _cut_sentences(cuts: Sequence[Cut]) -> list[str]:
    """Each place where the graph was cut, once."""
    where = [
        one_line((cut.source and cut.source.short) or cut.operation.called, 80) for cut in cuts
    ]
    pairs = zip(where, cuts, strict=True)
    sentences = list(dict.fromkeys(f"Cut at {line}: {cut.message}." for line, cut in pairs))
    more = len(sentences) - _MOST
    return [*sentences[:_MOST], *([f"And {more} more cuts."] if more > 0 else [])]


def _few(words: Iterable[str], most: int | None = _FEW) -> str:
    """The first of the words, and how many more there are; all of them where ``most`` is None."""
    words = list(words)
    more = 0 if most is None else len(words) - most
    return ", ".join(words[:most]) + (f" and {more} more" if more > 0 else "")
