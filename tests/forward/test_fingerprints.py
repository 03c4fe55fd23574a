"""Changes that autograd does not count, as ``Watch.mutations`` finds them."""

import contextlib
import ctypes
import gc
import warnings

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from companion import Mutation, watch
from tests.cases import each


def leaf(*numbers: float) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.float32, requires_grad=True)


def test_a_change_through_data_is_found_with_its_line():
    x = leaf(1, 2)
    with watch() as watched:
        h = x.exp()
        y = h.sum()
        h.data.mul_(2)
    (mutation,) = watched.mutations
    assert mutation.source.text == "h.data.mul_(2)"
    assert (mutation.shape, mutation.dtype) == ((2,), torch.float32)
    assert "mul_" in mutation.message
    assert str(mutation) in str(watched)
    assert isinstance(mutation, Mutation)
    del y


def test_a_change_through_numpy_is_found_by_where_the_array_came_from():
    x = leaf(1, 2)
    with watch() as watched:
        h = x * 3
        array = h.detach().numpy()
        y = h * h
        array[0] = 7
    assert watched.mutations[0].source.text == "h.detach().numpy()"
    del y


def test_a_change_through_dlpack_is_found_by_where_it_was_taken():
    x = leaf(1, 2)
    with watch() as watched:
        h = x * 3
        alias = torch.from_dlpack(h.detach())
        y = h * h
    alias.mul_(2)
    assert watched.mutations[0].source.text == "torch.from_dlpack(h.detach())"
    del y


def test_data_that_is_replaced_is_a_change():
    w = leaf(1, 2)
    with watch() as watched:
        y = w * w
        w.data = torch.zeros(2)
    assert watched.mutations[0].source.text == "w.data = torch.zeros(2)"
    del y


def test_a_change_after_the_block_is_found_when_it_is_asked_for():
    x = leaf(1, 2)
    with watch() as watched:
        h = x.exp()
        y = h.sum()
    assert watched.mutations == ()
    h.data[0] = 5
    assert len(watched.mutations) == 1
    assert len(watched.mutations) == 1
    del y


def test_what_autograd_counts_is_no_mutation_and_nan_is_equal_to_itself():
    x = leaf(1, float("nan"))
    with watch() as watched:
        h = x * 2
        h.mul_(3)
        h[0] = 1
        y = h.exp()
        with torch.no_grad():
            x.add_(1)
    assert watched.mutations == ()
    del y


@each("shape", [(3,), (300, 300), (100_003,)])
@each("dtype", [torch.float32, torch.bfloat16, torch.complex64])
def test_any_single_change_and_any_flip_is_noticed(shape, dtype):
    for change in (lambda d: d.view(-1)[-1:].add_(1), lambda d: d.copy_(d.flip(0))):
        x = torch.randn(shape).to(dtype).requires_grad_()
        for view in (lambda t: t, lambda t: t.t() if t.dim() == 2 else t[::2]):
            with watch() as watched:
                h = x * 1
                v = view(h)
                y = v * 2
                change(h.data)
            assert len(watched.mutations) == 1
        del y


@each("dtype", [torch.float32, torch.float64])
@each("length", [128, 512, 1024, 4096])
def test_rows_that_change_places_are_noticed(dtype, length):
    x = torch.randn(256, length, dtype=dtype).requires_grad_()
    for distance in (1, 2, 4, 16):
        with watch() as watched:
            h = x * 1
            y = h * 2
            rows = h.detach().clone()
            rows[[0, distance]] = rows[[distance, 0]]
            h.data.copy_(rows)
        assert len(watched.mutations) == 1
        del y


def test_what_cannot_be_read_is_left_out():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        tensors = [
            torch.eye(2).to_sparse().requires_grad_(),
            torch.eye(2).to_sparse_csr().requires_grad_(),
            torch.nested.nested_tensor([torch.ones(1), torch.ones(2)]).requires_grad_(),
            torch.ones(2, device="meta", requires_grad=True),
            torch.ones(0, requires_grad=True),
            torch.ones(1, 1).expand(10**6, 10**6).requires_grad_(),
            torch.ones(2).cfloat().conj().requires_grad_(),
        ]
        for x in tensors:
            with watch() as watched:
                y = x.clone() if x.numel() < 10 else x[:1, :1] * 1
            assert [o.index for o in watched.operations]
            assert watched.mutations == ()
            assert watched.reaching(y) == ()
        q = torch.quantize_per_tensor(torch.ones(2), 0.1, 0, torch.qint8)
        with watch() as watched:
            q.dequantize()
        assert len(watched.operations) == 1


class Seeing(TorchDispatchMode):
    """Counts what it sees, as a counter of FLOPs does."""

    seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


@each("shape", [(3, 3), (200, 200)])
@each("turn", [False, True])
def test_a_mode_of_the_user_sees_no_look_and_makes_no_change(shape, turn):
    w, x = torch.ones(shape, requires_grad=True), torch.ones(shape)
    x = x.t() if turn else x
    with Seeing() as alone:
        (w * x).log().sum()
    for is_inside in (True, False):
        mode, x = Seeing(), x.clone()
        with watch() as watched:
            alias = x.data
            with mode:
                y = (w * x).log().sum()
            assert watched.mutations == () and mode.seen == alone.seen
            with mode if is_inside else contextlib.nullcontext():
                ctypes.c_float.from_address(alias.data_ptr()).value += 1
                assert len(watched.mutations) == 1
        del y


def test_where_nan_was_born_is_told_under_a_mode_of_the_user():
    x = torch.full((3000,), -1.0)
    with Seeing() as mode, watch() as watched:
        x.sqrt()
    assert watched.first_nonfinite.name == "sqrt" and mode.seen == 1


def test_of_the_many_sizes_of_tensors_not_every_one_is_kept_for_good():
    with watch():
        for size in range(1, 2000):
            torch.ones(size) + 1
    gc.collect()
    assert len(ctypes.Array.__subclasses__()) < 1500
