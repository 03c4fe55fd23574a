"""The words of the glossary stand where they should, and say what is so.

The sentences below are some that no lesson proves, and that were once wrong.
"""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from tests.cases import each
from tools.course import lessons
from tools.grammar import Callout, Heading, Opening, Text, sections

COURSE = Path(__file__).parents[2] / "course"
WORDS = sections((COURSE / "glossary.md").read_text(encoding="utf-8"), 2)
LESSON = {  # the number of the lesson that introduces a word, by the word's anchor
    word.lower().replace(" ", "-"): int(re.search(r"\(\[Lesson (\d+)\]", meaning)[1])
    for word, meaning in WORDS.items()
}
# Words that are everyday words too. A lesson may say "a path" before it says what a path is here.
EVERYDAY = {
    "buffer",
    "cut",
    "edge",
    "engine",
    "finding",
    "freeze",
    "handle",
    "hook",
    "kink",
    "leaf",
}
EVERYDAY |= {"node", "order", "path", "player", "root", "slope", "slot", "tie", "view"}
each_lesson = each("lesson", lessons(COURSE))


def links(text: str) -> list[tuple[str, str]]:
    """The links to the glossary: what is shown, and the anchor of the word."""
    return re.findall(r"\[([^]]*)\]\(glossary\.md#([\w-]+)\)", text)


def prose(lesson) -> str:
    """What is said, without code and addresses, and without the lines of links at the end."""
    parts = [p for p in lesson.parts if isinstance(p, Text | Callout | Heading | Opening)]
    said = "".join(p.text for p in parts if not p.text.startswith(("Next: ", "**Where PyTorch")))
    return re.sub(r"`[^`]*`|\]\([^)]*\)", "", said)


# ---- where a word stands


@each_lesson
def test_a_new_word_is_in_italics_in_its_lesson_and_its_entry_names_the_lesson(lesson):
    body, _, end = lesson.text.partition("**New words:**")
    in_italics = [anchor for shown, anchor in links(body) if shown.startswith("*")]
    named = [anchor for shown, anchor in links(body) if shown.startswith(("*", "`"))]
    for _, anchor in links(end.partition("\n")[0]):
        assert LESSON[anchor] == lesson.number, f"{anchor} is a word of lesson {LESSON[anchor]}"
        assert anchor in named, f"{anchor} is neither in italics nor code where it is introduced"
    for anchor in in_italics:
        assert LESSON[anchor] == lesson.number, f"{anchor} is new in lesson {LESSON[anchor]}"


@each_lesson
def test_no_lesson_links_to_a_word_of_a_later_lesson(lesson):
    for _, anchor in links(lesson.text):
        assert LESSON[anchor] <= lesson.number, f"{anchor} is a word of lesson {LESSON[anchor]}"


@each_lesson
def test_no_lesson_uses_a_word_of_the_field_that_comes_later(lesson):
    text = prose(lesson)
    for anchor, number in LESSON.items():
        if number > lesson.number and anchor not in EVERYDAY:
            word = re.sub("[-_]", "[-_ ]", anchor)
            found = re.search(rf"\b{word}s?\b.*", text, re.IGNORECASE)
            assert not found, f"{anchor} is a word of lesson {number}: {found[0]}"


def test_every_word_of_an_entry_has_an_entry_too():
    for word, meaning in WORDS.items():
        for anchor in re.findall(r"\]\(#([\w-]+)\)", meaning):
            assert anchor in LESSON, f"{word} links to {anchor}"


# ---- what an entry says


@pytest.mark.parametrize(("fused", "moves"), [(False, True), (True, False)])
def test_a_fused_optimizer_moves_no_version_counter(fused, moves):
    """In-place operation, which names it as an exception."""
    weight = torch.ones(1, requires_grad=True)
    (weight * weight).sum().backward()
    version = weight._version
    torch.optim.SGD([weight], lr=0.1, fused=fused).step()
    assert weight.item() != 1.0
    assert (weight._version != version) == moves


def test_the_running_statistics_of_a_batch_norm_move_no_version_counter():
    norm = nn.BatchNorm1d(1)
    version = norm.running_var._version
    norm(torch.tensor([[1.0], [5.0]]))
    assert norm.running_var.item() != 1.0 and norm.running_var._version == version


class Round(torch.autograd.Function):
    """Saves what its backward reads or does not read."""

    @staticmethod
    def forward(ctx, x, reads):
        ctx.save_for_backward(x)
        ctx.reads = reads
        return x.round()

    @staticmethod
    def backward(ctx, gradient):
        return gradient + (0 * ctx.saved_tensors[0] if ctx.reads else 0), None


@pytest.mark.parametrize("reads", [True, False])
def test_a_node_refuses_what_it_reads_and_was_changed(reads):
    """Version counter: "refuses to read", since a Node that never reads it runs."""
    x = torch.ones(2, requires_grad=True)
    h = x * 1
    y = Round.apply(h, reads)
    with torch.no_grad():
        h.add_(1)
    if reads:
        with pytest.raises(RuntimeError, match="modified by an inplace operation"):
            y.sum().backward()
    else:
        y.sum().backward()
        assert x.grad.tolist() == [1, 1]


class Best(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        index = x.argmax()
        ctx.mark_non_differentiable(index)
        return index, "a name", x * 2

    @staticmethod
    def backward(ctx, _index, _name, gradient):
        return gradient * 2


def test_a_custom_function_counts_all_that_it_returns():
    """input_nr: torch's own operations count those that can have a gradient."""
    index, _, doubled = Best.apply(torch.ones(2, requires_grad=True))
    assert not index.requires_grad and doubled.output_nr == 2
    assert (doubled * 1).grad_fn.next_functions[0][1] == 2


def test_a_leaf_whose_dtype_was_changed_has_another_accumulategrad():
    """AccumulateGrad: one for a leaf, until ``model.double()`` and its like."""
    model = nn.Linear(2, 1, bias=False)
    before = model.weight * 1
    model.double()
    after = model.weight * 1
    ends = [y.grad_fn.next_functions[0][0] for y in (before, after)]
    assert ends[0].variable is ends[1].variable is model.weight
    assert ends[0] is not ends[1]


def test_an_accumulategrad_lives_as_long_as_a_graph_leads_to_it():
    """AccumulateGrad: a leaf has one while a graph does; ``metadata`` goes with the Node."""
    leaf = torch.ones(1, requires_grad=True)
    first, second = leaf * 2, leaf * 3
    end = first.grad_fn.next_functions[0][0]
    assert second.grad_fn.next_functions[0][0] is end
    end.metadata["seen"] = True
    del end, first, second
    assert (leaf * 2).grad_fn.next_functions[0][0].metadata == {}


def test_a_node_is_given_the_dtype_of_its_result_and_sends_that_of_its_input():
    """Of the clinic, half precision: a cast sends the gradient back in the dtype it came from."""
    seen = []
    y = torch.ones(2, dtype=torch.float16, requires_grad=True).float()
    y.grad_fn.register_hook(lambda sent, given: seen.append((given[0].dtype, sent[0].dtype)))
    y.sum().backward()
    assert seen == [(torch.float32, torch.float16)]
