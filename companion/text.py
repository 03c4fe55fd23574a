"""The graph below a Node, printed."""

from __future__ import annotations

import sys

from companion.graph import Node, read


def walk_grad_fn(fn: Node, max_depth: int = 50) -> None:
    """Print the graph below a Node, one line for each entry of each ``next_functions``.

    Each line says which entry of ``next_functions`` it is, and which Node the entry leads to. A
    leaf is followed by the caller's variable that refers to it, where there is one that does not
    begin with an underscore. A Node that stands further up, with as much below it as the limit
    would show here, is marked ``(already seen)``. An edge that enters another output than the first
    says which.

    The walk is a loop, so no depth is too much for it.

    Args:
        fn: a Node, such as ``loss.grad_fn``, or a tensor of any shape that requires grad.
        max_depth: how many levels to print below the first line. Where there is more,
            ``... (max depth reached)`` stands in its place, and the last line says how many Nodes
            are not shown.

    Raises:
        ValueError: ``fn`` is None or a tensor that does not require grad, or ``max_depth`` is
            negative.
        TypeError: ``fn`` is neither a Node nor a tensor, or ``max_depth`` is not an int.

    Examples:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> walk_grad_fn((x * x).sum().grad_fn)
        SumBackward0
          input[0] → MulBackward0
            input[0] → AccumulateGrad (x)
            input[1] → AccumulateGrad (x) (already seen)
        >>> walk_grad_fn((x * x).sum(), max_depth=1)
        SumBackward0
          input[0] → MulBackward0
            ... (max depth reached)
        (1 of 3 nodes is not shown: max_depth=1)
    """
    print(read([fn], None, sys._getframe(1)).text(max_depth))
