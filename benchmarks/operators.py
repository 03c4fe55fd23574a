"""What a Laplacian and a mixed derivative cost, beside others: ``python -m benchmarks.operators``.

All methods of a row run in this process, in float64, in a new order each round, because what ran
before leaves its memory and caches. Each time is the least processor time of several runs: they do
the same each time, so what is above the least is the machine's other work.
"""

from __future__ import annotations

import importlib.util
import random
import time
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.func import grad, hessian, vmap

from benchmarks.taylor import milliseconds, ratio
from companion import laplacian, mixed

Tensor = torch.Tensor
Method = Callable[[], Tensor]


def network(size: int) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [nn.Linear(size, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh(), nn.Linear(64, 1)]
    return nn.Sequential(*layers).double().requires_grad_(False)


# ---- the Laplacian


def nested_laplacian(net: nn.Module, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    (first,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    total = torch.zeros_like(x[:, :1])
    for i in range(x.shape[1]):
        (second,) = torch.autograd.grad(first[:, i].sum(), x, retain_graph=True)
        total += second[:, i : i + 1]
    return total


def hessian_laplacian(net: nn.Module, x: Tensor) -> Tensor:
    return vmap(hessian(net))(x).diagonal(dim1=-2, dim2=-1).sum(-1)


def laplacians(net: nn.Module, x: Tensor) -> dict[str, Method]:
    methods: dict[str, Method] = {
        "`laplacian`": lambda: laplacian(net, x),
        "nested `torch.autograd.grad`": lambda: nested_laplacian(net, x),
        "`torch.func.hessian`": lambda: hessian_laplacian(net, x),
    }
    if importlib.util.find_spec("jet"):
        import jet

        collapsed = vmap(jet.laplacian(net, (torch.zeros_like(x[0]),)))
        methods["jet-for-pytorch"] = lambda: collapsed(x)
    return methods


# ---- mixed derivatives


def nested_mixed(net: nn.Module, x: Tensor) -> Tensor:
    columns = [column.clone().requires_grad_() for column in x.unbind(1)]
    y = net(torch.stack(columns, 1))
    for column in columns:
        (y,) = torch.autograd.grad(y.sum(), column, create_graph=True)
    return y.detach()[:, None]


def func_mixed(net: nn.Module, x: Tensor) -> Tensor:
    def along(f: Callable[..., Tensor], number: int) -> Callable[..., Tensor]:
        return lambda *numbers: grad(f, number)(*numbers)

    f: Callable[..., Tensor] = lambda *numbers: net(torch.stack(numbers))[0]  # noqa: E731
    for number in range(x.shape[1]):
        f = along(f, number)
    return vmap(f)(*x.unbind(1))[:, None]


def mixeds(net: nn.Module, x: Tensor) -> dict[str, Method]:
    return {
        "`mixed`": lambda: mixed(net, x, range(x.shape[1])),
        "nested `torch.autograd.grad`": lambda: nested_mixed(net, x),
        "nested `torch.func.grad`": lambda: func_mixed(net, x),
    }


# ---- tables


def measured(methods: dict[str, Method], seconds: float) -> dict[str, float]:
    """The least time of each method, run in turn for some seconds; the values must agree."""
    values = {name: run() for name, run in methods.items()}
    expected = next(iter(values.values()))
    for name, value in values.items():
        if not (value.reshape(expected.shape) - expected).abs().max() <= 1e-9:
            raise ArithmeticError(f"{name} finds another derivative")
    least = dict.fromkeys(methods, float("inf"))
    order, shuffled = [*methods.items()], random.Random(0)
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or float("inf") in least.values():
        shuffled.shuffle(order)
        for name, run in order:
            start = time.process_time()
            run()
            least[name] = min(least[name], time.process_time() - start)
    return least


def table(
    head: str,
    peers: list[str],
    methods: Callable[[nn.Module, Tensor], dict[str, Method]],
    rows: tuple[tuple[int, int], ...],
) -> Iterator[str]:
    """The times of the peers as multiples of ours."""
    yield "| " + " | ".join([head, "batch", *peers]) + " |"
    yield "|---|" + "---|" * (len(peers) + 1)
    for size, batch in rows:
        x = torch.randn(batch, size, dtype=torch.float64)
        found = measured(methods(network(size), x), 3)
        own = next(iter(found.values()))
        cells = [f"{size}", f"{batch}", milliseconds(own)]
        for peer in peers[1:]:
            cells.append(ratio(found[peer] / own) if peer in found else "not installed")
        yield "| " + " | ".join(cells) + " |"


def report() -> str:
    nested, func = "nested `torch.autograd.grad`", "`torch.func.hessian`"
    return "\n".join(
        [
            "### Laplacian of a tanh network",
            "",
            *table(
                "coordinates",
                ["`laplacian`, ms", nested, func, "jet-for-pytorch"],
                laplacians,
                ((2, 16), (2, 256), (10, 16), (10, 256), (50, 64), (50, 256)),
            ),
            "",
            "### Mixed derivative of a tanh network",
            "",
            *table(
                "order",
                ["`mixed`, ms", nested, "nested `torch.func.grad`"],
                mixeds,
                ((2, 16), (4, 16), (6, 16), (8, 16), (8, 256)),
            ),
        ]
    )


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(report())
