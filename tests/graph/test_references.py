"""references.py: how one object refers to another."""

import functools
import sys
import types

from torch import nn

from companion.graph.references import path_from
from tests.cases import each


class Plain:
    def __init__(self, held):
        self.held = held


class Slotted:
    __slots__ = ("empty", "held")

    def __init__(self, held):
        self.held = held


class Computes:
    def __getattr__(self, name):
        raise AssertionError("ran code of the user")

    @property
    def held(self):
        raise AssertionError("ran code of the user")


class Odd:
    def __repr__(self):
        raise AssertionError("ran code of the user")


@each(
    ("make", "path"),
    [
        (lambda x: [0, x], "[1].end"),
        (lambda x: (x,), "[0].end"),
        (lambda x: {"a": x}, "['a'].end"),
        (lambda x: {Odd(): x}, "[Odd].end"),
        (lambda x: {x: 0}, "[a key].end"),
        (Plain, ".held.end"),
        (Slotted, ".held.end"),
        (lambda x: functools.partial(print, x).args, "[0].end"),
        (lambda x: types.CellType(x), ".end"),
        (lambda x: frozenset([x]), ".….end"),
    ],
)
def test_the_way_to_what_is_held_comes_first(make, path):
    held = Plain(None)
    assert path_from(make(held), held, ".end") == path


@each("make", [list, dict, Computes, set, lambda: types.CellType(0), nn.Tanh])
def test_what_does_not_hold_it_gives_none_and_no_code_of_the_user_runs(make):
    assert path_from(make(), Plain(None), "") is None


def test_a_dict_of_attributes_reads_as_an_attribute_and_of_a_module_as_torch_names_it():
    thing = Plain(1)
    assert path_from(thing, vars(thing), "['held'][0]") == ".held[0]"
    model = nn.Sequential(nn.Tanh())
    assert path_from(model, vars(model), "['_modules']['0'].x") == ".0.x"


def test_a_frame_leads_on_by_a_variable_by_what_locals_gave_and_by_its_caller():
    def running(held):
        frame, variables = sys._getframe(), locals()
        return (
            path_from(types.TracebackType(None, frame, 0, 1), frame, ".x"),
            path_from(frame, held, ".x"),
            path_from(frame, variables, "['held'].x"),
            path_from(frame, frame.f_back, ".x"),
        )

    variable = f" → held of {running.__qualname__}.x"
    assert running(Plain(None)) == (".x", variable, variable, ".x")


def test_a_function_is_no_way_to_the_globals_of_its_module_nor_to_its_own_code():
    def function():
        pass

    assert path_from(function, function.__globals__, "['x']") is None
    assert path_from(function, function.__code__, "") is None
