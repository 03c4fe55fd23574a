"""A backward pass that costs the whole tensor for each part of it is told."""

import pytest
import torch

from companion import diagnose
from tests.cases import each


def slow(output, *inputs) -> list[str]:
    found = diagnose(output, *inputs)
    assert found.ok
    return [f"{f.severity} {f.message}" for f in found if f.code == "slow-slices"]


def written(x, count):
    out = torch.zeros(count, 4)
    for i in range(count):
        out[i] = x[0] * i
    return out


def replaced(x, count):
    out = x * 1
    for i in range(count):
        out = out.index_put((torch.tensor([i]),), torch.zeros(4))
    return out


READ = {
    "row": lambda x, n: [x[i] for i in range(n)],
    "column": lambda x, n: (lambda t: [t[:, i] for i in range(n)])(x.T),
    "slice": lambda x, n: [x[i : i + 1] for i in range(n)],
    "index": lambda x, n: [x[torch.tensor([i])] for i in range(n)],
    "index_select": lambda x, n: [x.index_select(0, torch.tensor(i)) for i in range(n)],
    "embedding": lambda x, n: [torch.nn.functional.embedding(torch.tensor(i), x) for i in range(n)],
}


@each("how", READ)
def test_reading_part_after_part_is_told_with_how_many(how):
    x = torch.rand(60, 4, requires_grad=True)
    (told,) = slow(torch.stack(READ[how](x, 60)).sum(), x)
    assert told.startswith("info each of 60 ")
    assert "60 times 240 numbers" in told
    assert not slow(torch.stack(READ[how](x, 5)).sum(), x)


@pytest.mark.parametrize("write", [written, replaced])
def test_writing_part_after_part_is_told(write):
    x = torch.rand(60, 4, requires_grad=True)
    told = slow(write(x, 60).sum(), x)
    assert any("each of 60 " in message and "writes" in message for message in told)
    assert not slow(write(x, 5).sum(), x)


def test_what_takes_a_tensor_apart_at_once_is_silent():
    x = torch.rand(60, 4, requires_grad=True)
    assert not slow(torch.stack([row * 2 for row in x.unbind()]).sum(), x)
    assert not slow(torch.cat([row * 2 for row in x.split(1)]).sum(), x)
    assert not slow((x * 2).sum(), x)


def test_parts_of_tensors_of_their_own_and_large_parts_are_silent():
    tensors = [torch.rand(60, 4, requires_grad=True) for _ in range(60)]
    assert not slow(torch.stack([t[0] for t in tensors]).sum())
    x = torch.rand(60, 4, requires_grad=True)
    assert not slow(sum(x[1:].sum() for _ in range(60)), x)


def test_a_tensor_that_grows_by_cat_is_told_and_a_list_is_not():
    start = torch.ones(1, 4, requires_grad=True)
    grown, parts = start, [start]
    for _ in range(60):
        grown = torch.cat([grown, grown[-1:].sin()])
        parts.append(parts[-1].sin())
    (found,) = diagnose(grown.sum(), start)
    assert found.code == "slow-slices" and "60 CatBackward0" in found.message
    assert "list" in found.cure
    assert not diagnose(torch.cat(parts).sum(), start)
