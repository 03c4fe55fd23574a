"""What can be wrong with gradients: each code with its cause, its cure, and where it is taught.

One table, ``KINDS``: for what ``diagnose`` sees in a graph, what ``explain`` reads from an error,
and what a ``watch`` says of a cut. To add a code, add an entry here, and in
``diagnosis/diagnosing.py`` the question that finds it. A code is also the anchor of its entry in
the clinic, ``course/clinic.md``.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal, NamedTuple

from companion.source import Source

Severity = Literal["error", "warning", "info"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong with a gradient, or that may be. Its ``str`` reads as advice.

    Attributes:
        code: what kind of thing it is, such as ``"freed"``; the clinic has an entry of this name.
        severity: ``"error"``: ``backward`` raises, or leaves an input without a gradient.
            ``"warning"``: the gradient may not be the one you want. ``"info"``: good to know.
        message: what it is here, in one sentence.
        cause: why, in terms of the graph.
        cure: what to do.
        lesson: the file of the lesson that teaches it, in ``course/``.
        where: the Node, and the line of your program where it is known; else ``""``.
        node: the index of the Node in ``Graph.of(output)``; None if it is no single Node.
        source: the line of your program; None where it is not known.
    """

    code: str
    severity: Severity
    message: str
    cause: str
    cure: str
    lesson: str
    where: str = ""
    node: int | None = field(default=None, repr=False)
    source: Source | None = field(default=None, repr=False)

    def __str__(self) -> str:
        parts = [(f"{self.severity} {self.code}: ", self.message)]
        parts += [("  where: ", self.where)] if self.where else []
        parts += [("  why:   ", self.cause), ("  cure:  ", self.cure)]
        parts += [("  read:  ", f"{self.lesson}, clinic.md#{self.code}")]
        lines = [_wrapped(label, text) for label, text in parts]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        return as_html(str(self))


def as_html(text: str) -> str:
    """Text as a notebook shows it below a cell: line by line, and nothing in it is HTML."""
    return f"<pre>{escape(text)}</pre>"


def _wrapped(label: str, text: str) -> str:
    """Text that fits a terminal and a page; words and code are not broken."""
    return textwrap.fill(
        label + text,
        88,
        subsequent_indent=" " * 9,
        break_long_words=False,
        break_on_hyphens=False,
    )


class Kind(NamedTuple):
    """All that is said of one code.

    Attributes:
        severity: that of its findings, unless one says another.
        lesson: the file of the lesson that teaches it.
        cause: why it happens, in terms of the graph.
        cure: what to do.
        cut: the sentence for a cut of a ``Watch`` that has this code, with the fields of
            ``cut_message``; "" where no cut has it.
        errors: for each error or warning of torch that means this, a regular expression that finds
            it, and our message. Fields of the message are named groups of the expression. Of
            several that fit an error the first counts, in the order of the table. They fit torch
            2.6 to 2.15, and other wordings before.
        variants: by a word, cause and cure where it comes about in another way.
        cut_variants: by such a word, the sentence for a cut.
    """

    severity: Severity
    lesson: str
    cause: str
    cure: str
    cut: str = ""
    errors: Sequence[tuple[str, str]] = ()
    variants: Mapping[str, tuple[str, str]] = {}
    cut_variants: Mapping[str, str] = {}


def finding(
    code: str,
    message: str,
    *,
    severity: Severity | None = None,
    where: str = "",
    node: int | None = None,
    source: Source | None = None,
    variant: str = "",
    because: tuple[str, str] | None = None,
) -> Finding:
    """A finding of a code, with what is special to it; ``where`` is its source unless given.

    It has the cause and the cure of its variant; or, where another code is the reason for it, those
    of ``because``, a code and a variant.
    """
    kind = KINDS[code]
    why, how = because or (code, variant)
    cause, cure = KINDS[why].variants.get(how, (KINDS[why].cause, KINDS[why].cure))
    return Finding(
        code,
        severity or kind.severity,
        message,
        cause,
        cure,
        kind.lesson,
        where or str(source or ""),
        node,
        source,
    )


def cut_message(code: str, called: str, dtype: str, variant: str = "") -> str:
    """The sentence for a cut of a code.

    Args:
        code: the code of the cut.
        called: the operation as one would write it, such as ``argmax()``.
        dtype: the dtype of its result, such as ``int64``.
        variant: the way in which it came about.
    """
    sentence = KINDS[code].cut_variants.get(variant, KINDS[code].cut)
    return sentence.format(called=called, dtype=dtype)


_NODES, _LEAVES, _ORDER = "01-nodes.md", "03-leaves.md", "06-order.md"
_VECTORS, _RUNS = "07-vectors.md", "08-define-by-run.md"
_CUT, _LOST, _SAVED = "09-cutting.md", "10-lost-gradients.md", "11-saved-tensors.md"
_HOOKS, _FUNCTIONS = "13-hooks.md", "14-functions.md"
_IN_PLACE = "12-in-place.md"
_TWICE, _KINKS = "15-create-graph.md", "18-kinks.md"

# Cause and cure of NaN from softmax, whether it reached the output or was masked.
_EMPTY_ROW = (
    "a softmax whose elements are all -inf divides zero by zero; what leaves the row out later "
    "sends it zeros, and zero times NaN is NaN",
    "leave at least one element of each row unmasked, or mask with a large finite number such as "
    "-1e9; if the row came in with NaN, fix what made it",
)

# Cure where a result was to become the weight of a module.
_CALL_WITH_RESULTS = (
    "call the module with the result in place of its parameter: "
    "torch.func.functional_call(layer, {'weight': result}, (x,)); or register how it is computed: "
    "torch.nn.utils.parametrize.register_parametrization"
)

_IN_A_TRANSFORM = (
    "torch.vmap and the other transforms hand their function wrapped tensors: whether the tensor "
    "outside requires grad is not to be seen from there, and its graph neither",
    "differentiate inside by a transform too, as in torch.vmap(torch.func.grad(f)); or diagnose "
    "and differentiate what the transform gives, outside of it",
)

KINDS: dict[str, Kind] = {
    # ---- backward raises, or a gradient is missing
    "not-a-tensor": Kind(
        "error",
        _LOST,
        "only a tensor has a grad_fn; a number or an array has left PyTorch",
        "keep the result a tensor: no .item(), float() or .numpy() before backward()",
        errors=[
            (
                r"'(?P<type>\w+)' object has no attribute 'backward'",
                "backward() was called on a {type}, which is no tensor",
            ),
        ],
    ),
    "no-graph": Kind(
        "error",
        _LOST,
        "the output has no grad_fn, so there is no Node for backward to begin with",
        "find the cut with diagnose(..., watch=watched) after a forward pass in `with watch() as "
        "watched:`; if there is none, call requires_grad_() on an input before it is used",
        errors=[
            (
                r"element \d+ of tensors does not require grad and does not have a grad_fn",
                "backward() was called on a tensor that has no graph",
            ),
        ],
        variants={
            "transform": _IN_A_TRANSFORM,
            "inference": (
                "in inference mode no operation leaves a Node, and enable_grad() does not undo it",
                "compute it outside of the block, or in torch.inference_mode(False) with tensors "
                "that are made there; or use torch.no_grad() in place of the block",
            ),
        },
    ),
    "leaf-output": Kind(
        "error",
        _LOST,
        "the output is a leaf, so backward fills its own .grad and goes nowhere else; if it was "
        "computed, its graph was cut, and requires_grad was switched on afterwards",
        "take requires_grad_() away from the result, and fix the cut before it",
    ),
    "unused-input": Kind(
        "error",
        _LOST,
        "no path leads from the output's Node to this tensor",
        "use it in the computation, or leave it out; autograd.grad gives None for it with "
        "allow_unused=True and zeros with materialize_grads=True",
        errors=[
            (
                r"(?:Tensor at index \d+|One of the differentiated Tensors) "
                r"appears to not have been used in the graph",
                "no path leads from the output to an input that a gradient was asked for",
            ),
        ],
        variants={
            "view": (
                "taking a part of a tensor makes a new tensor, with a Node of its own; what was "
                "computed from the whole does not pass through it",
                "take the gradient by the base and then its part, as in "
                "torch.autograd.grad(loss, X)[0][:, 0:1]; or take the parts out first, and put "
                "the input together from them with cat or stack",
            ),
            "apart": (
                "computing something twice makes two tensors with a Node each: the output was "
                "computed from the one, and this is the other",
                "compute it once, keep it in a variable, and use that for both; a parametrised "
                "weight is computed at each access, unless in "
                "torch.nn.utils.parametrize.cached()",
            ),
            "others": (
                "no path leads from the output's Node to any of the inputs: what was computed used "
                "other tensors, such as those of a layer that was replaced, loaded or copied",
                "give the tensors that the model has now, and make the optimizer after the model "
                "was changed: it holds the tensors that it was given; if the inputs were used, "
                "look for the cut with diagnose(..., watch=watched)",
            ),
        },
    ),
    "reassigned": Kind(
        "error",
        _LEAVES,
        "the graph ends at another leaf, with the values of this one: the variable has got a new "
        "tensor, or the tensor was copied, as copy.deepcopy() does",
        "change the values of the one tensor in place under torch.no_grad(); or give the tensor "
        "that the model has now to everybody who holds this one, the optimizer too",
        variants={
            "not-given": (
                "the graph leads to parameters that are not among the inputs; an optimizer that "
                "was given the same list does not change them",
                "nothing, where somebody else has them, as the other network of two; else register "
                "what holds them: layers in a Python list or dict are no part of "
                "model.parameters(), those in nn.ModuleList, nn.ModuleDict or nn.ParameterList are",
            ),
        },
    ),
    "late-requires-grad": Kind(
        "error",
        _CUT,
        "a Node saved this tensor as a constant: it did not require grad when the operation ran, "
        "and edges are decided then",
        "call requires_grad_() before the forward pass, then run it again",
    ),
    "not-a-leaf": Kind(
        "error",
        _LEAVES,
        "an operation made this tensor, and backward fills .grad for leaves alone",
        "call retain_grad() on it before backward, or take torch.autograd.grad, or make the "
        "tensor a leaf: compute first, then detach().requires_grad_()",
        errors=[
            (
                r"\.grad attribute of a Tensor that is not a leaf Tensor is being accessed",
                "the .grad of a tensor in the middle of a graph was read",
            ),
            (
                r"can't optimize a non-leaf Tensor",
                "an optimizer was given a tensor in the middle of a graph",
            ),
        ],
    ),
    "input-without-grad": Kind(
        "error",
        _CUT,
        "it does not require grad, so no Node stands for it",
        "call requires_grad_() on it before the forward pass",
        errors=[
            (
                r"One of the differentiated Tensors does not require grad|"
                r"retain_grad on Tensor that has requires_grad=False|"
                r"cannot register a hook on a (?:tensor|variable) that doesn't require gradient|"
                r"gradcheck expects at least one input tensor to require gradient",
                "a gradient was asked for a tensor that does not require grad",
            ),
        ],
        variants={
            "transform": _IN_A_TRANSFORM,
            "inference": (
                "in inference mode a tensor gets no Node, whatever its requires_grad says",
                "make it outside of the block, or in torch.inference_mode(False)",
            ),
        },
    ),
    "integer-tensor": Kind(
        "error",
        _LOST,
        "a derivative needs values that can change a little: floating point or complex",
        "make it floating: torch.tensor(..., dtype=torch.float32), or x = x.float(), which gives a "
        "new tensor, before requires_grad_()",
        errors=[
            (
                r"[Oo]nly Tensors of floating point (?:and complex )?dtype can require gradients",
                "requires_grad was asked for a tensor of whole numbers or booleans",
            ),
            (
                r"isDifferentiableType\(grad\.scalar_type\(\)\)",
                "a tensor with a graph was written into a tensor of whole numbers",
            ),
        ],
    ),
    "inference-tensor": Kind(
        "error",
        _CUT,
        "a tensor made under torch.inference_mode() has no version counter, and no Node can save "
        "it for the backward pass",
        "make it under torch.no_grad() instead, or clone() it outside of the block",
        errors=[
            (
                r"Inference tensors cannot be saved for backward|"
                r"Inplace update to inference tensor outside InferenceMode|"
                r"requires_grad=True on inference tensor outside InferenceMode",
                "a tensor of torch.inference_mode() was used where autograd records",
            ),
        ],
    ),
    "non-scalar": Kind(
        "error",
        _VECTORS,
        "backward begins with the gradient of the output, and makes it up (1.0) only for one "
        "element",
        "reduce the output to one number, as with sum() or mean(), or pass "
        "backward(gradient=v) with a v of its shape",
        errors=[
            (
                r"grad can be implicitly created only for scalar outputs",
                "backward() was called without a gradient on a tensor of several elements",
            ),
            (
                r"Mismatch in shape: grad_output\[\d+\] has a shape of",
                "the gradient that the pass should begin with does not have the shape of the "
                "output",
            ),
        ],
    ),
    "complex-output": Kind(
        "error",
        _VECTORS,
        "backward makes up the first gradient, 1.0, only for a real number",
        "compute the real number that you mean, such as abs() (.real leaves out the imaginary "
        "part), or pass backward(gradient=v)",
        errors=[
            (
                r"grad can be (?:implicitly )?(?:created|computed) only for real scalar outputs "
                r"but got (?P<dtype>\S+)",
                "backward() was called without a gradient on a tensor of dtype {dtype}",
            ),
        ],
    ),
    "freed": Kind(
        "error",
        _SAVED,
        "an earlier backward ran this Node, and the engine then frees what the Node had saved",
        "run the forward pass again before each backward; or add the losses and call backward "
        "once; detach() what one step hands to the next; retain_graph=True in the first call "
        "only if you need the same graph twice",
        errors=[
            (
                r"Trying to backward through the graph a second time",
                "the pass came to a Node that an earlier pass ran",
            ),
        ],
    ),
    "modified-in-place": Kind(
        "error",
        _IN_PLACE,
        "the Node saved this tensor, and it was changed since: its version counter moved, or "
        "detach_() took it out of its graph",
        "change a copy: write y = y + 1 for y += 1 and h = h.detach() for h.detach_(), or clone() "
        "before; call optimizer.step() after the backward that needs the old values",
        errors=[
            (
                r"modified by an inplace operation: \[\S+ (?P<shape>\[.*?\])\]"
                r"(?:, which is output \d+ of [\w:]+,)? is at version (?P<now>\d+); "
                r"expected version (?P<then>\d+)",
                "a saved tensor of shape {shape} is at version {now} and was saved at version "
                "{then}",
            ),
            (
                r"one of the variables needed for gradient computation has been modified by an "
                r"inplace",
                "a saved tensor was changed in place",
            ),
            (
                r"saved tensor that has been detached in-place",
                "a saved tensor was taken out of its graph by detach_()",
            ),
        ],
    ),
    "not-implemented": Kind(
        "error",
        _LOST,
        "PyTorch has no derivative formula for this operation; its Node raises when it runs",
        "use operations that have one, or write a torch.autograd.Function",
        errors=[
            (
                r"derivative for '?(?P<op>[^'\n]+?)'? is not implemented",
                "{op} has no derivative formula",
            ),
            (
                r"backward through (?P<op>\S+) but no autograd formula was registered",
                "{op} has no derivative formula",
            ),
        ],
    ),
    "once-differentiable": Kind(
        "error",
        _FUNCTIONS,
        "the gradient was computed by a custom Function whose backward is marked "
        "@once_differentiable",
        "write its backward with differentiable operations and take the mark away",
        errors=[
            (
                r"differentiate twice a function that was marked with @once_differentiable",
                "a gradient that was computed with @once_differentiable was differentiated again",
            ),
        ],
    ),
    "custom-gradients": Kind(
        "error",
        _FUNCTIONS,
        "forward and backward of a custom Function are static methods, and backward must return "
        "one gradient for each argument of forward, each of the shape of that argument",
        "call it by apply, return None for arguments that need no gradient, and check it with "
        "torch.autograd.gradcheck",
        errors=[
            (
                r"function (?P<node>\w+) returned an incorrect number of gradients "
                r"\(expected (?P<wanted>\d+), got (?P<given>\d+)\)",
                "the backward of {node} returned {given} gradients for {wanted} arguments of "
                "forward",
            ),
            (
                r"(?:[Ff]unction (?P<node>\w+) )?returned an invalid gradient at index "
                r"(?P<index>\d+) - (?P<mismatch>[^\n]*)",
                "the backward of {node} returned gradient {index} of another shape or kind: "
                "{mismatch}",
            ),
            (
                r"function (?P<node>\w+) returned a gradient different than None "
                r"at position (?P<position>\d+)",
                "the backward of {node} returned a gradient for argument {position} of forward, "
                "which is no tensor",
            ),
            (
                r"Legacy autograd function with non-static forward method",
                "a custom Function was called as it was before torch 1.3; forward and backward "
                "must be static methods, and apply calls them",
            ),
        ],
    ),
    "leaf-in-place": Kind(
        "error",
        _IN_PLACE,
        "the leaf itself would become the result of an operation, and nothing would be left for "
        ".grad to belong to",
        "update it under torch.no_grad(); where the gradient is to pass through the change, change "
        "a copy: v = w.clone()",
        errors=[
            (
                r"a (?:view of a )?leaf Variable that requires grad (?:is being|has been) used in "
                r"an in-pl",
                "an in-place operation met a leaf, or a view of one",
            ),
            (
                r"leaf variable has been moved into the graph interior",
                "a leaf was overwritten by the result of an operation after the graph was made",
            ),
        ],
    ),
    "multi-view-in-place": Kind(
        "error",
        _IN_PLACE,
        "a change in place gives a view a new Node, and this view cannot have one: it is one of "
        "several of one Node (unbind, split), or was made with gradients off, or its base was "
        "changed since",
        "index instead, as in w[0].mul_(2), and make the view and change it with gradients both "
        "on or both off; or do not work in place",
        errors=[
            (
                r"is a view and is being modified inplace|"
                r"its base or another view of its base has been modified inplace|"
                r"view was created in (?:no_grad|inference) mode",
                "an in-place operation met a view whose history cannot be rewritten",
            ),
        ],
    ),
    "requires-grad-of-non-leaf": Kind(
        "error",
        _CUT,
        "a result of an operation requires grad because its inputs do; only a leaf has a flag of "
        "its own",
        "retain_grad() if you want its .grad, detach() for a tensor without a graph; or switch "
        "the flag of the leaves before the forward pass",
        errors=[
            (
                r"you can only change requires_grad flags of leaf variables",
                "requires_grad of a tensor in the middle of a graph was set",
            ),
        ],
    ),
    "deepcopy": Kind(
        "error",
        _NODES,
        "a copy of a tensor in the middle of a graph would need a copy of the graph",
        "copy t.detach(), or t.clone() to stay in the graph; look for tensors of a forward pass "
        "that a module keeps as attributes",
        errors=[
            (
                r"Only Tensors created explicitly by the user \(graph leaves\) support the "
                r"deepcopy",
                "copy.deepcopy met a tensor in the middle of a graph",
            ),
        ],
    ),
    "numpy": Kind(
        "error",
        _LOST,
        "NumPy has no grad_fn, so the value would leave the graph",
        "t.detach().numpy() to look at it; to differentiate through it, write it with torch",
        errors=[
            (
                r"Can't call numpy\(\) on Tensor that requires grad",
                "NumPy was asked to take a tensor that is in a graph",
            ),
        ],
    ),
    "gradcheck": Kind(
        "error",
        _VECTORS,
        "gradcheck compares the gradient with finite differences, which need float64, a function "
        "that is smooth there, and a graph that holds all of it",
        "give inputs of dtype float64, at a point that is no kink; look for a cut; if it still "
        "fails, the backward formula is wrong",
        errors=[
            (
                r"Input #(?P<index>\d+) requires gradient and is not a double precision",
                "input {index} of gradcheck is not double precision",
            ),
            (
                r"Jacobian mismatch for output|Numerical gradient for function expected to be zero",
                "the gradient and the finite difference differ",
            ),
        ],
    ),
    # ---- the gradient may not be the one you want
    "detached": Kind(
        "warning",
        _CUT,
        "detach() and .data give the same values without a grad_fn: a constant for autograd",
        "take it away where the gradient should pass; keep it where you mean a constant",
        cut="{called} gives the value without its graph",
    ),
    "left-torch": Kind(
        "warning",
        _LOST,
        "a Python number, list or NumPy array has no grad_fn: a constant for autograd",
        "compute on with the tensor itself",
        cut="{called} gives a plain value, which autograd does not follow",
        errors=[
            (
                r"Converting a tensor with requires_grad=True to a scalar",
                "a tensor that requires grad was made a Python number",
            ),
        ],
    ),
    "copied": Kind(
        "warning",
        _LOST,
        "torch.tensor copies values and forgets where they came from",
        "torch.stack or torch.cat to put tensors together, clone() to copy one",
        cut="{called} copies the value into a new tensor without a graph",
        variants={
            "parameter": (
                "nn.Parameter(result) is a new leaf with the values of the result: the graph ends "
                "at it, and it gets the gradient",
                _CALL_WITH_RESULTS,
            ),
            "written": (
                "what is written through .data, or with gradients off, leaves no Node: the tensor "
                "keeps the place in the graph that it had",
                _CALL_WITH_RESULTS + "; nothing, where the values are meant as constants",
            ),
            "deepcopy": (
                "a deep copy has the values and leaves of its own, which get the gradients",
                "run the model itself; for inner steps compute new weights, as w - lr * g, and "
                "call the model with them: torch.func.functional_call(model, weights, (x,))",
            ),
        },
        cut_variants={
            "parameter": "{called} makes a new leaf of the values of a result",
            "written": "{called} writes a result into a tensor without a Node for it",
            "deepcopy": "copy.deepcopy() copies the values into new leaves",
        },
        errors=[
            (
                r"To copy construct from a tensor, it is recommended to use",
                "a tensor was copied by value",
            ),
        ],
    ),
    "not-differentiable": Kind(
        "info",
        _LOST,
        "comparisons, arg-functions and casts to whole numbers move in jumps; no Node stands for "
        "them",
        "nothing, where it is a mask or an index; else use a smooth stand-in, such as softmax "
        "for argmax or sigmoid for a step",
        cut=(
            "{called} gives {dtype} values, which carry no gradient; that is usual "
            "for masks and indices, and matters only if a gradient was expected through them"
        ),
    ),
    "no-formula": Kind(
        "warning",
        _LOST,
        "PyTorch has no derivative formula for this operation, and gives its result no Node",
        "use operations that have one, or write a torch.autograd.Function",
        cut="{called} has no formula for its derivative, so its result has no graph",
    ),
    "no-grad": Kind(
        "warning",
        _CUT,
        "the operation ran with gradients off, so it left no Node",
        "move it out of torch.no_grad(), or away from what set_grad_enabled(False) governs",
        cut="{called} ran while gradients were off (torch.no_grad, set_grad_enabled(False))",
        variants={
            "sample": (
                "sample() of a distribution draws with gradients off: the draw is a constant",
                "rsample(), where the distribution has it, lets the gradient through the draw; "
                "else use the score function, log_prob(draw) * reward",
            ),
            "checkpoint": (
                "checkpoint() with use_reentrant=True runs its function with gradients off, and "
                "makes a Node only if one of the tensors it is given requires grad",
                "checkpoint(..., use_reentrant=False), or requires_grad_() on a tensor that goes "
                "in",
            ),
            "function": (
                "gradients are off in the forward of a custom Function; its Node leads to what "
                "apply() was given, and to nothing else",
                "give apply() the tensors that should get a gradient, with gradients on, and "
                "return a gradient for each from backward",
            ),
        },
        cut_variants={
            "sample": "{called} ran in sample(), which draws with gradients off",
            "checkpoint": "{called} ran in checkpoint(use_reentrant=True), which was given "
            "nothing that requires grad",
            "function": "{called} ran in the forward of a custom Function, with gradients off",
        },
    ),
    "inference-mode": Kind(
        "warning",
        _CUT,
        "the operation ran under torch.inference_mode(), so it left no Node",
        "move it out of the block, or into torch.inference_mode(False), with tensors that are made "
        "there; enable_grad() does not undo inference mode",
        cut="{called} ran in inference mode, where no graph is made",
    ),
    "control-flow": Kind(
        "info",
        _RUNS,
        "Python decided by the value; the graph holds the branch that ran",
        "nothing: that is define-by-run",
        cut=(
            "{called} let Python decide by the value; that is harmless, since the graph "
            "holds what was then computed"
        ),
    ),
    "changed-behind": Kind(
        "warning",
        _IN_PLACE,
        "the values were changed through .data or a NumPy array that shares them, and its "
        "version counter did not move; what Nodes saved is no longer what the forward pass used",
        "change them under torch.no_grad() and through the tensor itself or detach(), which "
        "share its version counter",
    ),
    "accumulates": Kind(
        "warning",
        _LEAVES,
        "AccumulateGrad adds to the .grad that is there",
        "set .grad = None, or zero_grad(), before backward, unless you mean to add",
    ),
    "half-updated": Kind(
        "warning",
        _ORDER,
        "the leaves whose AccumulateGrad ran before the error have got their gradient",
        "set .grad = None for all of them before you try again",
    ),
    "growing-graph": Kind(
        "warning",
        _SAVED,
        "a tensor keeps its graph, and the graph of a sum over steps holds the graphs of all steps",
        "add up loss.item(), or loss.detach()",
    ),
    "reference-cycle": Kind(
        "warning",
        _TWICE,
        "under create_graph=True .grad has a graph that leads back to its leaf: neither is freed "
        "while .grad is set",
        "torch.autograd.grad(loss, inputs, create_graph=True), or .grad = None afterwards",
        errors=[
            (
                r"Using backward\(\) with create_graph=True will create a reference cycle",
                "backward() was called with create_graph=True",
            ),
        ],
    ),
    "zero-derivative": Kind(
        "warning",
        _LOST,
        "round, floor, sign and the like are flat between their jumps; their Nodes send zero",
        "a smooth stand-in, or a straight-through estimator: x + (x.round() - x).detach()",
        variants={
            "flat": (
                "the slope of this function is zero where all of its input lies, as that of clamp "
                "is outside of its bounds",
                "bring the input into the range where there is a slope, by its scale or by how the "
                "parameters begin; or take a smooth or leaky function",
            ),
            "one-element": (
                "softmax of one element is 1, and what is normalised over one element is 0, "
                "whatever goes in",
                "take sigmoid for a network with one output, or another dim=: the one along which "
                "there are several elements",
            ),
            "masked": (
                "a mask leaves out every element, and what is left out gets zero",
                "look at the mask: it may be turned round, as where(mask, ...) for "
                "where(~mask, ...)",
            ),
            "cancels": (
                "the two gradients are equal but for their sign; so are those of "
                "log_prob(rsample()) by the mean, since the sample moves with the mean",
                "detach() the sample for log_prob(...) * reward, as sample() does; to follow the "
                "sample itself, differentiate what is computed from rsample()",
            ),
        },
    ),
    "nan-risk": Kind(
        "warning",
        _KINKS,
        "the formula divides by zero here: it sends an infinite gradient, and NaN where a zero "
        "arrives or is met further on",
        "keep the input of the operation away from the point, not its result: "
        "clamp(min=1e-12) before it, or torch.where(mask, x, 1.0).sqrt() and then mask again",
        variants={
            "masked": (
                "a mask, where() or an index leaves out a value and not its Node: that gets a zero "
                "from there, and zero times infinity or NaN is NaN",
                "mask the input of the operation, not only its result: torch.where(mask, x, "
                "0.0).exp() with a safe value in place of x, and then mask again",
            ),
            "empty-row": _EMPTY_ROW,
        },
    ),
    "non-finite": Kind(
        "warning",
        _KINKS,
        "formulas compute with the values of the forward pass; what is infinite or NaN there "
        "spoils the gradients that meet it",
        "fix the forward pass first: find the first operation whose result is not finite",
        errors=[
            (
                r"Function '(?P<node>\w+)' returned nan values in its (?P<index>\d+)\w\w output",
                "{node} gave NaN for its input {index}",
            ),
        ],
        variants={
            "empty-row": _EMPTY_ROW,
            "after": (
                "the formula of this Node divided by zero, or met an infinity or NaN: one that "
                "came to it, or one of the forward pass, which may be masked in the loss",
                "if the loss is finite, keep the input of the operation away from the point, or "
                "mask it before: torch.where(mask, x, 1.0).sqrt(); else fix the operation of the "
                "forward pass that gave the first NaN or infinity. diagnose(loss, watch=watched) "
                "tells before the backward pass, watched.first_nonfinite names the operation",
            ),
        },
    ),
    "ties": Kind(
        "info",
        _KINKS,
        "at a tie the derivative does not exist, and each formula takes its own choice",
        "nothing, but do not test gradients at ties",
    ),
    "dead-relu": Kind(
        "warning",
        _KINKS,
        "relu sends zero wherever its input was zero or less, which is everywhere here",
        "look at what goes in; with leaky_relu some gradient passes",
    ),
    "hook": Kind(
        "info",
        _HOOKS,
        "a hook may change the gradient that passes, or change it in place for others as well",
        "make hooks return a new tensor, and take away the ones you do not need: handle.remove()",
    ),
    "half-precision": Kind(
        "info",
        _KINKS,
        "gradients have the dtype of the values: in float16 small ones become zero and large ones "
        "infinite, in bfloat16 they keep three digits at most",
        "compute in float32, or scale the loss for float16",
    ),
    # ---- what no graph can tell: the clinic has them by symptom
    "constant-gradient": Kind(
        "warning",
        _TWICE,
        "no formula of the backward pass used a tensor that requires grad, as for a linear "
        "function; or a custom Function hid that it did",
        "where the gradient is constant its derivative is zero: companion.nth_derivative and "
        "materialize_grads=True give zeros, or ask for gradient.requires_grad; else write the "
        "backward of the Function with differentiable operations",
        cut="{called} gave a gradient that has no graph, although create_graph=True",
    ),
    "penalty-detached": Kind(
        "warning",
        _TWICE,
        "without create_graph=True a gradient has no graph: it is a constant in the loss",
        "take the gradient with torch.autograd.grad(..., create_graph=True)",
        cut="{called} without create_graph=True gives gradients that have no graph",
    ),
    "duplicate-indices": Kind(
        "warning",
        _IN_PLACE,
        "of several values written to one place one stays, and the backward formula sends a "
        "gradient to each of them",
        "index_put_(..., accumulate=True) for their sum; else write to each place once",
    ),
    "complex-conjugate": Kind(
        "info",
        _VECTORS,
        "for complex tensors PyTorch's gradient is the direction of steepest ascent, which for a "
        "holomorphic function is the conjugate of its derivative",
        "nothing, where a real loss is to be made smaller; for the derivative of a holomorphic "
        "function take conj() of the gradient",
    ),
}
