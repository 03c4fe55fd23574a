"""What an earlier backward pass freed: all of the graph, a part of it, or the parts of a sum."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator

from companion.diagnosis.case import Case
from companion.diagnosis.derivatives_yaml import operation_of
from companion.diagnosis.paths import below, shortly_listed
from companion.findings import Finding, finding
from companion.forward.tracing import source_of
from companion.graph.nodes import shape_or_none
from companion.graph.reading import Graph


def about_earlier_passes(case: Case) -> Iterator[Finding]:
    """One finding for all Nodes that have freed what they saved."""
    freed = [node.index for node, saved in case.nodes_and_peeks if "freed" in saved.broken.values()]
    if case.graph is None or not freed:
        return
    under = below(case.graph, set(freed))
    top = [index for index in freed if index not in under]
    first, count = min(top), len(freed)
    nodes = "a Node has freed what it" if count == 1 else f"{count} Nodes have freed what they"
    message = f"{nodes} saved: an earlier backward pass ran here"
    terms = _terms_alike(case.graph, set(freed))
    kept = [node for node, saved in case.nodes_and_peeks if any(saved.tensors)]
    if len(terms) >= _MANY:
        message = f"the output holds the graphs of {len(terms)} forward passes, and {message}"
        yield finding("freed", message, variant="sum", **case.at(first))
        grows = f"a sum keeps the graphs of {len(terms)} forward passes, and grows with each"
        yield finding("growing-graph", grows, **case.at(terms[0]))
    elif grads := [cut for cut in case.cuts_reaching if cut.code == "penalty-detached"]:
        at = case.at(first)
        where = f"{at['where']}; freed at {grads[0].source}"
        at |= {"where": where, "source": grads[0].source}
        message += ", by torch.autograd.grad without create_graph=True"
        yield finding("freed", message, variant="grad", **at)
    elif any(node.index not in under for node in kept):
        yield finding("freed", message + _part(case, top, under), variant="part", **case.at(first))
    else:
        yield finding("freed", message, **case.at(first))


_MANY = 3  # terms of a sum that are told as the graphs of so many steps


def _part(case: Case, top: list[int], under: set[int]) -> str:
    """Which part of the graph was not computed anew: the end of a sentence."""
    names = " and ".join(dict.fromkeys(case.nodes[index].name for index in top[:2]))
    nodes = [case.nodes[index].grad_fn for index in top]
    is_older = case.watch and not any(source_of(case.watch, node) for node in nodes)
    early = ", before the watched block," if is_older else ""
    leaves = [given.name.partition(",")[0] for given in case.inputs if given.node in under]
    to = f", and leads to {shortly_listed(leaves)}" if leaves else ""
    return f"; {names} was computed earlier{early} and kept{to}"


def _terms_alike(graph: Graph, freed: set[int]) -> list[int]:
    """The terms of the sum that the output is, as far as they were run apart on the same leaves.

    Such are the losses of several steps. Each is one number and has freed Nodes of its own, and of
    two terms that share a Node other than a leaf neither counts.
    """
    owner, shared, ran = dict[int, int](), set[int](), Counter[int]()
    leaves = dict[int, set[int]]()
    for term in _terms(graph):
        leaves[term] = set()
        waiting = [term]
        for index in waiting:  # the list grows
            if graph.nodes[index].is_leaf:
                leaves[term].add(index)
                continue
            if index in owner:
                if owner[index] != term:
                    shared |= {owner[index], term}
                continue
            owner[index] = term
            ran[term] += index in freed
            waiting += [edge.target for edge in graph.slots(index) if edge]
    alone = [term for term in leaves if term not in shared and ran[term]]
    kinds = Counter(frozenset(leaves[term]) for term in alone)
    most = kinds.most_common(1)[0][0] if kinds else frozenset()
    return [term for term in alone if leaves[term] == most]


def _terms(graph: Graph) -> list[int]:
    """The Nodes below the root that are not themselves sums; of what is added, single numbers."""
    seen, terms, waiting = {0}, list[int](), [0]
    for index in waiting:  # the list grows
        if operation_of(graph.nodes[index].name) not in _SUMS:
            terms.append(index)
            continue
        targets = list(dict.fromkeys(edge.target for edge in graph.slots(index) if edge))
        if len(targets) > 1:
            targets = [i for i in targets if math.prod(shape_or_none(graph.nodes[i]) or ()) == 1]
        waiting += [target for target in targets if target not in seen]
        seen.update(targets)
    return terms


# The operations that put the losses of several steps together, or scale what they made.
_SUMS = set("Add Cat Div Mean Mul Stack Sum Unsqueeze View".split())
