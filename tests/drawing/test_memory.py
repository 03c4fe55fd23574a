"""memory.py: what boxes say they keep is what saved_memory tells, by another route."""

import re

import pytest
import torch
from torch.utils.checkpoint import checkpoint

from companion import draw, modules, record_backward, saved_memory
from tests.cases import each
from tests.drawing.test_fitting import MODELS

UNITS = {"bytes": 1, "kB": 1e3, "MB": 1e6}


def in_bytes(text: str) -> float:
    number, unit = text.split()
    return float(number) * UNITS[unit]


def model(name: str):
    net, x = MODELS[name]
    with modules(net) as names:
        loss = net(x).sum()
    return loss, names


@each("name", ["encoder of 12 layers", "recurrent", "u-net"])
@each("most", [4, 60])
def test_the_boxes_of_a_picture_keep_together_what_the_graph_keeps(name, most):
    loss, names = model(name)
    dot = draw(loss, names=names, saved="bytes", max_nodes=most).dot
    boxes = re.findall(r"^\s*\d+ \[label=.*?\bmemory ([\d.e+]+ \w+), (\d+)%", dot, re.MULTILINE)
    table = saved_memory(loss, names=names, by="name")
    kept = sum(row.nbytes for row in table if row.name != "leaves")
    assert sum(in_bytes(nbytes) for nbytes, _ in boxes) == pytest.approx(kept, rel=0.01)
    assert sum(int(share) for _, share in boxes) == pytest.approx(100, abs=len(boxes) / 2)
    total = re.search(r"total memory ([\d.e+]+ \w+)", dot)
    assert in_bytes(total[1]) == pytest.approx(kept, rel=0.01)


def test_a_frame_keeps_what_its_boxes_keep_and_heavy_boxes_are_darker():
    loss, names = model("encoder of 12 layers")
    drawing = draw(loss, names=names, saved="bytes")
    title = re.search(r"frame0 \[.*memory (\S+ \w+), (\d+)%", drawing.dot)
    assert int(title[2]) > 80
    boxes = re.findall(r"memory \S+ \w+, (\d+)%.*class=\"(.*?)\"", drawing.dot)
    for share, classes in boxes:
        assert ("heavy" in classes) == (int(share) >= 10) or share == "10" or "title" in classes
    assert sum("heavy" in classes for _, classes in boxes) > 1
    assert "Most is kept by " in drawing.alt


def test_what_is_saved_through_hooks_is_said_to_be_missing():
    x = torch.ones(100, requires_grad=True)
    y = checkpoint(lambda x: x.sin().exp(), x, use_reentrant=False).tanh().sum()
    with torch.autograd.graph.saved_tensors_hooks(lambda _: pytest.fail(), lambda _: pytest.fail()):
        dot = draw(y, saved="bytes").dot
    assert "total memory 400 bytes" in dot and "memory 400 bytes, 100%" in dot
    assert re.search(r"not counted.{0,4}\d tensors? saved through hooks", dot)


def test_a_freed_graph_keeps_nothing_and_says_that_it_was_freed():
    x = torch.ones(3, requires_grad=True)
    y = x.sin().sum()
    y.backward()
    drawing = draw(y, saved="bytes")
    assert "total memory 0 bytes" in drawing.dot and drawing.dot.count("memory") == 2  # and a hover
    assert "freed by a pass 1 node" in drawing.alt


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return 2 * x

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@pytest.mark.parametrize("program", [torch.sin, torch.prod, Doubled.apply])
def test_the_memory_of_a_recorded_pass_is_counted_only_where_it_is_still_there(program):
    x = torch.ones(3, requires_grad=True)
    y = program(x).sum() * 1.0
    kept = draw(record_backward(y, retain_graph=True), saved="bytes").dot
    assert re.findall(r"total memory \d+ bytes", kept)
    with pytest.raises(ValueError, match=r"this pass freed what \d Node.*retain_graph=True"):
        draw(record_backward(y), saved="bytes")


@each("saved", ["all", 1, 0, None, torch.ones(2)])
def test_saved_is_true_or_false_or_bytes(saved):
    said = re.escape(f'saved must be True, False or "bytes", got {saved!r}')
    with pytest.raises(ValueError, match=said):
        draw(torch.ones(2, requires_grad=True).sin(), saved=saved)
