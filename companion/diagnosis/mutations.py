"""What was changed behind autograd's back after a Node of the graph, or a checkpoint, saved it."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator

from companion.diagnosis.case import Case
from companion.diagnosis.risks import RUNNING
from companion.findings import Finding, finding
from companion.forward.recomputed import changes_before_recomputing
from companion.graph.saved import Peek
from companion.internals import address_of, has_memory, number_of, parts_of
from companion.source import Source


def about_mutations(case: Case) -> Iterator[Finding]:
    """Those changes that a formula of this graph will compute with."""
    mutations = case.watch.mutations if case.watch else ()
    numbers = _saved_at(case) if mutations else {}
    names = _names_of_inputs(case) if mutations else {}
    found = dict[tuple[Source | None, str], list[str]]()
    for mutation in mutations:
        saved_at = numbers.get(mutation.storage.cdata, [])
        if any(mutation.number is None or number < mutation.number for number in saved_at):
            key = mutation.source, _TENSOR.sub("tensors", mutation.message)
            name = names.get(mutation.storage.cdata)
            message = mutation.message.replace("a tensor", name, 1) if name else mutation.message
            found.setdefault(key, []).append(message)
    for (source, of_all), messages in found.items():
        message = messages[0] if len(messages) == 1 else _of_many(of_all, len(messages))
        yield finding("changed-behind", message, source=source)


_TENSOR = re.compile(r"a tensor of shape .* and dtype \w+")


def about_recomputing(case: Case) -> Iterator[Finding]:
    """What a checkpoint will compute from other values than the forward pass did."""
    if case.watch is None or not any(saved.hooked for saved in case.peeks):
        return
    for operation in changes_before_recomputing(case.watch):
        message = (
            f"{operation.called} changes a tensor from outside of the checkpoint that it runs in, "
            "which computes with it again in the backward pass: that may raise, or the gradients "
            "may be silently wrong"
        )
        yield finding("changed-behind", message, variant="recomputed", source=operation.source)


def _of_many(message: str, count: int) -> str:
    """A message for all tensors that one line changed, as a loop over parameters does."""
    message = message.replace("tensors", f"{count} tensors", 1).replace(
        "tensors was", "tensors were"
    )
    return message.replace("its gradients", "their gradients")


def _saved_at(case: Case) -> dict[int, list[int]]:
    """By storage, the numbers of the Nodes that saved a tensor in it."""
    numbers = defaultdict[int, list[int]](list)
    for node, saved in case.nodes_and_peeks:
        for name, tensor in saved.tensors:
            if not _is_unread(saved, name):
                for part in filter(has_memory, parts_of(tensor)):  # FSDP brings the others back
                    numbers[address_of(part.untyped_storage())].append(number_of(node.grad_fn))
    return numbers


def _names_of_inputs(case: Case) -> dict[int, str]:
    """By storage, the name of the input in it."""
    named = [(part, given.name) for given in case.inputs for part in parts_of(given.tensor)]
    with_memory = [(t, name.partition(",")[0]) for t, name in named if has_memory(t)]
    return {address_of(tensor.untyped_storage()): name for tensor, name in with_memory}


def _is_unread(saved: Peek, name: str) -> bool:
    return name in RUNNING and saved.values.get("training") is True
