"""Memory that nobody else can write into is not read in the block, and any other is compared."""

import ctypes
from weakref import ref

import pytest
import torch
from torch import nn

import companion.forward.tensor_states as tensor_states
from companion import watch
from tests.cases import each


def by_address(address: int) -> None:
    ctypes.c_float.from_address(address).value = 9


def fill(alias: torch.Tensor) -> None:
    alias.fill_(9)


def fill_array(array) -> None:
    array.fill(9)


def fill_bytes(storage: torch.UntypedStorage) -> None:
    by_address(storage.data_ptr())


def assigned(h: torch.Tensor) -> torch.Tensor:
    x = torch.empty(2)
    x.data = h.detach()
    return x


# How somebody else comes to have the memory of a tensor, and how it is then written into.
SHARED = {
    "data": (lambda h: h.data, fill),
    "data of a view": (lambda h: h.view(2, 1).data, fill),
    "numpy": (lambda h: h.detach().numpy(), fill_array),
    "dlpack": (lambda h: torch.from_dlpack(h.detach()), fill),
    "set_": (lambda h: torch.empty(0).set_(h.detach()), fill),
    "assigned data": (assigned, fill),
    "unsafe_split": (lambda h: h.unsafe_split(1)[0].detach(), fill),
    "Parameter": (lambda h: nn.Parameter(h).data, fill),
    "storage": (lambda h: h.untyped_storage(), fill_bytes),
    "storage of an alias": (lambda h: h.detach().untyped_storage(), fill_bytes),
    "address": (lambda h: h.data_ptr(), by_address),
}


@each("name", SHARED)
@each("is_early", [True, False])
@each("is_gone", [True, False])
def test_a_result_whose_memory_was_shared_is_compared(name, is_early, is_gone):
    """Also one that is gone when the block ends, as in a forward(): a Node has its memory."""
    share, write = SHARED[name]
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        h = x * 3
        alias = share(h) if is_early else None
        y = h * h
        alias = alias if is_early else share(h)
        version = h._version
        write(alias)
        assert h._version == version
        if is_gone:
            del h
    assert len(watched.mutations) == 1
    del y


def test_what_was_shared_and_is_gone_is_not_told_where_nothing_was_changed():
    def forward(x):
        h = x * 3
        y = h * h
        assert h.data.mean() > 0 and h.detach().numpy().any()
        h.data.add_(1)
        h.data.sub_(1)
        return y

    with watch() as watched:
        y = forward(torch.ones(2, requires_grad=True))
    assert watched.mutations == ()
    del y


def test_memory_that_is_gone_with_its_tensor_is_not_read():
    with watch() as watched:
        x = torch.ones(2, requires_grad=True) * 3
        alias = x.data
        y = x * x
        del x, y, alias
        torch.ones(2).fill_(9)  # which may get the same memory
    assert watched.mutations == ()


@pytest.mark.parametrize("show", [lambda buffer: buffer.data, lambda buffer: None])
def test_a_write_that_counts_is_no_mutation_of_a_view_that_is_gone(show):
    """Neither where somebody else could write as well nor where nobody could."""
    w, buffer = torch.ones(2, requires_grad=True), torch.zeros(3, 2)
    with watch() as watched:
        alias = show(buffer)
        y = buffer[0] + w
        buffer.add_(1)
    assert watched.mutations == ()
    del y, alias


def test_a_view_is_compared_that_was_used_before_its_memory_was_shared():
    w, buffer = torch.ones(2, requires_grad=True), torch.zeros(3, 2)
    for row, count in ((0, 1), (1, 0)):  # the row that is used, and another
        with watch() as watched:
            y = buffer[0] * w
            buffer.data[row] += 1
        assert len(watched.mutations) == count
        del y


LENT = {
    "data": (lambda w: w.data, fill),
    "numpy": (lambda w: w.detach().numpy(), fill_array),
    "dlpack": (lambda w: torch.from_dlpack(w.detach()), fill),
}


@pytest.mark.parametrize("name", LENT)
def test_memory_that_was_shared_before_the_block_is_compared(name):
    share, write = LENT[name]
    w = torch.ones(2, requires_grad=True)
    alias = share(w)
    with watch() as watched:
        y = w * w
        with torch.no_grad():
            write(alias)
    assert len(watched.mutations) == 1
    del y


@pytest.mark.parametrize("show", [torch.from_numpy, torch.as_tensor, torch.frombuffer])
def test_memory_that_was_lent_to_torch_is_compared(show):
    numpy = pytest.importorskip("numpy")
    array = numpy.ones(2, dtype=numpy.float32)
    show = (
        (lambda a: torch.frombuffer(a, dtype=torch.float32)) if show is torch.frombuffer else show
    )
    w = torch.ones(2, requires_grad=True)
    before = show(array)
    for inside in (False, True):
        with watch() as watched:
            x = show(array) if inside else before
            y = w * x
            array[0] += 1
        assert len(watched.mutations) == 1
        del x, y


def test_memory_of_other_processes_is_compared():
    w = torch.ones(2).share_memory_().requires_grad_()
    alias = w.untyped_storage()
    with watch() as watched:
        y = w * w
        fill_bytes(alias)
    assert len(watched.mutations) == 1
    del y


def test_memory_that_nobody_else_has_is_read_when_the_block_ends(monkeypatch):
    read = []
    take = tensor_states.fingerprint
    monkeypatch.setattr(tensor_states, "fingerprint", lambda t: read.append(t.shape) or take(t))
    model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2, bias=False))
    x = torch.randn(5, 3)
    with watch() as watched:
        h = model(x)
        y = h.t().reshape(-1).exp().sum()
        assert read == []
        h.data.mul_(2)
        assert read == [h.shape]
    assert len(watched.mutations) == 1
    del y


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_a_nested_tensor_whose_memory_was_shared_has_no_shape_to_keep():
    with watch() as watched:
        x = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], requires_grad=True)
        y = x * 2
        alias = y.data
        z = y * y
    assert watched.mutations == ()
    del z, alias


def test_a_watch_that_nobody_holds_is_gone_without_the_garbage_collector(no_gc):
    # Where that frees references to a tensor that goes, CPython 3.11 ends the process.
    cell = nn.LSTMCell(2, 2)
    with watch() as watched:
        h = c = torch.zeros(1, 2)
        h, c = cell(h, (h, c))
        h.detach().numpy()
    states, loss = ref(watched._recorder.tensors), (h * c).sum()
    assert states() and states().by_memory and states().looks
    del watched
    assert states() is None and loss.grad_fn
