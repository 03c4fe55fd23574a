"""How bad the worst value of a tensor is, asked in whatever way is cheapest."""

import torch

from companion.forward.finiteness import FINITE, INFINITE, NAN, worst_of
from tests.cases import each

DTYPES = [
    torch.float16,
    torch.bfloat16,
    torch.float32,
    torch.float64,
    torch.complex64,
    torch.complex128,
]


@each("dtype", DTYPES)
@each("length", [1, 7, 5000])
def test_the_worst_value_is_found_wherever_it_is(dtype, length):
    largest = torch.finfo(dtype).max
    values = {0.0: FINITE, -1.5: FINITE, largest: FINITE, -largest: FINITE}
    values |= {float("inf"): INFINITE, -float("inf"): INFINITE, float("nan"): NAN}
    for value, worst in values.items():
        for position in (0, length // 2, length - 1):
            x = torch.full((length, 2), 0.5, dtype=dtype)
            x[position, 1] = value
            assert [worst_of(t) for t in (x, x.t(), x[position], x[position, 1])] == [worst] * 4
            assert worst_of(x[:, 0]) == FINITE
        assert worst_of(x.requires_grad_()) == worst


def test_an_imaginary_part_counts_and_whole_numbers_are_finite():
    assert worst_of(torch.tensor([1j, complex(0, float("nan"))])) == NAN
    assert worst_of(torch.tensor([complex(1, -float("inf"))])) == INFINITE
    assert worst_of(torch.tensor([2**31 - 1, -1], dtype=torch.int32)) == FINITE
    assert worst_of(torch.zeros(0)) == FINITE


def test_of_memory_that_was_freed_nothing_is_read():
    x = torch.full((4,), float("nan"))
    x.untyped_storage().resize_(0)
    assert worst_of(x) != NAN
