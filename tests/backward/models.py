"""What the tests of the player play: programs of a few Nodes, and models that show blocks."""

from __future__ import annotations

import base64
import json
import random
import re
import zlib

import pytest
import torch
from torch import nn

from companion import modules
from tests.programs import programs, run


def diamond(noted=True):
    """Two paths meet in a and in b; the lines are noted by torch."""
    with torch.autograd.set_detect_anomaly(noted, check_nan=False):
        x = torch.tensor(2.0, requires_grad=True)
        a = x * 3.0
        b = a.sin()
        y = a * b + b
    return x, y


def square():
    """A tensor, a, that reaches the root along two paths."""
    x = torch.tensor(3.0, requires_grad=True)
    a = x * 1.0
    y = a * a * 2.0
    return x, y


# Random programs, as a strategy of hypothesis.
RANDOM = programs(["sin", "mul", "add", "split", "unbind", "expand", "divide"], 2, 8)


def built(program):
    """The leaf and the output of a random program, whose tensors are used several times."""
    x = torch.tensor([0.5, 1.5, -0.5, 1.0], requires_grad=True)
    made = run(program, [x])
    return x, (made[-1] + made[len(made) // 2]).sum()


def data_of(player):
    """The data that a player holds for its script."""
    return data_in(player.fragment)


def data_in(page):
    """The data of the player in a page."""
    data = read(re.search(r'player-data">(.*?)</script>', page, re.DOTALL)[1])
    if "scenes" in data:
        data["scenes"] = read(zlib.decompress(base64.b64decode(data["scenes"])))
    return data


def read(text):
    """What JSON says, which has no NaN and no infinity."""
    return json.loads(text, parse_constant=lambda constant: pytest.fail(constant))


def encoder(layers=4):
    """The loss of an encoder, the names, and the output of each of its layers."""
    torch.manual_seed(0)
    layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=0.0, batch_first=True)
    model = nn.TransformerEncoder(layer, layers, enable_nested_tensor=False)
    outputs = []
    for block in model.layers:
        block.register_forward_hook(lambda _, __, output: outputs.append(output))
    with modules(model) as names:
        loss = model(torch.randn(2, 5, 16)).pow(2).sum()
    return loss, names, outputs


def recurrent(steps=50):
    """The loss of an LSTM cell that runs so many times, and the names."""
    torch.manual_seed(0)
    cell = nn.LSTMCell(3, 4)
    state = None
    for value in torch.randn(steps, 2, 3):
        state = cell(value, state)
    return state[0].pow(2).sum(), dict(cell.named_parameters())


class Tagger(nn.Module):
    """An LSTM cell with a head at each step."""

    def __init__(self):
        super().__init__()
        self.cell, self.head = nn.LSTMCell(3, 4), nn.Linear(4, 2)

    def forward(self, values):
        state, results = None, []
        for value in values:
            state = self.cell(value, state)
            results.append(self.head(state[0]))
        return torch.stack(results)


def tagger(steps=50):
    """The loss of a Tagger of so many steps, and the names."""
    torch.manual_seed(0)
    model = Tagger()
    with modules(model) as names:
        loss = model(torch.randn(steps, 2, 3)).pow(2).sum()
    return loss, names


def branches():
    """A loss of long branches that run in turn, so that a chain is no stretch of the pass."""
    torch.manual_seed(0)
    x = torch.randn(3, requires_grad=True)
    left = right = x * 1.0
    for _ in range(60):
        left, right = left.sin(), right.cos()
    shared = (left * right).exp()
    for _ in range(40):
        shared = shared * x
    return shared.sum(), {"x": x}


def tangle():
    """A loss of operations that each take any two of the last ten results."""
    choose = random.Random(0)
    leaves = [torch.full((2,), 0.1 * i, requires_grad=True) for i in range(1, 6)]
    results = list(leaves)
    while len(results) < 400:
        a, b = choose.choice(results[-10:]), choose.choice(results[-10:])
        results.append(choose.choice([a.sin, a.tanh, lambda a=a, b=b: a * b])())
    return torch.stack(results[-10:]).sum(), {f"p{i}": leaf for i, leaf in enumerate(leaves)}


PROGRAMS = {
    "encoder": lambda: encoder()[:2],
    "recurrent": recurrent,
    "tagger": tagger,
    "branches": branches,
    "tangle": tangle,
}
