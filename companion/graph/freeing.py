"""Fuses: a graph whose Nodes have been looked at is freed without deep recursion.

Torch frees a graph in a loop. Since torch 2.13 the loop ends at the first Node for which there is a
Python object: from there on each Node is freed inside the freeing of the one above, and a graph of
some 40,000 levels overflows the stack (2,000 in a thread of 512 KiB). A walk makes such an object
for each Node that it meets, so a walk also leaves fuses behind.

A fuse lies in the ``metadata`` of a Node and holds the Nodes below. Torch drops the ``metadata``
after the edges. So when the Node is freed, the Nodes below outlive it, and the fuse hands them to
the fuse that went off first in this thread, further up on the stack, which frees them one after
the other. CPython keeps its own nested containers from overflowing in the same way ("trashcan").
It works wherever the fuses lie, and in whatever order tensors and Graphs are dropped.
"""

from __future__ import annotations

import threading
from typing import Any

_KEY = "fuse of companion: keep it, or freeing this graph may overflow the stack"
_freeing = threading.local()  # .waiting: what the first fuse that went off here has yet to free

# So many Nodes may be freed inside one another, at some 210 bytes of stack each. A walk leaves the
# fuses as it goes, so that it is safe to interrupt, and begins after this many Nodes.
SHALLOW = 1000

# Where a breadth-first walk leaves fuses. An edge leads one level down, to a Node of its own level,
# or back up. A fuse cuts each edge into every 32nd level; and of the edges that do not lead down,
# each that leaves its row of 16 Nodes. So a path without a fuse has at most 2 * 32 * 16 edges, and
# mostly 32.
BAND, ROW = 32, 16


class _Fuse(list[Any]):
    """Holds the Nodes below a Node until the Node itself is gone."""

    __slots__ = ()

    def __del__(self) -> None:
        waiting = getattr(_freeing, "waiting", None)
        if waiting is not None:
            waiting += self
            self.clear()
            return
        waiting = self.copy()
        self.clear()
        _freeing.waiting = waiting  # and no call from here to try, at which Ctrl-C could strike
        try:
            while waiting:
                waiting.pop()  # frees what nobody else holds; fuses that go off append to the list
        finally:
            del _freeing.waiting


def is_fuse(value: object) -> bool:
    """Whether it is a fuse, which keeps no Node for longer than the Node above it."""
    return type(value) is _Fuse


def fuse(node: Any) -> None:
    """Leave a fuse on a Node, unless it has one or leads nowhere."""
    slots = node.next_functions
    if slots and _KEY not in node.metadata:
        node.metadata[_KEY] = _Fuse([below for below, _ in slots])
