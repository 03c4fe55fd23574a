"""What stands for torch's private names says what it claims, for every kind of tensor."""

import importlib
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch._subclasses import FakeTensorMode

from companion.internals import (
    end_sharing,
    has_memory,
    is_shared_lazily,
    lazy_copy,
    saved_names,
    saved_value,
)
from tests.cases import each

ROOT = Path(__file__).parents[1]


def _freed(tensor: torch.Tensor, bytes_left: int = 0) -> torch.Tensor:
    tensor.untyped_storage().resize_(bytes_left)
    return tensor


def _jagged(values: torch.Tensor) -> torch.Tensor:
    return torch.nested.nested_tensor_from_jagged(values, torch.tensor([0, 1, 4]))


def _coo(values: torch.Tensor) -> torch.Tensor:
    return torch.sparse_coo_tensor([[0, 1]], values, (3,), check_invariants=False)


def _csr(values: torch.Tensor) -> torch.Tensor:
    indices = torch.tensor([0, 1, 2]), torch.tensor([0, 1])
    return torch.sparse_csr_tensor(*indices, values, (2, 2), check_invariants=False)


class Distributed(torch.Tensor):
    """Holds a tensor and what is none, as a DTensor has a mesh of devices."""

    def __tensor_flatten__(self):
        return ["held", "mesh"], None


def _distributed(values: torch.Tensor) -> torch.Tensor:
    tensor = torch.ones(3).as_subclass(Distributed)
    tensor.held, tensor.mesh = values, "cpu"
    return tensor


def _fake() -> torch.Tensor:
    with FakeTensorMode():
        return torch.ones(3)


WITH = {
    "distributed": lambda: _distributed(torch.ones(3)),
    "dense": lambda: torch.ones(3),
    "a parameter": lambda: torch.nn.Parameter(torch.ones(3)),
    "a number": lambda: torch.ones(()),
    "empty": lambda: _freed(torch.ones(0, 3)),
    "the part that is left": lambda: _freed(torch.ones(3), 4)[:1],
    "transposed": lambda: torch.ones(3, 2).T,
    "expanded": lambda: torch.ones(1).expand(1000),
    "the last column": lambda: torch.ones(2, 3)[:, 2],
    "coo": lambda: _coo(torch.ones(2)),
    "csr": lambda: _csr(torch.ones(2)),
    "jagged": lambda: _jagged(torch.ones(4, 2)),
    "nested": lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(1)]),
    "mkldnn": lambda: torch.ones(2, 2).to_mkldnn(),
    "quantized": lambda: torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8),
}
WITHOUT = {
    "distributed and freed": lambda: _distributed(_freed(torch.ones(3))),
    "fake": _fake,
    "meta": lambda: torch.ones(3, device="meta"),
    "freed": lambda: _freed(torch.ones(3)),
    "a freed parameter": lambda: _freed(torch.nn.Parameter(torch.ones(3)).data),
    "freed in part": lambda: _freed(torch.ones(3), 8),
    "a part of what was freed": lambda: (whole := torch.ones(3), whole[1:], _freed(whole))[1],
    "transposed and freed": lambda: _freed(torch.ones(3, 2).T, 20),
    "the last column, freed": lambda: _freed(torch.ones(2, 3)[:, 2], 20),
    "coo of freed values": lambda: (v := torch.ones(2), _coo(v), _freed(v))[1],
    "csr of freed values": lambda: (v := torch.ones(2), _csr(v), _freed(v))[1],
    "jagged of freed values": lambda: (v := torch.ones(4, 2), _jagged(v), _freed(v))[1],
    "nested and freed": lambda: _freed(torch.nested.nested_tensor([torch.ones(2)])),
}


@pytest.mark.filterwarnings("ignore::UserWarning")
@each("name", [*WITH, *WITHOUT])
def test_a_tensor_has_memory_just_if_its_last_number_can_be_read(name):
    assert has_memory((WITH | WITHOUT)[name]()) == (name in WITH)


def test_a_batch_of_vmap_has_memory():
    seen = []
    torch.vmap(lambda row: seen.append(has_memory(row)) or row)(torch.ones(2, 3))
    assert seen == [True]


@pytest.mark.filterwarnings("ignore::UserWarning")
@each("name", [*WITH, *WITHOUT])
def test_no_tensor_is_lazy_that_nobody_copied_lazily(name):
    assert not is_shared_lazily((WITH | WITHOUT)[name]())


@each("end", [end_sharing, lambda t: t.data.add_(0), lambda t: t.numpy()])
@each("of_copy", [False, True])
def test_a_lazy_copy_shares_memory_until_either_is_written_to(end, of_copy):
    source = torch.ones(3)
    copy = lazy_copy(source)
    assert is_shared_lazily(source) and is_shared_lazily(copy)
    assert torch._C._data_address(source) == torch._C._data_address(copy)
    one, other = (copy, source) if of_copy else (source, copy)
    end(one)
    assert not is_shared_lazily(one)
    assert torch._C._data_address(source) != torch._C._data_address(copy)
    one.zero_()
    assert other.tolist() == [1.0] * 3


WITHOUT_NUMBERS = """
from companion import Graph, diagnose, draw, play, record_backward, watch, write_backward
from tests.slices import every
import torch


def emptied(compute):
    # As FSDP does: the storage of what was saved is freed, and a hook brings it back in the pass.
    x = torch.rand(4, 4, requires_grad=True)
    y, h = compute(x * 2)
    kept, storage, size = h.detach().clone(), h.untyped_storage(), h.untyped_storage().nbytes()

    def bring_back(_):
        storage.resize_(size)
        h.data.copy_(kept)

    y.grad_fn.register_prehook(bring_back)
    y.grad_fn.register_hook(lambda *_: (storage.resize_(0), None)[1])
    storage.resize_(0)
    return x, y, (y * y).sum() + y.sum()


COMPUTES = [
    lambda base: (base.relu(), base),
    lambda base: (base.pow(2), base),
    lambda base: (base[1:] * base[1:], base[1:]),
    lambda base: (base.T[:2] / base.T[:2], base.T[:2]),
    lambda base: (base.amax(0), base),
    lambda base: (torch.zeros(4, 4).index_put((torch.arange(4),), base * 1), base),
]
for compute in every(5, COMPUTES):
    with watch() as watched:
        x, y, loss = emptied(compute)
        loss = loss + y.detach().sum()
    assert watched.mutations is not None
    Graph.of(loss).saved_nbytes
    draw(loss, saved=True, values=True, watch=watched).svg
    assert diagnose(loss, x, y, watch=watched)[0].code == "not-a-leaf"
    assert diagnose(loss, x, watch=watched).ok
    play(loss).html
    recording = record_backward(loss, retain_graph=True)
    draw(recording).svg
    play(recording).html
    grad = x.grad.clone()
    x.grad = None
    loss.backward(retain_graph=True)
    assert torch.equal(grad, x.grad)
    try:
        write_backward(loss)
    except RuntimeError as error:
        assert "whose storage was freed" in str(error), error

x = torch.ones(3, requires_grad=True)
program = write_backward((x * x).sum())
x.untyped_storage().resize_(0)
try:
    program.run()
except RuntimeError as error:
    assert "the storage of x was freed" in str(error)
else:
    raise AssertionError
print("all of it ran")
"""


def test_no_function_reads_a_tensor_whose_storage_was_freed():
    run = subprocess.run(  # to read one would end this process
        [sys.executable, "-c", WITHOUT_NUMBERS], cwd=ROOT, capture_output=True, text=True
    )
    assert (run.returncode, run.stdout) == (0, "all of it ran\n"), run.stderr[-2000:]


def test_a_negative_number_is_saved_as_it_was_given():
    x = torch.ones(2, 3, requires_grad=True)
    results = [x.softmax(-1), x.mT, x.permute(-1, 0), x.unsqueeze(-2), x.sum((-1,)), x.roll(-1, -1)]
    numbers = list[int]()
    for fn in [y.grad_fn for y in results]:
        for value in (saved_value(fn, name) for name in saved_names(fn)):
            numbers += [
                n for n in (value if isinstance(value, tuple) else (value,)) if type(n) is int
            ]
    assert min(numbers) == -2 and max(numbers) < 10


def test_a_torch_that_is_too_old_is_refused_with_the_cure(monkeypatch):
    for name in [name for name in sys.modules if name.partition(".")[0] == "companion"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delattr(torch._C._autograd.SavedTensor, "unpack")
    with pytest.raises(ImportError, match="^the companion needs torch 2.12 or newer, and this is"):
        importlib.import_module("companion")
