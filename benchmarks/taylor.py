"""What many derivatives cost, beside others that compute them: ``python -m benchmarks.taylor``.

A process for each peer, function and batch measures the peer and ``derivatives`` in turn, order
after order, until its time or memory is used up. ``derivatives`` gives all orders up to the last;
nested differentiation gives the last alone.
"""

from __future__ import annotations

import importlib.util
import math
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import nn

from companion import derivatives, nth_derivative

ORDERS = (1, 2, 4, 6, 8, 10, 12)
LIMIT = 20  # seconds for a process
MEMORY = 8  # GB for a process

Function = Callable[[Any], Any]
Method = Callable[[str, torch.Tensor, int], Callable[[], Any]]


# ---- what is differentiated, in torch and in jax


def network() -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(1, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)]
    return nn.Sequential(*layers).double().requires_grad_(False)


def in_torch(name: str) -> Function:
    net = network()
    return {
        "sigmoid²": lambda x: torch.sigmoid(x) ** 2,
        "sin · exp": lambda x: torch.sin(x) * torch.exp(x),
        "tanh network": lambda x: net(x.unsqueeze(-1)).squeeze(-1),
    }[name]


def in_jax(name: str) -> Function:
    import jax
    import jax.numpy as jnp

    layers = [
        (jnp.array(layer.weight.numpy()), jnp.array(layer.bias.numpy()))
        for layer in network()
        if isinstance(layer, nn.Linear)
    ]

    def net(x: Any) -> Any:
        y = x[..., None]
        for i, (weight, bias) in enumerate(layers):
            y = (jnp.tanh(y) if i else y) @ weight.T + bias
        return y[..., 0]

    return {
        "sigmoid²": lambda x: jax.nn.sigmoid(x) ** 2,
        "sin · exp": lambda x: jnp.sin(x) * jnp.exp(x),
        "tanh network": net,
    }[name]


FUNCTIONS = ["sigmoid²", "sin · exp", "tanh network"]


# ---- the peers: each returns a function that computes the derivative of an order, or all up to it


def nested(name: str, x: torch.Tensor, order: int) -> Callable[[], Any]:
    f = in_torch(name)

    def run() -> Any:
        leaf = x.clone().requires_grad_()
        return nth_derivative(f(leaf), leaf, order)

    return run


def nested_jvp(name: str, x: torch.Tensor, order: int) -> Callable[[], Any]:
    def derivative(f: Function) -> Function:
        return lambda x: torch.func.jvp(f, (x,), (torch.ones_like(x),))[1]

    f = in_torch(name)
    for _ in range(order):
        f = derivative(f)
    return lambda: f(x)


def jet_for_pytorch(name: str, x: torch.Tensor, order: int) -> Callable[[], Any]:
    from jet import jet

    f = jet(in_torch(name), (x,))
    start = (x, torch.ones_like(x), *[torch.zeros_like(x)] * (order - 1))
    return lambda: f(start)[order]


def jax_jet(name: str, x: torch.Tensor, order: int, compiled: bool = False) -> Callable[[], Any]:
    import jax

    jax.config.update("jax_enable_x64", True)
    from jax.experimental.jet import jet

    f, start = in_jax(name), jax.numpy.array(x.numpy())
    ones, zeros = jax.numpy.ones_like(start), jax.numpy.zeros_like(start)

    def all_orders(x: Any) -> list[Any]:
        value, series = jet(f, (x,), ([ones] + [zeros] * (order - 1),))
        return [value, *series]

    if not compiled:
        return lambda: jax.block_until_ready(all_orders(start))[order]
    run = jax.jit(lambda x: jax.numpy.stack(all_orders(x)))
    return lambda: run(start).block_until_ready()


def jitted_jax_jet(name: str, x: torch.Tensor, order: int) -> Callable[[], Any]:
    return jax_jet(name, x, order, compiled=True)


PEERS: dict[str, tuple[str, Method]] = {
    "`nth_derivative`": ("torch", nested),
    "nested `torch.func.jvp`": ("torch", nested_jvp),
    "jet-for-pytorch": ("jet", jet_for_pytorch),
    "jax jet": ("jax", jax_jet),
    "jax jet, jitted": ("jax", jitted_jax_jet),
}


# ---- one process


def compare(peer: str, name: str, batch: str, *orders: str) -> None:
    """Print, for each order: seconds of ``derivatives`` and of the peer, at first and then."""
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # a core for each, jax too
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY << 30, MEMORY << 30))
    x = torch.linspace(-1.5, 1.5, int(batch), dtype=torch.float64)
    f = in_torch(name)
    derivatives(torch.neg, x, 1)  # torch itself is slow at first
    for order in map(int, orders):
        start = time.perf_counter()
        expected = derivatives(f, x, order)[order]
        between = time.perf_counter()
        run = PEERS[peer][1](name, x, order)
        found = run()
        first = [between - start, time.perf_counter() - between]
        if not isinstance(found, torch.Tensor):
            found = torch.tensor(np.array(found))
        found = (found if found.dim() == 1 else found[order]).detach()
        if not (found - expected).abs().max() <= 1e-9 * expected.abs().max():
            raise ArithmeticError(f"{peer} finds another derivative of order {order}")
        then = in_turn(lambda order=order: derivatives(f, x, order), run)
        print(order, *first, *then, flush=True)
    os._exit(0)  # the largest graphs need not be freed


def in_turn(ours: Callable[[], Any], theirs: Callable[[], Any]) -> list[float]:
    """The medians of two functions, run in turn for half a second, once at least."""
    found: list[list[float]] = [[], []]
    end = time.perf_counter() + 0.5
    while not found[1] or time.perf_counter() < end:
        # Several of ours, since the first one after a large graph is slow.
        for run, times in zip((ours, ours, ours, theirs), found[:1] * 3 + found[1:], strict=True):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
    return [statistics.median(times) for times in found]


def measured(
    peer: str, name: str, batch: int, orders: Sequence[int] = ORDERS, **environment: str
) -> tuple[dict[int, list[float]], str]:
    """What ``compare`` prints for each order in a new process, and how that ended."""
    package, _ = PEERS[peer]
    if importlib.util.find_spec(package) is None:
        return {}, "not installed"
    command = [sys.executable, "-m", "benchmarks.taylor", peer, name, str(batch)]
    command += map(str, orders)
    try:
        done = subprocess.run(
            command,
            capture_output=True,
            text=True,
            timeout=LIMIT,
            env={**os.environ, **environment},
        )
        printed, end = done.stdout, ""
        if done.returncode:
            memory = "alloc" in done.stderr or "MemoryError" in done.stderr
            last = (done.stderr.strip() or "killed").splitlines()[-1].partition(":")[0]
            end = f"> {MEMORY} GB" if memory else last
    except subprocess.TimeoutExpired as stopped:
        output = stopped.stdout or b""
        printed = output.decode() if isinstance(output, bytes) else output
        end = f"> {LIMIT} s"
    rows = [line.split() for line in printed.splitlines(keepends=True) if line.endswith("\n")]
    return {int(order): [float(t) for t in times] for order, *times in rows}, end


# ---- tables


def orders_table(name: str, batch: int, grown: dict[str, dict[int, float]]) -> Iterator[str]:
    """The times of the peers as multiples of that of ``derivatives``."""
    yield "| order | `derivatives`, ms | " + " | ".join(PEERS) + " |"
    yield "|---|---|" + "---|" * len(PEERS)
    columns = {peer: measured(peer, name, batch) for peer in PEERS}
    for order in ORDERS:
        ours = [rows[order][2] for rows, _ in columns.values() if order in rows]
        if not ours:  # no peer got so far
            break
        cells = []
        for peer, (rows, end) in columns.items():
            if order in rows:
                *_, own, theirs = rows[order]
                cells.append(ratio(theirs / own))
                grown.setdefault(peer, {})[order] = theirs
            else:
                cells.append(end)
        own = statistics.median(ours)
        grown.setdefault("`derivatives`", {})[order] = own
        yield f"| {order} | {milliseconds(own)} | " + " | ".join(cells) + " |"


def ratio(value: float) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:.2g}"


def milliseconds(seconds: float) -> str:
    return f"{seconds * 1e3:,.0f}" if seconds >= 0.1 else f"{seconds * 1e3:.3g}"


def growth(grown: dict[str, dict[int, float]], name: str, batch: int) -> Iterator[str]:
    factors = []
    for peer in ("`nth_derivative`", "nested `torch.func.jvp`"):
        orders, times = zip(*list(grown[peer].items())[-3:], strict=True)
        factor = math.exp(slope(orders, [math.log(t) for t in times]))
        factors.append(f"{factor:.1f} ({peer})")
    yield f"Each order multiplies the time of nested differentiation by {' and '.join(factors)},"
    x = torch.linspace(-1.5, 1.5, batch, dtype=torch.float64)
    f, orders = in_torch(name), (4, 8, 16, 32)
    runs: dict[int, list[float]] = {order: [] for order in orders}
    for _ in range(100):
        for order in orders:
            start = time.perf_counter()
            derivatives(f, x, order)
            runs[order].append(time.perf_counter() - start)
    times = [statistics.median(runs[order]) for order in orders]
    power = slope([math.log(order) for order in orders], [math.log(t) for t in times])
    yield "as fitted to the last three orders reached. From order 4 to 32 the time of `derivatives`"
    yield f"grows {times[-1] / times[0]:.0f}-fold, as the order to the power of {power:.1f}."


def slope(x: Sequence[float], y: Sequence[float]) -> float:
    return statistics.linear_regression(x, y).slope


def compiled_table(name: str, order: int) -> Iterator[str]:
    """Beside a compiler: the first call, and those that follow."""
    yield (
        "| batch | first call of `derivatives`, ms | jitted jax jet, ms "
        "| further calls of `derivatives`, ms | jitted jax jet, ms |"
    )
    yield "|---|---|---|---|---|"
    kept = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}
    for batch, environment in ((1, {}), (1024, {}), (100_000, {}), (100_000, kept)):
        rows, end = measured("jax jet, jitted", name, batch, [order], **environment)
        cells = [end] * 4
        if order in rows:
            cells = [milliseconds(t) for t in rows[order]]
        label = f"{batch:,}" + (", freed memory kept" if environment else "")
        yield f"| {label} | " + " | ".join(cells) + " |"


def report() -> str:
    lines = []
    for name in FUNCTIONS:
        for batch in (1, 1024):
            grown: dict[str, dict[int, float]] = {}
            lines += [f"### Derivatives of {name}, batch {batch:,}", ""]
            lines += [*orders_table(name, batch, grown), "", *growth(grown, name, batch), ""]
    lines += ["### Beside a compiler: sigmoid² to order 10", "", *compiled_table("sigmoid²", 10)]
    return "\n".join(lines)


def main() -> None:
    torch.set_num_threads(1)
    if len(sys.argv) > 1:
        compare(*sys.argv[1:])
    else:
        print(report())


if __name__ == "__main__":
    main()
