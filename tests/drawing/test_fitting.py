"""fitting.py: what is drawn of a model fits on a page that a person reads."""

import functools
import re

import pytest
import torch
from torch import nn

from companion import Graph, draw, modules, record_backward
from companion.drawing.fitting import _height
from companion.drawing.folding import fold
from tests.drawing.pictures import boxes, boxes_run_through, crossed


class Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.BatchNorm2d(width),
        )  # fmt: skip

    def forward(self, x):
        return torch.relu(x + self.body(x))


class Dense(nn.Module):
    """Each layer takes the results of all before it."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(nn.Conv2d(4 + 2 * i, 2, 3, padding=1) for i in range(16))

    def forward(self, x):
        for layer in self.layers:
            x = torch.cat([x, torch.relu(layer(x))], 1)
        return x


class UNet(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.down = nn.ModuleList(Residual(4) for _ in range(4))
        self.up = nn.ModuleList(Residual(8) for _ in range(4))
        self.narrow = nn.ModuleList(nn.Conv2d(8, 4, 1) for _ in range(4))

    def forward(self, x):
        kept = []
        for block in self.down:
            kept.append(x := block(x))
        for block, narrow in zip(self.up, self.narrow, strict=True):
            x = narrow(block(torch.cat([x, kept.pop()], 1)))
        return x


class Recurrent(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.LSTMCell(4, 4), nn.Linear(4, 3)

    def forward(self, x):
        h = c = torch.zeros(2, 4)
        results = []
        for step in x:
            h, c = self.cell(step, (h, c))
            results.append(self.head(h))
        return torch.stack(results)


class Tied(nn.Module):
    """The weight of the embedding is that of the last layer as well."""

    def __init__(self) -> None:
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 8, dropout=0.0)
        self.embedding = nn.Embedding(10, 8)
        self.encoder = nn.TransformerEncoder(layer, 12, enable_nested_tensor=False)

    def forward(self, x):
        return self.encoder(self.embedding(x)) @ self.embedding.weight.T


class Tagger(nn.Module):
    """Each layer of its LSTM has eight parameters, which lead to nothing else."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding, self.head = nn.Embedding(50, 16), nn.Linear(32, 5)
        self.lstm = nn.LSTM(16, 16, 2, bidirectional=True)

    def forward(self, x):
        return self.head(self.lstm(self.embedding(x))[0])


IMAGE = torch.ones(2, 4, 4, 4)
MODELS = {
    "encoder of 12 layers": (Tied(), torch.zeros(3, 1, dtype=torch.long)),
    "residual": (nn.Sequential(*(Residual(4) for _ in range(16))), IMAGE),
    "dense": (Dense(), IMAGE),
    "u-net": (UNet(), IMAGE),
    "recurrent": (Recurrent(), torch.ones(50, 2, 4)),
    "tagger": (Tagger(), torch.zeros(12, 4, dtype=torch.long)),
    "deep": (nn.Sequential(*(m for i in range(20) for m in (nn.Linear(4, 4), nn.Tanh()))), IMAGE),
    "all sorts": (
        nn.Sequential(*(getattr(nn, name)() for name in ("Tanh", "GELU", "SiLU", "ELU") * 15)),
        torch.ones(2, requires_grad=True),
    ),
    "small": (nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1)), torch.ones(2, 4)),
}


@pytest.fixture(params=MODELS)
def graph(request):
    model, x = MODELS[request.param]
    with modules(model) as names:
        loss = model(x).sum()
    return Graph.of(loss, names=names)


def height(svg: str) -> int:
    return int(re.search(r' height="(\d+)pt"', svg)[1])


def width(svg: str) -> int:
    return int(re.search(r' width="(\d+)pt"', svg)[1])


def test_a_model_is_drawn_on_a_page(graph):
    svg = draw(graph).svg
    assert svg.count('class="node ') - svg.count('class="node none') <= 60
    assert height(svg) <= 1500 and width(svg) <= 1500
    assert boxes_run_through(svg) == [] and crossed(svg) == []
    named = [tuple(lines) for kind, lines, _ in boxes(svg) if kind == "leaf"]
    assert len(set(named)) == len(named) or any("use 1 of" in str(lines) for lines in named)


def test_from_four_on_the_leaves_of_a_box_stand_in_two_rows():
    for count, rows in ((3, 1), (4, 2), (7, 2)):
        leaves = [torch.ones(2, requires_grad=True) for _ in range(count)]
        for what in (x := torch.stack(leaves), record_backward(x, torch.ones(count, 2))):
            svg = draw(what).svg
            tops = re.findall(r'class="node leaf">.*?<text [^>]* y="(\S+)"', svg, re.DOTALL)
            assert len(tops) == count and len(set(tops)) == rows
            assert boxes_run_through(svg) == [] and crossed(svg) == []


def test_a_leaf_that_another_box_uses_as_well_is_not_moved():
    first, *others = (torch.ones(2, requires_grad=True) for _ in range(4))
    assert "minlen" not in draw(torch.stack([first, *others]) * first).dot
    assert "minlen" in draw(torch.stack([first, *others]) * 2).dot


def test_an_arrow_from_the_side_of_a_hexagon_is_beside_it_and_one_across_is_not():
    leaves = [torch.ones(2, requires_grad=True) for _ in range(6)]
    svg = draw(Six.apply(*leaves).sum()).svg
    assert boxes_run_through(svg) == []
    hexagon = re.search(r'class="node custom">.*? points="(.*?)"', svg, re.DOTALL)[1]
    points = [tuple(map(float, point.split(","))) for point in hexagon.split()]
    (left, y), (right, _) = min(points), max(points)
    for level, run_through in {y: ["custom Function"], min(y for _, y in points): []}.items():
        path = f"M{left},{level}C{left},{level} {right},{level} {right},{level}"
        arrow = f'<g class="edge"><path d="{path}"/></g></svg>'
        assert boxes_run_through(svg.replace("</svg>", arrow)) == run_through


class Six(torch.autograd.Function):
    """Its hexagon is wide, and has arrows from the sloping sides."""

    @staticmethod
    def forward(ctx, *inputs):
        return sum(inputs)

    @staticmethod
    def backward(ctx, gradient):
        return (gradient,) * 6


def test_with_shapes_it_fits_as_well(graph):
    svg = draw(graph, shapes=True).svg
    assert height(svg) <= 1500 and boxes_run_through(svg) == []


def test_a_model_that_repeats_a_block_shows_one_in_a_frame():
    for name, copies in {"encoder of 12 layers": 12, "residual": 15, "recurrent": 49}.items():
        model, x = MODELS[name]
        with modules(model) as names:
            loss = model(x).sum()
        assert f"×{copies} in a row" in draw(loss, names=names).dot, name


def test_a_module_that_is_called_again_and_again_is_named_once():
    model = Recurrent()
    cell, state = model.cell, torch.zeros(2, 4)
    model.forward = lambda x: functools.reduce(lambda h, step: cell(step, h), x, (state, state))[0]
    with modules(model) as names:
        loss = model(torch.ones(20, 2, 4)).sum()
    texts = [lines for _, lines, _ in boxes(draw(loss, names=names, max_nodes=9).svg)]
    assert ["cell", "LSTMCell", "×19, 15 nodes each"] in texts


def test_the_height_is_known_before_graphviz_is_asked(graph):
    whole = fold(graph, None)
    if len(whole.boxes) <= 100:
        assert _height(whole) == pytest.approx(height(draw(graph, max_nodes=None).svg), rel=0.1)


def test_without_modules_there_is_more_room():
    x = torch.ones(2, requires_grad=True)
    y = x
    for _ in range(100):
        y = y.sin()
    assert len(fold(Graph.of(y), 150).boxes) == 101 == draw(y).dot.count("[label=")
