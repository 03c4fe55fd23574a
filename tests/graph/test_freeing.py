"""freeing.py: no graph, however deep, ends the process or stays in memory.

A stack that overflows ends the process, so each test runs this file in a process of its own and
looks at its exit code. ``make deep`` does it with graphs of a million levels.
"""

import ctypes
import gc
import os
import re
import resource
import signal
import subprocess
import sys
import threading
from functools import partial
from pathlib import Path

import pytest
import torch

import companion.graph.freeing
import companion.graph.reading
import companion.higher_order.nth_derivative
from companion import Graph, draw, nth_derivative, walk_grad_fn
from tests.programs import Twice
from tests.slices import torchs_own

ROOT = Path(__file__).parents[2]
CRASHED = (-signal.SIGSEGV, 128 + signal.SIGSEGV)  # as told by the system, or by a shell
LEVELS = int(os.environ.get("LEVELS", 0))


def chain(n):
    y = torch.ones((), requires_grad=True)
    for _ in range(n):
        y = y * 1.0
    return y, None


def views(n):
    y = torch.ones((), requires_grad=True) * 1
    for _ in range(n):
        y = y.view(())
    return y, None


def in_place(n):
    y = torch.ones(2, requires_grad=True) * 1
    for _ in range(n):
        y.mul_(1.0)
    return y.sum(), None


def in_place_of_a_view(n):
    y = torch.ones(2, requires_grad=True) * 1
    for _ in range(n // 4):
        y[:1].mul_(1.0)
    return y.sum(), None


def functions(n):
    y = torch.ones((), requires_grad=True)
    for _ in range(n // 4):
        y = Twice.apply(y) * 0.5
    return y, None


def ladder(n):
    y = torch.ones((), requires_grad=True)
    for _ in range(n):
        y = y * y
    return y, None


def wide_sum(n):
    x = torch.ones((), requires_grad=True)
    return torch.stack([x * 1.0 for _ in range(n)]).sum(), None


def stacked_losses(n):
    h, losses = torch.ones((), requires_grad=True), []
    for _ in range(n):
        h = h * 1.0
        losses.append(h)
    return torch.stack(losses).sum(), None


def running_loss_and_a_state_that_is_kept(n):
    h, total, kept = torch.ones((), requires_grad=True), 0.0, None
    for step in range(n):
        h = h * 1.0
        total = total + h
        if step == n * 9 // 10:
            kept = h
    return total, kept


def kept_below_the_root(n):
    y, _ = chain(n)
    return (y * 2).sum(), y


def lstm(n):
    cell = torch.nn.LSTMCell(2, 2)
    x, h, c, seen = torch.ones(1, 2), torch.zeros(1, 2), torch.zeros(1, 2), []
    for _ in range(n // 50):
        h, c = cell(x, (h, c))
        seen.append(h)
    return torch.stack(seen).sum(), c


def two_readings_that_overlap(n):
    y, _ = chain(n // 2)
    for _ in range(20):
        Graph.of(y)
        y = y.sin()
    for _ in range(n // 2):
        y = y * 1.0
    return y, None


PROGRAMS = [chain, views, in_place, in_place_of_a_view, functions, ladder, wide_sum]
PROGRAMS += [stacked_losses, running_loss_and_a_state_that_is_kept, kept_below_the_root, lstm]
PROGRAMS += [two_readings_that_overlap]


def memory() -> int:
    """Bytes of memory in use now."""
    with open("/proc/self/statm") as counts:
        return int(counts.read().split()[1]) * resource.getpagesize()


def memory_once_freed() -> int:
    """Bytes of memory in use, once what is free was given back to the system."""
    gc.collect()
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    return memory()


def hook(graph: Graph) -> None:
    for node in graph.nodes:
        node.grad_fn.register_prehook(print)


def live_and_let_die(levels: int) -> None:
    """Build, look at and drop each kind of graph, in several orders; the memory comes back."""
    before = most = 0
    for program in [chain, *PROGRAMS]:  # the first one warms up
        y, kept = program(levels)
        graph = Graph.of(y)
        assert len(graph) > levels // 8
        y.sum().backward()
        most = max(most, memory())
        del graph, y, kept
        y, kept = program(levels)
        graph = Graph.of(y)
        del y, graph, kept
        before = before or memory_once_freed()
    y, _ = chain(levels)
    hook(Graph.of(y))
    del y
    left = memory_once_freed() - before
    # One graph that stays would be more than a tenth, or 26 small ones more than 30 MiB.
    assert left < 30 * 2**20 + (most - before) // 10, f"{left // 2**20} MiB are still there"


def look_in_every_way(levels: int) -> None:
    """Everything of the companion that looks at Nodes, on one deep graph each."""
    for look in (
        lambda y: walk_grad_fn(y, max_depth=2),
        lambda y: draw(y).alt,
        lambda y: len(Graph.of(y).nodes) + Graph.of(y).depth,
        lambda y: Graph.of(y, names={"loss": y}).edges,
    ):
        y, _ = chain(levels)
        look(y)
        del y
    x = torch.ones(2, requires_grad=True)
    for step, order in ((lambda y: Twice.apply(y) * 0.5, 1), (torch.neg, 2)):
        y = x.sin()
        for _ in range(levels // 2):
            y = step(y)
        nth_derivative(y, x, order)
        del y


class Long(torch.autograd.Function):
    """Its gradient has a graph as deep as it is told."""

    @staticmethod
    def forward(ctx, a, levels):
        ctx.save_for_backward(a)
        ctx.levels = levels
        return a * 2.0

    @staticmethod
    def backward(ctx, gradient):
        (a,) = ctx.saved_tensors
        for _ in range(ctx.levels):
            a = a * 1.0
        return gradient * a, None


def states_of(n):
    h, states = torch.ones((), requires_grad=True), []
    for _ in range(n):
        h = h * 1.0
        states.append(h)
    return states


def what_is_refused_or_interrupted(levels: int) -> None:
    """Nodes that were looked at before an error, or for their names alone, are safe as well."""
    states = states_of(levels)
    with pytest.raises(ValueError):
        Graph.of(*states, torch.ones(1))
    last = states.pop()  # holds them all
    del states, last
    states = states_of(levels)
    Graph.of(states[5], names={f"h{i}": state for i, state in enumerate(states)})
    last = states.pop()
    del states, last
    x = torch.ones((), requires_grad=True)
    nth_derivative(Long.apply(x, levels), x, 2)
    left = iter(range(50))

    def interrupt(node):
        if next(left, None) is None:
            raise KeyboardInterrupt
        companion.graph.freeing.fuse(node)

    companion.graph.reading.fuse = companion.higher_order.nth_derivative.fuse = interrupt
    for look in Graph.of, partial(nth_derivative, x=x, n=1):
        y = x * 1.0
        for _ in range(levels):
            y = y * 1.0
        with pytest.raises(KeyboardInterrupt):
            look(y)
        del y
        left = iter(range(50))
    states = states_of(levels)
    with pytest.raises(KeyboardInterrupt):
        Graph.of(*states)
    last = states.pop()
    del states, last


def in_a_process(what, levels, stack):
    """Run a function of this file in a new process with this much stack, in KiB."""
    main, thread = (8192, stack) if stack < 1024 else (stack, 0)
    this = f"{sys.executable} -m {__name__}"
    command = f"ulimit -s {main}; exec {this} {what.__name__} {levels} {thread}"
    return subprocess.run(["bash", "-c", command], cwd=ROOT, capture_output=True, text=True)


# Walked by other means, a chain of 2,500 levels overflows a stack of 512 KiB, one of 5,000 a stack
# of 1 MiB, and one of 40,000 a stack of 8 MiB.
def test_deep_graphs_come_and_go():
    survives(everything, 4_000, 512)


@pytest.mark.skipif(not LEVELS, reason="takes minutes; make deep runs it")
@pytest.mark.parametrize("what", [live_and_let_die, look_in_every_way])
@pytest.mark.parametrize("stack", [512, 1024, 8192])
def test_graphs_of_a_million_levels_come_and_go(what, stack):
    survives(what, LEVELS, stack)


def walks_of_ones_own(levels: int) -> None:
    """One that leaves no fuses is safe where Graph.of looks too, before it or after."""
    for graph_first in (True, False):
        y, _ = chain(levels)
        if graph_first:
            Graph.of(y)
        fn = y.grad_fn
        while fn.next_functions:
            fn = fn.next_functions[0][0]
        if not graph_first:
            Graph.of(y)
        del y, fn


def walk_without_fuses(levels: int) -> None:
    companion.graph.reading.fuse = lambda node: None
    y, _ = chain(levels)
    Graph.of(y)
    del y


def exit_code_of_a_fork(what, levels: int) -> int:
    """What becomes of a process that does it, with the stack of this thread."""
    pid = os.fork()
    if not pid:
        what(levels)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


FREES_IN_A_LOOP = torch.__version__ < "2.13"  # every graph, so that nothing is to guard against


def everything(levels: int) -> None:
    if not FREES_IN_A_LOOP:  # else all below could not fail
        assert exit_code_of_a_fork(walk_without_fuses, levels) == -signal.SIGSEGV
    walks_of_ones_own(levels)
    live_and_let_die(levels)
    look_in_every_way(levels)
    what_is_refused_or_interrupted(levels)


def survives(what, levels, stack):
    done = in_a_process(what, levels, stack)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.endswith("done\n")


def test_fuses_go_off_one_after_the_other_and_not_one_inside_another():
    inside = []

    class Spy:
        def __del__(self):
            frame, count = sys._getframe(), 0
            while frame := frame.f_back:
                count += frame.f_code is companion.graph.freeing._Fuse.__del__.__code__
            inside.append(count)

    y, _ = chain(3000)
    for node in Graph.of(y).nodes:
        node.grad_fn.metadata["spy"] = Spy()
    del node, y
    assert len(inside) >= 3000 and set(inside) == {0, 1}


@torchs_own
@pytest.mark.skipif(FREES_IN_A_LOOP, reason="up to 2.12, torch frees every graph in a loop")
def test_the_report_for_upstream_still_holds():
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    code = re.search(r"```py\n(import torch\n.*?)```", text, re.S)[1]
    command = f"ulimit -s 8192; {sys.executable} -c '{code}'"
    assert subprocess.run(["bash", "-c", command]).returncode in CRASHED


def main() -> None:
    what, levels, stack = globals()[sys.argv[1]], int(sys.argv[2]), int(sys.argv[3])
    failed = []
    if stack:
        threading.excepthook = lambda args: failed.append(args.exc_value)
        threading.stack_size(stack * 1024)
        thread = threading.Thread(target=what, args=[levels])
        thread.start()
        thread.join()
        # Without a pass in the main thread, torch 2.12 itself may abort when the process ends.
        torch.ones((), requires_grad=True).backward()
        for error in failed:
            raise error
    else:
        what(levels)
    print("done")


if __name__ == "__main__":
    main()
