"""naming.py: how what somebody gave is told in an error."""

import pytest
import torch

from companion import derivatives, draw, mixed, play, saved_memory
from companion.naming import in_short
from tests.cases import each


@each("value", ["bytes", 3, None, (0, 0.5), ["name"], {"a": 1}, "a" * 60])
def test_what_is_short_is_told_as_it_is(value):
    assert in_short(value) == repr(value)


def test_what_is_long_is_told_in_one_short_line():
    for value in (torch.rand(1000, 1000), "x" * 10**6, [*range(10**6)], {"a": torch.rand(999)}):
        short = in_short(value)
        assert len(short) <= 100 and short.isprintable() and "..." in short
    assert in_short("x" * 99 + ".jpeg").endswith(".jpeg'")  # the end of a path says its format


LARGE = torch.rand(1000, 1000)
CALLS = {
    "saved": lambda x: draw(x, saved=LARGE),
    "path of a drawing": lambda x: draw(x).save("x" * 9999),
    "path of a player": lambda x: play(x).save("x" * 9999),
    "by": lambda x: saved_memory(x, by=["x" * 9999]),
    "names": lambda x: draw(x, names={"x" * 9999: 1}),
    "dims": lambda x: mixed(torch.sin, x.detach().view(1, 1), LARGE),
    "order of a norm": lambda x: derivatives(lambda x: x.norm("x" * 9999), x.detach(), 1),
}


@each("name", CALLS)
def test_no_error_prints_all_of_what_was_given(name):
    with pytest.raises((TypeError, ValueError, NotImplementedError)) as raised:
        CALLS[name](torch.ones((), requires_grad=True) * 2)
    assert len(str(raised.value)) < 250 and "\n" not in str(raised.value)
