"""Loops over parts of one tensor, whose backward pass costs the whole tensor for each part."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from math import prod

from companion.diagnosis.case import Case
from companion.findings import Finding, finding
from companion.graph.nodes import GraphNode, shape_or_none


def about_slow_slices(case: Case) -> Iterator[Finding]:
    """One finding for each tensor that many Nodes read a part of, or write one into."""
    for readers in _readers(case):
        edge = case.slots(readers[0].index)[0]
        if len(readers) >= _MANY and edge:
            whole, parts = _size(case.nodes[edge.target]), sum(map(_size, readers))
            if parts * _MUCH <= whole * len(readers):
                reads = "reads a part of one tensor, and sends zeros as large as the whole"
                yield _found(case, readers, reads, whole)
    for writers in _writers(case):
        if len(writers) >= _MANY:
            writes = "writes a part of one tensor, and copies the gradient of the whole"
            yield _found(case, writers, writes, _size(writers[0]))
    for grown in _grown(case):
        whole, total = _size(grown[0]), sum(map(_size, grown))
        if len(grown) >= _MANY and total >= whole * _MUCH:
            count, name = len(grown), grown[0].name
            message = f"each of {count} {name} copies a tensor that grows by a part: "
            message += f"{total:,} numbers for a result of {whole:,}, which is slow"
            at = case.at(grown[0].index)
            yield finding("slow-slices", message, variant="growing", **at)


_MANY = 50  # parts of one tensor that are told
_MUCH = 8  # how many times as large as a part the whole is, to be told


def _found(case: Case, nodes: Sequence[GraphNode], what: str, whole: int) -> Finding:
    first, count = nodes[0], len(nodes)
    message = f"each of {count} {first.name} {what}: {count} times {whole:,} numbers, which is slow"
    return finding("slow-slices", message, **case.at(first.index))


def _size(node: GraphNode) -> int:
    return prod(shape_or_none(node) or ())


def _readers(case: Case) -> Iterator[Sequence[GraphNode]]:
    """The Nodes that read a part, those of one tensor together."""
    readers = defaultdict[tuple[int, int], list[GraphNode]](list)
    for node, _ in case.of(_READING):
        if edge := case.slots(node.index)[0]:
            readers[edge.target, edge.input_nr].append(node)
    yield from readers.values()


def _writers(case: Case) -> Iterator[Sequence[GraphNode]]:
    """The Nodes that write a part, those that write into one tensor after another together."""
    last_writer = dict[int, int]()  # by Node: of the writers of its tensor the last
    writers = defaultdict[int, list[GraphNode]](list)
    for node, _ in case.of(_WRITING):
        last = last_writer.get(node.index, node.index)
        writers[last].append(node)
        if before := case.slots(node.index)[0]:
            last_writer.setdefault(before.target, last)
    yield from writers.values()


def _grown(case: Case) -> Iterator[Sequence[GraphNode]]:
    """The Nodes of ``cat`` that took what another had given, the last to run first."""
    nodes = {node.index: node for node, _ in case.of({"Cat"})}
    last = dict[int, int]()  # by Node: of those that grew its tensor the last
    grown = defaultdict[int, list[GraphNode]](list)
    for index, node in nodes.items():
        chain = last.get(index, index)
        grown[chain].append(node)
        before = [edge.target for edge in case.slots(index) if edge and edge.target in nodes]
        for target in before[:1]:
            last.setdefault(target, chain)
    yield from grown.values()


_READING = set("Diagonal Embedding Gather Index IndexSelect MaskedSelect Select Slice Take".split())
_WRITING = set("CopySlices IndexCopy IndexPut Scatter SelectScatter SliceScatter".split())
