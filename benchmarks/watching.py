"""What it costs to watch a forward pass: ``python -m benchmarks.watching``.

Told as ratios, measured in one run side by side, each the least of many: the rest of a time is what
else the machine did. The bound is 8.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import torch
from torch import nn

from companion import watch

BOUND = 8.0


def small_operations() -> torch.Tensor:
    """2,000 operations on a number, which take as little as an operation can."""
    y = torch.ones((), requires_grad=True)
    for _ in range(2000):
        y = y * 1.0001
    return y


def mixed_operations() -> torch.Tensor:
    """2,000 operations on 8 numbers, of two inputs or one; a third of them make a view."""
    y, w = torch.ones(8, requires_grad=True), torch.ones(8, requires_grad=True)
    for _ in range(333):
        y = (y * w + 1).tanh() - w
        y = y.view(2, 4).view(8)
    return y


def encoder() -> Callable[[], torch.Tensor]:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    model = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)
    x = torch.randn(2, 16, 64)
    return lambda: model(x).sum()


def ratio(forward: Callable[[], object], times: int) -> tuple[float, int]:
    """The time of a watched forward pass by that of a plain one, and how many operations it has."""
    plain, watched_times, operations = list[float](), list[float](), 0
    for _ in range(times):
        start = time.perf_counter()
        forward()
        plain.append(time.perf_counter() - start)
        start = time.perf_counter()
        with watch() as watched:
            forward()
        watched_times.append(time.perf_counter() - start)
        operations = len(watched.operations)
    return min(watched_times) / min(plain), operations


def watching_table() -> Iterator[str]:
    yield "| forward pass | operations | watched / plain |"
    yield "|---|---|---|"
    for name, forward in (
        ("products of a number", small_operations),
        ("small operations, a third of them views", mixed_operations),
        ("encoder of 12 layers", encoder()),
    ):
        found, operations = ratio(forward, 50)
        yield f"| {name} | {operations:,} | {found:.1f} |"


def report() -> str:
    return "\n".join(["### Watching a forward pass", "", *watching_table()])


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.manual_seed(0)
    print(report())
    least, _ = ratio(small_operations, 50)
    if least > BOUND:
        raise SystemExit(f"the bound is {BOUND}, and it took {least:.1f} times as long")
