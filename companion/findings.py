"""What can be wrong with gradients: each code with its cause, its cure, and where it is taught.

One table, ``KINDS``: for what ``diagnose`` sees in a graph, what ``explain`` reads from an error,
and what a ``watch`` says of a cut. To add a code, add an entry here, and in
``diagnosis/diagnosing.py`` the question that finds it. A code is also the anchor of its entry in
the clinic, ``course/clinic/``, in whose order they stand. The order between codes says nothing
else: no message of torch fits two of them.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping, Sequence
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
        parts += [("  read:  ", f"{self.lesson}, clinic/#{self.code}")]
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
            several that fit an error the first counts, in the order of the table, those of the
            variants before those of the kind. They fit torch 2.6 to 2.15, and other wordings
            before.
        variants: by a word, cause and cure where it comes about in another way, and behind them
            the errors that mean this one.
        cut_variants: by such a word, the sentence for a cut.
    """

    severity: Severity
    lesson: str
    cause: str
    cure: str
    cut: str = ""
    errors: Sequence[tuple[str, str]] = ()
    variants: Mapping[str, tuple[str, str, *tuple[tuple[str, str], ...]]] = {}
    cut_variants: Mapping[str, str] = {}

    @property
    def wordings(self) -> Iterator[tuple[str, str, str]]:
        """Each expression with its message and its variant, those of the variants first."""
        for variant, (_, _, *errors) in self.variants.items():
            yield from ((pattern, message, variant) for pattern, message in errors)
        yield from ((pattern, message, "") for pattern, message in self.errors)


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
    cause, cure, *_ = KINDS[why].variants.get(how, (KINDS[why].cause, KINDS[why].cure))
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


# What a message calls NaN or infinite. A pattern is JavaScript's too, which has no (?i).
_NAN = r"\b(?:[Nn][Aa][Nn]|[Ii]nf(?:init[ey]|inities)?|[Nn]on-?finite|not finite)\b"
_NODES, _LEAVES, _ORDER = "01-nodes.md", "03-leaves.md", "06-order.md"
_CHAIN = "04-chain-rule.md"
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

# Cause and cure where a value became a number or an array, of which nobody knows what came of it.
_LEFT_TORCH = (
    "a Python number, list or NumPy array has no grad_fn, and what is computed from it has none "
    "either, whatever tensor is made of it",
    "if the output is computed from that, compute on with the tensor itself: no item(), numpy() "
    "or detach() on the way, torch.stack to put tensors together, and torch's functions in place "
    "of NumPy's, or a torch.autograd.Function with a backward around these; if it was only looked "
    "at, use the tensor in the output as well, or leave it out of diagnose()",
)

# Cause and cure of a view that was made with gradients off.
_BARE_VIEW = (
    "a view says requires_grad=True if its base does; made with gradients off it has no Node, so "
    "no gradient goes on to its base, and its own .grad stays None too",
    "take the view with gradients on: outside of torch.no_grad() and inference mode, in each "
    "forward pass; if a constant is meant, detach() says so",
)

# Cause and cure where the block that made the output did not take an input at all.
_NOT_IN_THE_BLOCK = (
    "no operation took it in the block, but for those of other threads and of scripts, which a "
    "watch does not see; what was computed from it before, with gradients off, as in __init__, is "
    "a constant by now",
    "compute what depends on it in each forward pass, with gradients on; if it should have no "
    "part in this output, leave it out of diagnose()",
)

# Cure where a value moves in jumps, and a gradient is wanted.
_SMOOTH = (
    "a smooth stand-in, such as softmax for argmax or sigmoid for a step; a straight-through "
    "estimator, as soft + (hard - soft).detach(); or give what comes before it a loss of its own"
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

# Why a function gives NaN for what it does not take, and what to do.
_TOO_LARGE = (
    "of values as large as these the result, or its slope, is larger than the dtype goes: float32 "
    "and bfloat16 end at 3.4e38, which is exp(88.7), float16 at 65504, which is exp(11)",
    "keep the input of the operation small: x.clamp(-80, 80) before it, or a norm layer, or a "
    "lower learning rate where the weights grow; or stay with logarithms, as F.log_softmax, "
    "torch.logsumexp and F.softplus do: log(cosh(x)) is x + F.softplus(-2 * x) - math.log(2)",
)
_OUTSIDE_OF_DOMAIN = (
    "the function takes real numbers from a part of the line alone, and gives NaN for all others",
    "keep what goes in where the function is defined: x.clamp(min=1e-6) before log, sqrt or a "
    "power with a fraction, x.clamp(-1 + 1e-6, 1 - 1e-6) before acos, asin, atanh or erfinv; a "
    "power that keeps the sign is x.sign() * x.abs() ** p",
)

KINDS: dict[str, Kind] = {
    # ---- error-backward.md
    "no-graph": Kind(
        "error",
        _LOST,
        "the output has no grad_fn, so there is no Node for backward to begin with",
        "find the cut with diagnose(..., watch=watched) after a forward pass in `with watch() as "
        "watched:`; if there is none, call requires_grad_() on an input before it is used",
        errors=[
            (
                r"of (?:tensors|variables) does not require grad|"
                r"does not require grad and does not have a grad_fn",
                "backward() was called on a tensor that has no graph",
            ),
            (
                r"Output \d+ of the user-provided function does not require gradients",
                "the function that torch.autograd.functional was given cuts the graph",
            ),
        ],
        variants={
            "transform": _IN_A_TRANSFORM,
            "inference": (
                "in inference mode no operation leaves a Node, and enable_grad() does not undo it",
                "compute it outside of the block, or in torch.inference_mode(False) with tensors "
                "that are made there; or use torch.no_grad() in place of the block",
            ),
            "leaf": (
                "a grad_fn stands for the operation that made a tensor, and no operation made a "
                "leaf; the Node that fills its .grad is made where it is used",
                "look at a tensor that was computed from it, as in (x * 1).grad_fn.next_functions",
            ),
            "gradient": (
                "the output has no grad_fn; what torch.autograd.grad and backward() give has one "
                "only with create_graph=True",
                "if it was computed from a gradient alone, take that with create_graph=True; else "
                "find the cut with diagnose(..., watch=watched) after a forward pass in `with "
                "watch() as watched:`",
            ),
            "unseen": _NOT_IN_THE_BLOCK,
            "constants": (
                "no tensor that went into the output required grad, so no operation left a Node",
                "call requires_grad_() on an input, or on the parameters if they are frozen, "
                "before the forward pass",
            ),
        },
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
            (
                r"Calling register_hooks on a saved tensor after it has been freed",
                "hooks were set on what an earlier pass freed",
            ),
            (
                r"chunked backward called twice",
                "the pass came a second time to linear_cross_entropy, which frees at once",
            ),
        ],
        variants={
            "part": (
                "this part of the graph was computed earlier and kept, and a backward pass ran it "
                "and freed it; the rest was not run yet",
                "compute it anew in each forward pass, or detach() it where no gradient should go "
                "on into it, as a state that one step hands to the next; where two losses share "
                "it, add them and call backward once",
            ),
            "grad": (
                "torch.autograd.grad runs a backward pass, which frees what the Nodes had saved, "
                "and gives a gradient without a graph",
                "pass create_graph=True to it: then the graph stays, and the gradient has one of "
                "its own",
            ),
            "sum": (
                "a sum holds the graph of each of its parts, and backward() of a part ran that "
                "graph and freed it",
                "add up loss.item() or loss.detach() where the sum is only to be read; to call "
                "backward() on the sum, do not call it on the parts",
            ),
        },
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
                r"grad can be implicitly created only for scalar",
                "backward() was called without a gradient on a tensor of several elements",
            ),
            (
                r"Mismatch in shape: grad_output\[\d+\] has a shape of",
                "the gradient that the pass should begin with does not have the shape of the "
                "output",
            ),
            (
                r"gradients can be either Tensors or None|got \d+ tensors and \d+ gradients|"
                r"of gradients tuple is (?:None|not a Tensor)|"
                r"If `is_grads_batched=True`, we interpret the first dimension",
                "the gradients that the pass should begin with are not one tensor for each output",
            ),
            (
                r"`grad_tensors` and `grad_variables` \(deprecated\) arguments both passed",
                "the gradients that the pass should begin with were given twice",
            ),
            (
                r"The vector v can only be None if|v has invalid size|"
                r"v is a tuple of invalid length|The given v should contain a single Tensor",
                "torch.autograd.functional was given no vector v of the shape that is needed",
            ),
        ],
        variants={
            "one-number": (
                "torch.func.grad and hessian differentiate one number, a tensor of one element "
                "without dimensions",
                "return one number, as with sum() or mean(); torch.func.jacrev takes several "
                "outputs, and torch.func.vjp a vector for them",
                (
                    r"Expected f\(\*args\) to return a|"
                    r"given to (?:hessian|hvp|vhp) should (?:contain|return) a single",
                    "a function that should give one number gave something else",
                ),
            ),
        },
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
            (
                r"For complex Tensors, both grad_output and output are required to have the same",
                "the gradient that the pass should begin with does not have the complex dtype of "
                "the output",
            ),
        ],
    ),
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
            (
                r"all inputs have to be Tensors or GradientEdges, but got (?P<type>\w+)",
                "a gradient was asked for a {type}, which is no tensor",
            ),
        ],
        variants={
            "no-loss": (
                "the library calls backward() on the loss that this returns, and found none in it",
                "return the loss itself, a tensor without item(); a model of transformers computes "
                "one where it is given labels=",
                (
                    r"`training_step` must return a Tensor, a dict, or None|"
                    r"the 'loss' key needs to be present",
                    "training_step returned no loss that is a tensor",
                ),
                (
                    r"The model did not return a loss from the inputs",
                    "the model returned no loss",
                ),
            ),
            "several": (
                "a graph begins at a tensor; a list, a tuple, a dict or an object only holds some, "
                "and a module gives some when it is called",
                "compute one number of them, such as the sum of the losses, and take that; of "
                "what a model of transformers returns take .loss",
                (
                    r"'(?P<type>tuple|list|dict|OrderedDict|\w*Output\w*)' object has no attribute "
                    r"'backward'",
                    "backward() was called on a {type}, which holds tensors and is none",
                ),
            ),
            "none": (
                "a function that ends without return gives None; a model of transformers computes "
                "a loss only where it is given labels=",
                "return the loss from the function that computes it; give the model labels=",
                (
                    r"'NoneType' object has no attribute 'backward'",
                    "backward() was called on None: no loss was computed, or none returned",
                ),
            ),
            "empty-sum": (
                "a sum that begins with loss = 0 stays that number where no tensor is added to it, "
                "as in a loop over an empty list, or in a batch where no case of an if holds",
                "leave the step out where there is nothing to learn from, as by continue; a number "
                "that a tensor was made into, by len() or int(), has no gradient either",
                (
                    r"'int' object has no attribute 'backward'",
                    "backward() was called on an int, to which no tensor was added",
                ),
            ),
            "itself": (
                "a graph begins at a tensor, and only a tensor has a grad_fn",
                "give the tensor itself, such as the loss",
            ),
        },
    ),
    "half-updated": Kind(
        "warning",
        _ORDER,
        "the leaves whose AccumulateGrad ran before the error have got their gradient",
        "set .grad = None for all of them before you try again",
    ),
    # ---- error-in-place.md
    "modified-in-place": Kind(
        "error",
        _IN_PLACE,
        "the Node saved this tensor, and it was changed since: its version counter moved, or "
        "detach_() took it out of its graph",
        "change a copy: write y = y + 1 for y += 1, nn.ReLU() for nn.ReLU(inplace=True) and "
        "h = h.detach() for h.detach_(), or clone() before; call optimizer.step() after the "
        "backward that needs the old values",
        errors=[
            (
                r"modified by an inplace operation: \[\S+ (?P<shape>\[.*?\])\]"
                r"(?:, which is output \d+ of [\w:]+,)? is at version (?P<now>\d+); "
                r"expected version (?P<then>\d+)",
                "a saved tensor of shape {shape} is at version {now} and was saved at version "
                "{then}",
            ),
            (
                r"one of the variables needed for gradient computation has been",
                "a saved tensor was changed in place",
            ),
            (
                r"saved tensor that has been detached in-place",
                "a saved tensor was taken out of its graph by detach_()",
            ),
        ],
        variants={
            "leaf": (
                "the Node saved a weight, or another leaf, and that was updated since: by "
                "optimizer.step(), clamp_(), copy_(), or an embedding with max_norm",
                "call each backward() before the step() that changes its weights, or run the "
                "forward pass again after that, in a GAN the discriminator on the fakes; where an "
                "older graph is part of this one, as by a hidden state or total += loss, detach() "
                "that, since retain_graph=True leads here; or use w.clone() where the old values "
                "are meant",
            ),
            "swapped": (
                "swap_tensors, which load_state_dict and to() may use, put another tensor in the "
                "place of a parameter, and the AccumulateGrad of an older graph still names it",
                "run the forward pass again after the change, and let go of each older graph "
                "first, as by del loss",
                (
                    r"AccumulateGrad node that was poisoned by swap_tensors",
                    "a parameter was swapped for another tensor after the graph was made",
                ),
                (
                    r"_apply\(\): Couldn't swap (?P<name>\S+)",
                    "{name} could not be swapped for another tensor, as something still holds it",
                ),
            ),
        },
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
        variants={
            "hook": (
                "a module with a full backward hook takes and gives views of its tensors, "
                "through a Function of its own that calls the hook; to change such a view in place "
                "would go round the hook",
                "do not change it in place: nn.ReLU(inplace=False) for the module that has the "
                "hook or comes after it, y = y + 1 for y += 1; or hook the tensor instead: "
                "output.register_hook(...) in a forward hook",
                (
                    r"BackwardHookFunction\w* is a view and is being modified inplace",
                    "an in-place operation met what a module with a backward hook took or gave",
                ),
            ),
            "function": (
                "a custom Function gave a view, or its input as it came; to change that in place "
                "would go round the backward of the Function",
                "change a copy: y = y + 1 for y += 1, or y.clone() before; in the Function itself "
                "return a new tensor, such as x.clone()",
                (
                    r"Output \d+ of (?P<function>\w+) is a view and is being modified inplace\. "
                    r"This view was created inside a custom Function",
                    "an in-place operation met a view that the custom Function {function} gave",
                ),
            ),
            "detach": (
                "detach_() takes a tensor out of its graph, and a view would still be tied to its "
                "base",
                "v = v.detach(); for gradients under DistributedDataParallel "
                "optimizer.zero_grad(set_to_none=True)",
                (
                    r"Can't detach views in-place",
                    "detach_() was called on a view",
                ),
            ),
        },
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
                r"requires_grad=True on inference tensor outside InferenceMode|"
                r"Inference tensors do not track version counter",
                "a tensor of torch.inference_mode() was used where autograd records",
            ),
        ],
    ),
    # ---- error-before.md
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
            (
                r"Can't call (?P<name>\w+)\(\) on Variable that requires grad",
                "{name}() was to run a Python function on a tensor that requires grad",
            ),
            (
                r"Can't export tensors that require gradient|"
                r"Can't get __cuda_array_interface__ on Variable that requires grad",
                "another library was asked to take a tensor that is in a graph",
            ),
            (
                r"Cannot input a tensor that requires grad as a scalar argument",
                "a tensor that requires grad was given where a Python number is needed",
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
        variants={
            "process": (
                "another process has no part of the graph, so a tensor in the middle of it cannot "
                "be sent there",
                "send t.detach(), and compute the loss in the process that has the graph",
                (
                    r"Cowardly refusing to serialize non-leaf tensor which requires_grad",
                    "a tensor in the middle of a graph was sent to another process",
                ),
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
                r"data set to a tensor that requires gradients must be floating point",
                "the .data of a tensor that requires grad was set to whole numbers or booleans",
            ),
            (
                r"isDifferentiableType\(grad\.scalar_type\(\)\)",
                "a tensor with a graph was written into a tensor of whole numbers",
            ),
        ],
        variants={
            "quantized": (
                "quantized weights are whole numbers, so none of them can get a gradient",
                "train small layers beside them, in floating point, as with "
                "peft.get_peft_model(model, LoraConfig(...)), or load the model unquantized",
                (
                    r"cannot perform fine-tuning on purely quantized models",
                    "no weight of the model can be trained: all are quantized",
                ),
            ),
        },
    ),
    # ---- error-grad.md
    "unused-input": Kind(
        "error",
        _LOST,
        "no path leads from the output's Node to this tensor",
        "use it in the computation, or leave it out; autograd.grad gives None for it with "
        "allow_unused=True and zeros with materialize_grads=True",
        variants={
            "unwatched": (
                "no path leads from the output's Node to it: it is used nowhere, it required no "
                "grad yet when it was used, or all that comes from it is cut off",
                "use it in the computation, or leave it out; if it is used, run the forward pass "
                "in `with watch() as watched:`, and diagnose(..., watch=watched) names the cut",
            ),
            "left": _LEFT_TORCH,
            "unseen": _NOT_IN_THE_BLOCK,
            "decided": (
                "a value by which Python decides, as in `if x > 0:`, goes into nothing: the graph "
                "holds what was then computed, and no path leads to the value",
                "for a gradient through the decision compute it smoothly: p * a + (1 - p) * b with "
                "p = torch.sigmoid(x), for `a if x > 0 else b`; else use it in the computation, or "
                "leave it out",
            ),
            "lazy": (
                "the parameters of a lazy module, such as nn.LazyLinear, get their shape and "
                "values from the first input; nothing was given to this one",
                "call the module in the forward pass, or take it out of the model; make the "
                "optimizer after one forward pass",
            ),
            "nested": (
                "checkpoint(use_reentrant=True), and a custom Function that calls backward(), "
                "compute what is inside of them again in the backward pass, with a graph of its "
                "own: that is where its parameters get their gradient",
                "nothing, if it is used in there; to be sure pass use_reentrant=False to the "
                "checkpoint, or look at .grad after one backward()",
            ),
            "data": (
                "the output was computed from other tensors: from a copy of this one, as to(), "
                "float() or a loader of batches makes one, or without it",
                "call requires_grad_() on the very tensor that goes into the model, after the last "
                "x = x.to(device); or before all of it, and then ask for the first one's .grad",
            ),
            "only-added": (
                "what is only added drops out of a derivative, as the last bias of a network does "
                "from its derivative by its input, and from a second derivative all that comes "
                "after what is linear piece by piece, as relu: no formula of it has them",
                "nothing, where the loss is of derivatives alone: leave it out of diagnose(), and "
                "skip a .grad that is None; else add a term of the values themselves, such as that "
                "of data or of a boundary; for second derivatives tanh, softplus or SiLU, not relu",
            ),
            "asked": (
                "no path leads from the output's Node to this tensor; or each one passes a Node "
                "that gives no gradient, as a custom Function does whose backward returns None, "
                "or norm(p=0)",
                "look with walk_grad_fn(output) whether the tensor is there. If not, use it in the "
                "computation, or leave it out; if so, look at the Nodes above it. autograd.grad "
                "gives None for it with allow_unused=True, zeros with materialize_grads=True",
                (
                    r"(?:Tensor at index \d+|One of the differentiated Tensors) "
                    r"appears to not have been used in the graph",
                    "no gradient came to an input that one was asked for",
                ),
                (
                    r"Could not compute gradients for (?P<what>node features|edges|\w+ masks?)",
                    "no gradient came to the mask of {what} that an explainer learns",
                ),
            ),
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
                "what was computed used other tensors, such as those of a layer that was replaced, "
                "loaded or copied",
                "give the tensors that the model has now, and make the optimizer after the model "
                "was changed: it holds the tensors that it was given; if the inputs were used, "
                "look for the cut with diagnose(..., watch=watched)",
            ),
            "sends-none": (
                "a path leads from the output's Node to this tensor, and a Node on it sends None: "
                "a custom Function does where its backward returns None, and so do norm(p=0) and "
                "operations whose result no gradient can follow",
                "return a gradient from the backward of the Function, or use another operation; "
                "materialize_grads=True gives zeros where zero is what you mean",
            ),
            "strict": (
                "strict=True asks that each output depends on each input, and one does not",
                "use the input in the function, or pass strict=False, which gives zeros",
                (
                    r"[Oo]utput (?:\d+ )?of the user-provided function is independent of input",
                    "the function that torch.autograd.functional was given does not use an input",
                ),
            ),
        },
    ),
    "input-without-grad": Kind(
        "error",
        _CUT,
        "it does not require grad, so no Node stands for it",
        "call requires_grad_() on it before the forward pass",
        variants={
            "frozen": (
                "a parameter whose requires_grad is off has no Node, and the pass leaves it alone; "
                "frozen layers and target networks are meant so",
                "nothing, if it is to stay as it is; else call requires_grad_() on it before the "
                "forward pass, and hand it to the optimizer",
            ),
            "module": (
                "requires_grad is an attribute of tensors: set on a module it is a name like any "
                "other, and freezes none of its parameters",
                "module.requires_grad_(False), with the underscore; or loop over its parameters: "
                "p.requires_grad_(False) for each",
            ),
            "hook": (
                "no gradient comes to what has no graph: all that it was computed from is frozen "
                "or data, or gradients were off",
                "call requires_grad_() on the data, or on a parameter before it, and run the "
                "forward pass with gradients on; or set the hook only if output.requires_grad",
                (
                    r"cannot register a hook on a (?:tensor|variable) that doesn't require "
                    r"gradient",
                    "a hook for the gradient was set on a tensor that does not require grad",
                ),
            ),
            "transform": _IN_A_TRANSFORM,
            "inference": (
                "in inference mode a tensor gets no Node, whatever its requires_grad says",
                "make it outside of the block, or in torch.inference_mode(False)",
            ),
        },
        errors=[
            (
                r"One of the differentiated Tensors does not require grad|"
                r"retain_grad on Tensor that has requires_grad=False|"
                r"gradcheck expects at least one input tensor to require gradient|"
                r"gradient edge for a Tensor that does not require gradients|"
                r"Expected input to have requires_grad=True|"
                r"Input Tensor \d+ did not already require gradients|"
                r"Can only build ExpandedWeights objects of tensors that requires_grad",
                "a gradient was asked for a tensor that does not require grad",
            ),
        ],
    ),
    "constant-gradient": Kind(
        "warning",
        _TWICE,
        "no formula of the backward pass used a tensor that requires grad, as for a linear "
        "function; or a custom Function hid that it did",
        "where the gradient is constant its derivative is zero: companion.nth_derivative and "
        "materialize_grads=True give zeros, or ask for gradient.requires_grad; else write the "
        "backward of the Function with differentiable operations on what it was given and what "
        "it returned: anything else that forward computed is a constant there",
        cut="{called} gave a gradient that has no graph, although create_graph=True",
        variants={
            "saved": (
                "no graph is made inside of forward, and a second derivative needs one: what was "
                "computed there from the inputs, and saved, does not depend on them there",
                "compute it again in backward, with differentiable operations on what apply was "
                "given or what it returned; or return it from forward as a further output, and "
                "save that; torch.autograd.gradgradcheck shows whether it is right",
            ),
        },
        errors=[
            (
                r"(?:jacobian|hessian|gradient)[^\n]* is independent of [^\n]* strict mode",
                "a derivative that strict=True asks for does not depend on the input",
            ),
        ],
    ),
    # ---- error-function.md
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
                r"expected Variable or None \(got (?P<type>[\w.]+)\)",
                "the backward of a custom Function returned a {type}, which is no tensor",
            ),
            (
                r"(?:Cannot register autograd formula for|register_autograd with) "
                r"(?P<reason>[^\n.]*)",
                "register_autograd cannot give a backward to this: {reason}",
            ),
            (
                r"Expected the return from backward to be of the same structure as the inputs|"
                r"In the backward function defined for",
                "the backward of a custom operation did not return one gradient for each input",
            ),
            (
                r"Legacy autograd function with non-static forward method",
                "a custom Function was called as it was before torch 1.3; forward and backward "
                "must be static methods, and apply calls them",
            ),
        ],
        variants={
            "raised": (
                "backward of a custom Function is given a gradient of the shape of each output, "
                "which may be expanded from one number, or be None after "
                "set_materialize_grads(False), and gives one of the shape of each input",
                "look at the shapes on this line: for y = x @ w they are g @ w.mT and x.mT @ g; "
                "write 2 * g for g.mul_(2), and ask for g is None where that may be; then check it "
                "with torch.autograd.gradcheck",
            ),
            "torchs": (
                "a graph remembers the shape of each tensor in it, and AccumulateGrad that of its "
                "leaf, as long as any graph of the leaf is alive; the tensor was given another "
                "shape, dtype or device since, through .data, set_() or resize_()",
                "do not give a tensor another shape: make a new nn.Parameter(...), and hand it to "
                "the optimizer; or let go of each older graph first, as by del loss",
                (
                    r"unction (?P<node>\w+Backward\d+|AccumulateGrad|CopySlices|CopyBackwards|"
                    r"torch::\S+) returned an invalid gradient at index \d+ - "
                    r"(?P<mismatch>[^\n]*)",
                    "{node}, a Node of torch, gave a gradient that its tensor no longer fits, "
                    "since that was changed through .data or the like: {mismatch}",
                ),
            ),
        },
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
            (
                r"(?P<op>\w+) with `return_indices=False` is not infinitely differentiable",
                "{op} has no second derivative",
            ),
            (
                r"(?P<op>[\w.]+)(?: Tensor|\(\))? (?:does not support automatic differentiation "
                r"for outputs with complex|doesn't support chunk backward|does not support "
                r"(?:sparse|complex) input yet|does not support backward with B)",
                "{op} has no derivative formula for what it was given",
            ),
            (
                r"Autograd has not been implemented for (?P<op>[^\s,]+)",
                "{op} has no derivative formula",
            ),
            (
                r"max mode does not support scaling the gradient by the frequency",
                "embedding_bag with mode='max' has no gradient that scale_grad_by_freq divides",
            ),
            (
                r"(?P<op>leakyReLu|elu) backward calculation is triggered with a negative slope",
                "{op} in place with a negative slope has no derivative: its result does not tell "
                "the sign of what went in. inplace=False has one",
            ),
        ],
        variants={
            "attention": (
                "the fused kernels of scaled_dot_product_attention have a first derivative and no "
                "second derivative, which a gradient in the loss asks for",
                "run the forward pass under torch.nn.attention.sdpa_kernel(SDPBackend.MATH), or "
                "write the attention out: (q @ k.mT / d**0.5).softmax(-1) @ v",
                (
                    r"derivative for '?(?:\w+::)?(?P<op>\w*attention\w*)'? is not implemented",
                    "{op}, the backward of a fused attention, has no derivative formula",
                ),
            ),
            "kernel": (
                "a fused attention is another program for each device and kind of input, and this "
                "one has no backward",
                "another device or kernel, or the attention written out: "
                "(q @ k.mT / d**0.5).softmax(-1) @ v; under torch.no_grad() it may stay",
                (
                    r"No operator found for `?(?P<op>memory_efficient_attention_backward)|"
                    r"(?P<name>FlashAttention) backward (?:only supports|for head dim)",
                    "{op}{name} has no backward for what it was given",
                ),
                (
                    r"does not expose FA3 backward kernels",
                    "the FlashAttention that was chosen has no backward",
                ),
                (
                    r"(?P<op>FlexAttention|_scaled_dot_product_attention_quantized) does not "
                    r"support backward",
                    "{op} has no backward here",
                ),
                (
                    r"(?P<op>FA\d \w+) backward unsupported",
                    "{op} has no backward for what it was given",
                ),
            ),
            "optimizer": (
                "foreach, fused and capturable steps of an optimizer run in kernels that leave no "
                "Node, so differentiable=True cannot go through them",
                "differentiable=True alone, with foreach=False and fused=False; or compute the new "
                "weights yourself, w - lr * g, and call the model with them by "
                "torch.func.functional_call",
                (
                    r"_foreach ops don't support autograd|"
                    r"`fused` does not support `differentiable`|"
                    r"with fused=True does not support differentiable=True|"
                    r"`requires_grad` is not supported for `step` in differentiable mode",
                    "an optimizer was to be differentiated in a way that leaves no Node",
                ),
            ),
            "second": (
                "PyTorch has a formula for the first derivative of this operation and none for its "
                "second, which a gradient in the loss asks for",
                "write the operation out in simple ones, each of which can be differentiated "
                "twice, as (a[:, None] - b).norm(dim=-1) for torch.cdist(a, b); or keep it out of "
                "what create_graph=True differentiates",
                (
                    r"derivative for '?(?:\w+::)?(?P<op>\w+_backward)'? is not implemented",
                    "{op} has no derivative formula: this is a second derivative",
                ),
                (
                    r"(?P<op>grid_sampler_\dd)[_ ]double[_ ]backward (?:not implemented|does not)|"
                    r"(?P<of>\w+)\(\): Double backward is unsupported for|"
                    r"(?P<by>FSDP) does not support gradients of gradients|"
                    r"double backwards on (?P<vision>\w+) not supported",
                    "{op}{of}{by}{vision} has no second derivative for what it was given",
                ),
            ),
            "out": (
                "out= names a tensor that is there already, and no Node can be made for it",
                "leave out= away, as in y = torch.exp(x); under torch.no_grad() it may stay",
                (
                    r"(?P<op>\w+)\(\): (?:functions with out=\.\.\. arguments don't support "
                    r"automatic|the 'out' tensor was specified and requires gradients)",
                    "{op} was called with out= and a tensor that requires grad",
                ),
            ),
            "resize": (
                "resize_ gives a tensor other memory, which no derivative can follow",
                "reshape(), view(), expand() or a slice give a new tensor that stays in the graph",
                (
                    r"cannot resize variables that (?:require|has a forward) grad",
                    "resize_() was called on a tensor that requires grad",
                ),
                (
                    r"is not allowed on a Tensor created from \.data or \.detach\(\)",
                    "the shape or memory of what .data or detach() gave was changed, which it "
                    "shares with the tensor in the graph",
                ),
            ),
            "qr": (
                "the derivative of a QR decomposition needs the reduced Q, and this mode has "
                "another or none",
                "call it in the reduced mode: torch.linalg.qr(A, mode='reduced')",
                (
                    r"The (?:QR decomposition is not differentiable when mode=|derivative of "
                    r"linalg\.qr depends on Q)",
                    "a QR decomposition of this mode has no derivative",
                ),
            ),
            "edge": (
                "a GradientEdge names a place in the graph: it has no values to take a shape, a "
                "batch or zeros from",
                "ask for the gradient of the tensor itself, without is_grads_batched and "
                "materialize_grads for an edge",
                (
                    r"(?:Batched grads|C\+\+ NestedTensor) are not supported with "
                    r"(?:GradientEdge|Nested Tensor)|"
                    r"materialize_grads cannot be used when the given input is a GradientEdge",
                    "autograd.grad cannot do this with a GradientEdge or a nested tensor",
                ),
            ),
            "training": (
                "this form of the operation was written for inference, or for one kind of graph",
                "call it under torch.no_grad(), or detach() what goes in; for training use "
                "operations that have a derivative",
                (
                    r"Script and require grads is not supported atm",
                    "lobpcg has no derivative under torch.jit.script",
                ),
                (
                    r"The (?P<op>\S+) HigherOrderOperator does not currently support training",
                    "{op} cannot be trained where it changes its inputs in place",
                ),
            ),
            "argument": (
                "the operation has a derivative by its input, not by this argument: running "
                "statistics and the like are constants",
                "requires_grad_(False) on it, or register it as a buffer",
                (
                    r"is not differentiable with respect to argument '(?P<op>\w+)'",
                    "{op} requires grad, and the operation has no derivative by it",
                ),
            ),
        },
    ),
    "gradcheck": Kind(
        "error",
        _VECTORS,
        "gradcheck compares the gradient with finite differences, which need float64, a function "
        "that is smooth there, and a graph that holds all of it",
        "give inputs of dtype float64, at a point that is no kink, and leave out what is random, "
        "such as dropout; look for a cut; if it still fails, the backward formula is wrong",
        errors=[
            (
                r"Input #(?P<index>\d+) requires gradient and is not a double precision",
                "input {index} of gradcheck is not double precision",
            ),
            (
                r"Jacobian mismatch for output|Numerical gradient for function expected to be zero",
                "the gradient and the finite difference differ",
            ),
            (
                r"has a dimension with stride 0\. gradcheck only supports",
                "an input of gradcheck is expanded: several elements lie in one place",
            ),
            (
                r"Backward is not reentrant",
                "the backward formula gave other gradients when it ran again",
            ),
            (
                r"backward not multiplied by grad_output",
                "the backward formula does not use the gradient that it is given",
            ),
            (r"^GradcheckError: (?P<reason>[^\n]*)", "gradcheck found: {reason}"),
        ],
        variants={
            "options": (
                "gradcheck compares backward mode, and forward mode too where it is asked to; each "
                "option belongs to one of them",
                "leave check_backward_ad=True, and add check_forward_ad=True for "
                "check_batched_forward_grad; give dense inputs, and real numbers to the functions "
                "that compute Jacobians",
                (
                    r"at least one of check_forward_ad or check_backward_ad|"
                    r"Setting check_batched_forward_grad=True requires check_forward_ad",
                    "options of gradcheck do not go together",
                ),
                (
                    r"Expected (?:inputs|output|grad_out) to be (?:non-complex|1\.0)|"
                    r"MKLDNN inputs are not support for forward AD gradcheck",
                    "gradcheck was given what it cannot compare",
                ),
            ),
        },
    ),
    "not-unique": Kind(
        "error",
        _LOST,
        "complex eigenvectors and singular vectors are unique only up to a factor of size 1, and "
        "the loss changes with that factor: its derivative depends on a choice of the algorithm",
        "make the loss the same for each choice: use abs() of the vectors, products such as "
        "U @ U.mH, or the eigenvalues and singular values alone",
        errors=[
            (
                r"(?:linalg_eig_backward|svd_backward): The [^\n]* in the complex case are "
                r"specified up to multiplication",
                "the loss depends on the phase of complex eigenvectors or singular vectors",
            ),
        ],
    ),
    # ---- error-func.md
    "function-form": Kind(
        "error",
        _FUNCTIONS,
        "a custom Function is a class of static methods, forward(ctx, ...) and backward(ctx, ...); "
        "apply runs them, and hands both the same ctx",
        "write class F(torch.autograd.Function) with @staticmethod before forward and before "
        "backward (or vjp, not both), and call F.apply(x), never F()(x)",
        errors=[
            (
                r"must implement (?:either )?the (?P<method>forward|backward)",
                "a custom Function lacks {method}",
            ),
            (
                r"The autograd\.Function's vmap staticmethod returned an|"
                r"Run vmap on autograd\.Function with kwarg-only",
                "the vmap of a custom Function does not fit it",
            ),
            (
                r"Implementing both 'backward' and 'vjp' for a custom Function",
                "a custom Function has both backward and vjp",
            ),
            (
                r"should not be instantiated\. Methods on autograd functions are all static",
                "a custom Function was made an object; its class is called, by apply",
            ),
            (
                r"is a legacy access pattern that is no longer supported",
                "a custom Function was used as it was before torch 1.3",
            ),
        ],
        variants={
            "setup-context": (
                "torch.func (vmap, grad, jvp, jacrev) runs forward without a ctx and saves "
                "afterwards, so it needs the newer form of a Function",
                "take ctx out of forward, and save in a static method of its own: forward(x), "
                "setup_context(ctx, inputs, output), backward(ctx, g); apply and backward() work "
                "as before",
                (
                    r"must override the setup_context staticmethod|"
                    r"setup_context is not implemented",
                    "torch.func was given a custom Function without setup_context",
                ),
            ),
            "vmap": (
                "torch.vmap cannot look into a custom Function: it must be told what to do with "
                "the further dimension",
                "write generate_vmap_rule = True in the class where forward and backward are "
                "made of torch operations alone; else a static method vmap(info, in_dims, x)",
                (
                    r"does not have vmap support|you must either override the vmap staticmethod",
                    "torch.vmap was given a custom Function that has no vmap",
                ),
                (
                    r"has both generate_vmap_rule=True and an overridden vmap staticmethod",
                    "a custom Function has both generate_vmap_rule=True and a vmap of its own",
                ),
            ),
            "arguments": (
                "apply hands forward ctx and its own arguments, and backward is handed ctx and one "
                "gradient for each output of forward",
                "with @staticmethod before both, def forward(ctx, x, y) for apply(x, y), and "
                "def backward(ctx, grad) for one output, backward(ctx, *grads) for several; beside "
                "a setup_context(ctx, inputs, output) forward takes no ctx",
            ),
            "saves": (
                "save_for_backward takes tensors, which it then guards; anything else is an "
                "attribute of ctx",
                "ctx.save_for_backward(x, y) for tensors, ctx.n = n for numbers and shapes",
                (
                    r"save_for_backward can only save variables|"
                    r"save_for_forward expects all arguments to be tensors|"
                    r"mark_non_differentiable only accepts variable arguments",
                    "a custom Function told its ctx to keep what is no tensor",
                ),
            ),
            "dirty": (
                "an input that forward changes in place becomes the output of the Node: forward "
                "must say so by mark_dirty and return that very tensor",
                "ctx.mark_dirty(x) with the input itself, and return x; or change a copy: "
                "y = x.clone(). Return x.view_as(x) for an input that is handed on as it is",
                (
                    r"elements marked as dirty during the forward method were not returned|"
                    r"mark_dirty\(\) received a tensor that was not an input",
                    "a custom Function marked as changed what it did not take or did not return",
                ),
                (
                    r"An? input that has been returned as-is as output is being saved for backward",
                    "a custom Function saved an input that it returned as it is",
                ),
                (
                    r"your Function modifies inplace an input that is a view of another Tensor",
                    "a custom Function changed a view in place and returned several tensors",
                ),
            ),
            "read-once": (
                "the Function has clear_saved_tensors_on_access=True, which frees what it saved "
                "when it is read",
                "read it once: x, y = ctx.saved_tensors",
                (
                    r"saved_tensors can only be accessed once when clear_saved_tensors_on_access",
                    "a custom Function read its saved tensors twice",
                ),
            ),
        },
    ),
    "forward-mode": Kind(
        "error",
        _VECTORS,
        "forward mode carries one tangent beside each value, in a level that is open, and each "
        "operation must know how to carry it on",
        "with torch.autograd.forward_ad.dual_level(): make the dual tensors, compute, unpack; one "
        "level at a time, tangents of the shape and dtype of their values. "
        "torch.func.jvp does all of that, and may be nested",
        errors=[
            (
                r"Trying to create a dual Tensor for forward AD but no level exists",
                "a dual tensor was made outside of a dual_level() block",
            ),
            (
                r"Nested forward mode AD is not supported|not the last (?:one )?that was created",
                "two levels of forward mode were open at once",
            ),
            (
                r"Trying to set a forward gradient that has a different size|"
                r"Expected tangent to|tangent.*doesn't match the shape",
                "a tangent does not have the shape of its value",
            ),
            (
                r"already has a forward gradient at the same level|"
                r"that itself has a forward gradient at the same level|"
                r"Cannot set a value of a forward grad if it already exists",
                "a dual tensor was made of a dual tensor",
            ),
            (
                r"Trying to access a forward AD level with an invalid index|"
                r"Entering a new forward AD level but the current level is not valid",
                "a dual tensor was used after its level was left",
            ),
        ],
        variants={
            "no-formula": (
                "PyTorch has no formula for forward mode of this operation, or it is called with "
                "out=, or a custom Function has no jvp",
                "backward mode has one for most: use backward(), torch.func.vjp or "
                "torch.func.jacrev, or operations that have one; leave out= away; give the "
                "Function a static method jvp(ctx, *tangents)",
                (
                    r"Trying to use forward AD with (?P<op>\S+) that does not support it",
                    "{op} has no formula for forward mode",
                ),
                (
                    r"must implement the jvp function",
                    "a custom Function has no jvp, which forward mode needs",
                ),
                (
                    r"they cannot have forward grad defined",
                    "running statistics of a normalization were given a tangent",
                ),
            ),
            "options": (
                "torch.autograd.functional computes the columns of a Jacobian in forward mode in "
                "one vectorized pass, which keeps no graph and asks nothing of single inputs",
                "leave strategy and vectorize away; or use torch.func.jacfwd, jacrev and hessian, "
                "which may be nested and differentiated again",
                (
                    r"functional\.jacobian: `\w+=True` and `[\w-]+=[\"\w-]+` are not supported|"
                    r"Computing Jacobian using forward-AD or forward-over-reverse",
                    "options of torch.autograd.functional do not go together",
                ),
            ),
            "jvp": (
                "jvp of a custom Function gives one tangent for each output of forward, of its "
                "shape; where forward changes an input in place, jvp changes its tangent in place "
                "and returns it",
                "return as many tangents as forward returns tensors, None where there is none",
                (
                    r"Function's jvp returned|is not (?:modifying|returning) the forward mode "
                    r"gradients",
                    "the jvp of a custom Function gave tangents that do not fit its outputs",
                ),
            ),
        },
    ),
    "inside-transform": Kind(
        "error",
        _CUT,
        "a transform of torch.func makes the gradients itself: in its function requires_grad_() "
        "and backward() are refused, and in that of torch.vmap no tensor requires grad, even if "
        "the one outside does",
        "use torch.func.grad, vjp or jacrev inside, as in torch.vmap(torch.func.grad(f))(x); or "
        "call backward() outside of the function",
        errors=[
            (
                r"You are attempting to call Tensor\.(?P<name>requires_grad_|retain_grad)\(\)",
                "{name}() was called inside a transform of torch.func",
            ),
            (
                r"backward\(\) called inside (?:a functorch transform|torch\.vmap)",
                "backward() was called inside a transform of torch.func",
            ),
            (
                r"torch\.autograd\.grad\(.*\) called inside ?[^\n]*torch\.vmap",
                "autograd.grad was called inside torch.vmap",
            ),
            (
                r"cannot use C\+\+ torch::autograd::Function with functorch",
                "a Function that is written in C++ met a transform of torch.func",
            ),
            (
                r"don't yet support saved tensor hooks",
                "hooks for saved tensors, as of save_on_cpu() or a checkpoint, met torch.func",
            ),
        ],
        variants={
            "in-place": (
                "a tensor from outside of the function cannot take what the function computes: it "
                "has no room for the further dimension, or is no part of the differentiation",
                "compute a new tensor, as x + y for x.add_(y), hand the tensor in as an argument, "
                "and return what changed; write detach() for .data",
                (
                    r"would mutate a captured Tensor",
                    "a function under torch.func changed a tensor from outside of it in place",
                ),
                (
                    r"vmap: (?:inplace arithmetic|aten::\S+\(self, \*extra_args\) is not possible)",
                    "a function under torch.vmap changed a tensor from outside of it in place",
                ),
                (
                    r"`?data`? under vmap transform|mutating directly with `\.data`",
                    ".data was used inside a transform of torch.func",
                ),
            ),
            "values": (
                "inside torch.vmap a tensor stands for many, so Python cannot read one value of "
                "it, decide by it, or make a shape from it",
                "stay with tensors: torch.where(mask, a, b) for if and for x[mask], no .item() and "
                "no .numpy(); or loop over the rows without torch.vmap",
                (
                    r"vmap: It looks like you're",
                    "Python asked for a value inside torch.vmap",
                ),
                (
                    r"We do not support batching operators that can (?:support|output) dynamic",
                    "an operation whose shape depends on values was called inside torch.vmap",
                ),
            ),
            "random": (
                "torch.vmap must be told whether the rows draw the same random numbers or each "
                "their own",
                "torch.vmap(f, randomness='different') or 'same'",
                (
                    r"vmap: called random operation while in randomness error mode",
                    "random numbers were drawn inside torch.vmap",
                ),
            ),
        },
    ),
    # ---- error-training.md
    "grad-is-none": Kind(
        "error",
        _LEAVES,
        ".grad is None until a backward pass has come to the tensor: none ran, or it is not in "
        "the graph of the loss, or zero_grad() put None there",
        "call backward() on a loss that uses it first; diagnose(loss, w) tells why none would come "
        "to it. Change a parameter in place under torch.no_grad(), w -= lr * w.grad: the result "
        "of w = w - lr * w.grad is no leaf and gets no .grad",
        errors=[
            (
                r"'NoneType' object has no attribute '(?:zero_|detach_|requires_grad_)'$",
                "a .grad is None",
            ),
        ],
        variants={
            "result": (
                "the tensor is the result of an operation, and backward fills the .grad of leaves "
                "alone; w = w - lr * w.grad gives the name w to such a result",
                "change the leaf in place under torch.no_grad(): w -= lr * w.grad; for the "
                ".grad of a result call retain_grad() on it before backward()",
            ),
            "grad-fills-none": (
                "torch.autograd.grad returns the gradients, and fills the .grad of no tensor",
                "take what it returns; or call loss.backward(), which fills .grad of all leaves",
                (
                    r"only_inputs argument is deprecated and is ignored now",
                    "autograd.grad was asked to fill .grad too, with only_inputs=False",
                ),
            ),
            "unused": (
                "torch.autograd.grad(..., allow_unused=True) gives None for an input that the "
                "output does not depend on, and for one behind a cut",
                "skip it, as in sum(g.sum() for g in grads if g is not None); or pass "
                "materialize_grads=True for zeros; diagnose(loss, *inputs) tells which inputs are "
                "not in the graph, and why",
            ),
            "frozen": (
                "the tensor does not require grad, so no backward pass fills its .grad",
                "call requires_grad_() on it before the forward pass, or leave it out of the "
                "update",
            ),
        },
    ),
    "assigned-grad": Kind(
        "error",
        _LEAVES,
        "a .grad has the shape, the dtype and the device of its tensor, and an optimizer relies "
        "on that",
        "convert it first, as in w.grad = g.to(w).reshape(w.shape), or set w.grad = None",
        errors=[
            (
                r"grad_dtype can only be (?:set|accessed) on leaf tensors",
                "the grad_dtype of the result of an operation was asked for, which has no .grad",
            ),
            (
                r"attempting to assign a gradient (?P<mismatch>[^\n]*?)(?:\. |$)",
                "what was assigned to a .grad does not fit its tensor: a gradient {mismatch}",
            ),
            (
                r"assigned grad (?:has data|expected to be)|can't assign Variable as its own grad",
                "what was assigned to a .grad is no gradient of its tensor",
            ),
        ],
    ),
    "parameters": Kind(
        "error",
        _LEAVES,
        "a parameter is a leaf, and this tensor is the result of an operation; nn.Parameter(result)"
        " would make a new leaf of it, without its graph",
        "to compute with other weights and differentiate through them, run the module by "
        "torch.func.functional_call(net, {'weight': result}, (x,)), or register a parametrization; "
        "to set new values, net.weight.copy_(result) under torch.no_grad()",
        errors=[
            (
                r"cannot assign '[\w.]+' (?:object )?(?:as|to) parameter '(?P<name>[^']*)'",
                "a tensor that is no nn.Parameter was assigned to the parameter {name}",
            ),
            (
                r"Cannot assign non-leaf Tensor to parameter '(?P<name>[^']*)'",
                "the result of an operation was assigned to the parameter {name}",
            ),
        ],
        variants={
            "empty": (
                "model.parameters() finds what is an attribute of a module, not what a Python "
                "list or dict holds; and a generator gives its tensors once: after one loop over "
                "it, it is empty",
                "keep layers in nn.ModuleList, nn.ModuleDict or nn.Sequential and tensors in "
                "nn.ParameterList; call model.parameters() anew each time, or keep "
                "list(model.parameters())",
                (r"optimizer got an empty parameter list", "an optimizer was given no parameters"),
                (
                    r"`parameters` is an empty generator, no gradient clipping",
                    "the parameters to clip are an empty generator",
                ),
                (
                    r"`inputs` argument to `(?P<function>\w+)\(\)` cannot be empty|"
                    r"(?P<older>grad) requires non-empty inputs",
                    "{function}{older}() was asked for the gradients of no tensors",
                ),
                (
                    r"[Nn]o Tensors requiring grad found in input",
                    "a gradient was asked for no tensors",
                ),
            ),
            "adjoint": (
                "the adjoint method computes gradients for the parameters that it is told of, and "
                "finds them in a module; a plain function does not tell its own",
                "hand over an nn.Module whose forward is the function, or "
                "adjoint_params=tuple(net.parameters())",
                (
                    r"must be an instance of `?nn\.Module`? to specify the adjoint parameters",
                    "odeint_adjoint was given a function that is no module",
                ),
            ),
            "buffers": (
                "a CUDA graph of a module has gradients for its inputs and its parameters, not for "
                "its buffers",
                "requires_grad_(False) on the buffer, or make it an nn.Parameter",
                (
                    r"only parameters may be trainable\. All buffers must have",
                    "a buffer of a module that becomes a CUDA graph requires grad",
                ),
            ),
            "mapping": (
                "the gradients come back under the names of a dict, and of no other mapping",
                "hand over a dict: inputs=dict(tensors)",
                (
                    r"`inputs` argument to `(?P<function>\w+)\(\)` must be a dict, not",
                    "{function}() was given its inputs in a mapping that is no dict",
                ),
            ),
            "matrices": (
                "Muon makes the gradient of a matrix orthogonal, so it takes parameters of two "
                "dimensions alone",
                "give Muon the matrices, [p for p in net.parameters() if p.ndim == 2], and AdamW "
                "the others",
                (
                    r"(?:Param|Input tensor) gradient must be a 2D matrix",
                    "Muon was given a parameter that is no matrix",
                ),
            ),
            "stacked": (
                "stack_module_state puts the parameters of several models into one tensor, and a "
                "tensor requires grad as a whole",
                "freeze the same parameters in each of the models",
                (
                    r"Expected (?P<name>\S+) from each model to have the same \.requires_grad",
                    "{name} is frozen in some of the models to be stacked, and not in others",
                ),
            ),
            "constant": (
                "torch.jit.trace writes what is no input and no parameter into the program as a "
                "constant, and a constant has no gradient",
                "make it an nn.Parameter of the module, hand it in as an input, or detach() it",
                (
                    r"Cannot insert a Tensor that requires grad as a constant",
                    "a traced function uses a tensor that requires grad and is none of its inputs",
                ),
            ),
            "one": (
                "an optimizer takes a collection of parameters, and one tensor is none",
                "put it into a list: torch.optim.SGD([w], lr=0.1)",
                (
                    r"params argument given to the optimizer should be an iterable",
                    "an optimizer was given one tensor",
                ),
            ),
        },
    ),
    "scaler": Kind(
        "error",
        _LOST,
        "for each optimizer and step a GradScaler divides the .grad of the parameters once, and "
        "looks for infinities in them: unscale_(optimizer), step(optimizer), update()",
        "call them in this order, each once a step: scaler.scale(loss).backward(), "
        "scaler.unscale_(optimizer) if you clip, scaler.step(optimizer), scaler.update()",
        errors=[
            (
                r"unscale_\(\) has already been called on this optimizer",
                "unscale_() was called twice for one step of an optimizer",
            ),
            (
                r"unscale_\(\) is being called after step\(\)",
                "unscale_() was called after step(), before update()",
            ),
            (
                r"step\(\) has already been called since the last update",
                "step() was called twice for one step of an optimizer, without update()",
            ),
            (
                r"_scale is None in unscale_",
                "unscale_() was called before scale(loss)",
            ),
        ],
        variants={
            "no-gradients": (
                "no parameter of the optimizer has a .grad: backward() was not called on "
                "scaler.scale(loss), or the loss does not reach these parameters, or the "
                "optimizer holds others than the model has now",
                "ask diagnose(loss, *model.parameters(), watch=watched) for the cut, such as a "
                "detach(); make the optimizer after the last change to the model, and call "
                "backward() before step()",
                (
                    r"No inf checks were recorded for this optimizer",
                    "the scaler found no .grad in the parameters of the optimizer",
                ),
                (
                    r"No inf checks were recorded prior to update",
                    "update() of the scaler was called before any step(optimizer) found a .grad",
                ),
            ),
            "minimum": (
                "in each step a gradient was infinite or NaN, so the scale was made smaller, until "
                "it could not become smaller",
                "look for what is not finite: with watch() as watched: around the forward pass, "
                "watched.first_nonfinite names the operation, and diagnose(loss, watch=watched) "
                "what the backward pass divides by; bfloat16 needs no scale",
                (
                    r"loss scale already at minimum|Minimum loss scale reached|"
                    r"Gradient overflow\.\s+Skipping step",
                    "gradients in float16 are infinite or NaN",
                ),
            ),
            "half": (
                "the parameters themselves are float16, so their gradients are, and there is no "
                "room to divide them in",
                "keep the model in float32 (no .half()) and let torch.autocast choose float16 for "
                "its operations",
                (
                    r"Attempting to unscale FP16 gradients",
                    "the scaler was given gradients in float16",
                ),
            ),
        },
    ),
    "sparse-gradient": Kind(
        "error",
        _LEAVES,
        "an embedding with sparse=True sends a sparse .grad, which holds the rows that were looked "
        "up; with sparse=False it is dense. Few optimizers take both",
        "torch.optim.SparseAdam or SGD for the sparse ones, in an optimizer of their own without "
        "weight_decay; or sparse=False",
        errors=[
            (
                r"(?P<name>\w+) does not support (?P<kind>sparse|dense) gradients",
                "{name} was given {kind} gradients",
            ),
            (
                r"weight_decay option is not compatible with sparse gradients",
                "an optimizer with weight_decay was given sparse gradients",
            ),
            (
                r"`(?P<name>\w+)` does not support sparse grad",
                "an optimizer with {name} was given sparse gradients",
            ),
            (
                r"scale_grad_by_freq not supported with sparse gradients",
                "an embedding has both sparse=True and scale_grad_by_freq=True",
            ),
            (
                r"add\(sparse, dense\) is not supported",
                "a dense tensor was added to a sparse one, as by weight_decay to a gradient",
            ),
        ],
        variants={
            "clipped": (
                "an embedding with sparse=True sends a sparse .grad, which holds the rows that it "
                "looked up; torch clips dense gradients alone",
                "clip the other gradients, or leave sparse=True away",
                (
                    r"Could not run 'aten::(?P<name>linalg_vector_norm|clamp\w*)' with arguments "
                    r"from the 'Sparse\w+' backend",
                    "{name} was given a sparse tensor, as clipping is by a sparse gradient",
                ),
            ),
        },
    ),
    "checkpoint": Kind(
        "error",
        _SAVED,
        "a checkpoint keeps its inputs alone and runs its function again in the backward pass, "
        "for the rest",
        "pass use_reentrant=False, and read ctx.saved_tensors once in the backward of a custom "
        "Function that runs in it; leave out of the checkpoint what cannot be run again",
        errors=[
            (
                r"the use_reentrant parameter should be passed explicitly|"
                r"please pass in use_reentrant=True or use_reentrant=False explicitly",
                "a checkpoint was not told which of its two kinds it is",
            ),
            (
                r"is only supported when use_reentrant=False|"
                r"Checkpointing is not compatible with \.grad\(\)",
                "the reentrant kind of checkpoint was given what only the other can do",
            ),
            (
                r"Unpack is being triggered for a tensor that was already unpacked once",
                "what a checkpoint had computed again was read twice",
            ),
            (
                r"allowed to backward once on any region computed under selective activation",
                "a second backward pass came to a selective checkpoint",
            ),
        ],
        variants={
            "frozen": (
                "checkpoint(use_reentrant=True) is one Node, which is made where an input of it "
                "requires grad; here none does, so the parameters inside get no gradient",
                "pass use_reentrant=False; where that cannot be, call requires_grad_() on the "
                "input of the checkpoint (model.enable_input_require_grads() in transformers)",
                (
                    r"None of the inputs have requires_grad=True\. Gradients will be None",
                    "no input of a reentrant checkpoint requires grad",
                ),
                (
                    r"none of output has requires_grad=True, this checkpoint\(\) is not necessary",
                    "no output of a checkpoint requires grad",
                ),
            ),
            "reentrant": (
                "checkpoint(use_reentrant=True) runs a backward pass of its own, which fills .grad "
                "of all leaves and knows nothing of the tensors that this pass was asked for",
                "pass use_reentrant=False; or call backward() without inputs= and read .grad",
                (
                    r"torch\.utils\.checkpoint is incompatible with \.grad\(\)",
                    "a reentrant checkpoint met autograd.grad, or backward(inputs=...)",
                ),
            ),
            "in-place": (
                "a checkpoint keeps its inputs and runs its function on them again in the backward "
                "pass; one of them, or a leaf that the function uses, was changed in place, so it "
                "is no longer what it was",
                "change nothing in place in the function, nor its inputs after it: h = 2 * h for "
                "h.mul_(2), nn.ReLU() for an nn.ReLU(inplace=True) in front",
            ),
            "cache": (
                "a checkpoint runs its layers again in the backward pass, and would put their keys "
                "and values into the cache a second time",
                "nothing: the library leaves the cache out; model.config.use_cache = False says so "
                "once. If the layers do not train, look at the warnings beside this one",
                (
                    r"(?:use_cache ?= ?True`|Caching) is incompatible with gradient checkpointing",
                    "a checkpointed model was to keep a cache of keys and values as well",
                ),
            ),
            "context": (
                "context_fn gives two context managers: one is entered around the forward pass, "
                "the other when the checkpoint runs it again",
                "return a pair, as create_selective_checkpoint_contexts does; enter neither twice, "
                "and let exceptions pass. Under torch.compile both must be a TorchDispatchMode",
                (
                    r"expected context_fn generator to yield exactly twice|"
                    r"`context_fn` arg passed to `torch\.utils\.checkpoint` must generate|"
                    r"the forward context provided by context_fn suppressed an exception",
                    "the context managers of a checkpoint are not as they must be",
                ),
            ),
            "differs": (
                "the function of the checkpoint did not do the same when it was run again in the "
                "backward pass: it reads a state that changed in between, such as a cache, a "
                "counter, train or eval mode, autocast, or a global",
                "make it do the same both times, or leave that part out of the checkpoint: fill "
                "the cache before, set the mode after backward(). Under with "
                "torch.utils.checkpoint.set_checkpoint_debug_enabled(True) the error lists the "
                "operations of both runs",
                (
                    r"[Aa] different number of tensors was saved during the original forward and "
                    r"recomputation",
                    "a checkpoint, run again, saved another number of tensors than the first time",
                ),
                (
                    r"trying to save more tensors during recomputation",
                    "a checkpoint, run again, saved more tensors than the first time",
                ),
                (
                    r"are detected on at least two types of devices\. Device state will only be",
                    "a checkpoint with tensors on two kinds of devices draws the same random "
                    "numbers again on one of them alone",
                ),
                (
                    r"Recomputed values for the following tensors have different metadata",
                    "a checkpoint, run again, saved tensors of another shape, dtype or device than "
                    "the first time",
                ),
                (
                    r"encountered during backward but not found in storage|"
                    r"cached during selective activation checkpoint has been mutated",
                    "a selective checkpoint, run again, did not find what it had kept",
                ),
            ),
        },
    ),
    "data-parallel": Kind(
        "error",
        _LEAVES,
        "in each backward pass DistributedDataParallel waits for one gradient of each parameter, "
        "and averages it over the processes",
        "wrap a model that has parameters that require grad, after it is complete; call "
        "optimizer.zero_grad(), not zero_grad() of the wrapper",
        errors=[
            (
                r"DistributedDataParallel is not needed when a module doesn't have any parameter",
                "no parameter of the model requires grad",
            ),
            (
                r"Must flatten tensors with uniform `requires_grad` when `use_orig_params=False`",
                "FullyShardedDataParallel puts frozen parameters and others into one tensor, "
                "unless it has use_orig_params=True",
            ),
            (
                r"step\(\) requires gradients to be enabled for backward computation",
                "step() of a pipeline was called under torch.no_grad(); eval() is for that",
            ),
            (
                r"Calling \.zero_grad\(\) from a module created with nn\.DataParallel\(\)",
                "zero_grad() was called on a copy that nn.DataParallel made of the model",
            ),
        ],
        variants={
            "unused": (
                "some parameters took no part in the loss, so no gradient came for them, and "
                "DistributedDataParallel still waits for it; or part of what forward returned was "
                "not used in the loss",
                "use them or take them out of the model, or freeze them before it is wrapped "
                "(requires_grad_(False)); pass find_unused_parameters=True where they differ from "
                "step to step. diagnose(loss, *net.parameters()) names them before backward()",
                (
                    r"Expected to have finished reduction in the prior iteration|"
                    r"Parameter indices which did not receive grad for rank",
                    "some parameters got no gradient in the last backward pass",
                ),
                (
                    r"parameters that were not used in producing the loss|"
                    r"Communication call has not been issued for this bucket",
                    "some parameters got no gradient in this backward pass",
                ),
            ),
            "twice": (
                "two backward passes came to one parameter in one step: a parameter is used in "
                "two reentrant checkpoints, or outside of forward, or backward() was called twice "
                "after one forward",
                "pass use_reentrant=False to the checkpoints; compute all in one forward of the "
                "wrapped model and call backward() once; static_graph=True where the graph is "
                "the same in each step",
                (
                    r"Expected to mark a variable ready only once|has been marked as ready twice",
                    "a parameter got its gradient twice in one step",
                ),
                (
                    r"The parameter \d+ has already been reduced|"
                    r"Gradients were computed more than backward_passes_per_step times",
                    "a parameter got its gradient twice before the step of the optimizer",
                ),
            ),
            "all-used": (
                "find_unused_parameters=True walks the graph in each step, and all parameters were "
                "in it",
                "construct the wrapper without find_unused_parameters=True",
                (
                    r"find_unused_parameters=True was specified in DDP constructor, but did not",
                    "find_unused_parameters=True found no unused parameters",
                ),
            ),
            "strides": (
                "DistributedDataParallel copies a gradient whose strides are not those of its "
                "bucket; the numbers are right, the copy takes time",
                "nothing, or make the parameter contiguous before the model is wrapped",
                (
                    r"Grad strides do not match bucket view strides|"
                    r"grad and param do not obey the gradient layout contract|"
                    r"parameter gradient is not the expected DDP bucket view",
                    "a gradient lies in memory in another order than its parameter",
                ),
            ),
            "between": (
                "after backward() the gradients are on their way to the other processes until "
                "step() has waited for them",
                "call zero_grad() before backward() or after step(); with two optimizers "
                "synchronize() the one whose gradients are not used yet",
                (
                    r"zero_grad\(\) was called after loss\.backward\(\) but before",
                    "zero_grad() was called between backward() and step()",
                ),
            ),
            "no-sync": (
                "ZeRO stages 2 and 3 share the gradients out in each backward pass, so no pass can "
                "keep them for the next",
                "let the engine accumulate: gradient_accumulation_steps in its configuration, and "
                "no no_sync() or accelerator.accumulate() around the pass; or stage 1",
                (
                    r"no_sync context manager is incompatible with gradient partitioning",
                    "gradients were to be accumulated with no_sync() under ZeRO",
                ),
            ),
            "rpc": (
                "gradients that go between processes are kept in a context, not in .grad",
                "with torch.distributed.autograd.context() as number: and in it forward and "
                "torch.distributed.autograd.backward(number, [loss])",
                (
                    r"Current thread doesn't have a valid autograd context",
                    "the backward pass of several processes ran outside of a context",
                ),
            ),
            "sharded": (
                "FullyShardedDataParallel gives a parameter its memory while the module that it "
                "wrapped runs, and takes it away again: outside of forward and backward there are "
                "no numbers to read",
                "call the wrapped model itself, not a layer of it or its forward by name; read "
                "parameters in FullyShardedDataParallel.summon_full_params(model)",
                (
                    r"setStorage: sizes [\s\S]* are out of bounds for storage of size 0",
                    "a tensor was used whose memory had been taken away",
                ),
            ),
            "fork": (
                "the engine keeps threads for the devices, and fork() copies the process without "
                "its threads",
                "start processes by spawn: torch.multiprocessing.set_start_method('spawn'), or "
                "run the first backward pass after the fork",
                (
                    r"Unable to handle autograd's threading in combination with fork",
                    "a process that was forked after a backward pass ran one itself",
                ),
            ),
        },
    ),
    "mixed-dtypes": Kind(
        "error",
        _VECTORS,
        "the operation took two dtypes in the forward pass, and its backward formula has one; most "
        "often the target is float64, as what comes from NumPy is",
        "convert before the operation: target.float(), or target.to(output.dtype)",
        errors=[
            (
                r"Found dtype (?P<found>\w+) but expected (?P<wanted>\w+)",
                "a backward formula met {found} where it computes in {wanted}",
            ),
        ],
    ),
    "compiled": Kind(
        "error",
        _TWICE,
        "a backward pass of torch.compile is compiled code as well, one Node that nothing can "
        "differentiate again",
        "for a gradient of a gradient run that part without torch.compile: the function before it "
        "was compiled, or model under torch.compiler.set_stance('force_eager')",
        errors=[
            (
                r"torch\.compile with aot_autograd does not currently support double backward",
                "a gradient of a compiled function was differentiated again",
            ),
            (
                r"chunked op: \w+ was False at trace time but",
                "a compiled linear_cross_entropy was traced before its input required grad",
            ),
        ],
        variants={
            "overwritten": (
                "with CUDA graphs each run of a compiled function writes into the same memory, "
                "and a tensor that an earlier run gave was overwritten",
                "clone() what you keep, outside of the compiled function, or call "
                "torch.compiler.cudagraph_mark_step_begin() before each run",
                (
                    r"accessing tensor output of CUDAGraphs that has been overwritten",
                    "a result of a compiled function was read after another run of it",
                ),
            ),
        },
    ),
    "cudnn-rnn": Kind(
        "error",
        _SAVED,
        "cuDNN keeps what the backward pass of an RNN, LSTM or GRU needs only in training mode, "
        "and eval() was called on the module",
        "call rnn.train() before the forward pass, with its dropout set to 0.0; or compute without "
        "cuDNN: with torch.backends.cudnn.flags(enabled=False)",
        errors=[
            (
                r"RNN backward can only be called in training mode",
                "backward came to an RNN that ran in eval mode",
            ),
        ],
        variants={
            "double": (
                "cuDNN has no second derivative of an RNN, LSTM or GRU",
                "run its forward pass without cuDNN: with "
                "torch.backends.cudnn.flags(enabled=False)",
                (
                    r"Double backwards is not supported for CuDNN RNNs",
                    "a gradient of an RNN on cuDNN was differentiated again",
                ),
            ),
        },
    ),
    # ---- none.md
    "not-a-leaf": Kind(
        "error",
        _LEAVES,
        "an operation made this tensor, and backward fills .grad for leaves alone",
        "call retain_grad() on it before backward, or take torch.autograd.grad, or make the "
        "tensor a leaf: compute first, then detach().requires_grad_()",
        variants={
            "optimizer": (
                "an optimizer changes leaves alone, and an operation made this tensor: clone(), "
                "to() and arithmetic do so, of an nn.Parameter as well",
                "make it a leaf after the last operation: x = x.clone().double().detach()"
                ".requires_grad_(), or nn.Parameter(values) of values without a graph; or give "
                "the optimizer the leaves that it was computed from, and compute it in each step",
                (
                    r"can't optimize a non-leaf Tensor",
                    "an optimizer was given a tensor in the middle of a graph",
                ),
            ),
        },
        errors=[
            (
                r"\.grad attribute of a Tensor that is not a leaf Tensor is being accessed",
                "the .grad of a tensor in the middle of a graph was read",
            ),
            (
                r"post accumulate grad hooks cannot be registered on non-leaf tensors",
                "a hook for the filled .grad was set on a tensor in the middle of a graph, which "
                "has none; register_hook is called there",
            ),
        ],
    ),
    "reassigned": Kind(
        "error",
        _LEAVES,
        "the graph ends at another leaf, with the values of this one: the variable has got a new "
        "tensor, or the tensor was copied, as copy.deepcopy() does",
        "change the values of the one tensor in place under torch.no_grad(); or give the tensor "
        "that the model has now to everybody who holds this one, the optimizer too",
        variants={
            "memory": (
                "nn.Parameter(w), w.data and w.detach() are other tensors in the memory of w: they "
                "have its values, and a gradient of their own",
                "use the parameter itself, as in b.weight = a.weight for one that is shared; or "
                "give the leaf that is in the graph, as model.parameters() does, to the optimizer "
                "and to diagnose()",
            ),
            "not-given": (
                "the graph leads to parameters that are not among the inputs; an optimizer that "
                "was given the same list does not change them",
                "nothing, where somebody else has them, as the other network of two; else register "
                "what holds them: layers in a Python list or dict are no part of "
                "model.parameters(), those in nn.ModuleList, nn.ModuleDict or nn.ParameterList "
                "are; and a layer that forward makes is a new one each time: make it in __init__",
            ),
            "unregistered": (
                "model.parameters() gives what is an nn.Parameter or a module and an attribute of "
                "a module, not a plain tensor, and not what a Python list or dict holds; an "
                "optimizer that was given it does not change the others",
                "nn.Parameter(tensor) for a tensor, nn.ModuleList, nn.ModuleDict, "
                "nn.ParameterList or nn.ParameterDict in place of the list or dict; and make the "
                "optimizer after that",
            ),
            "result": (
                "to(), double() or arithmetic with an nn.Parameter gives a result, which is not "
                "one: the module has that as a plain tensor, and parameters() does not give the "
                "leaf behind it, so an optimizer never changes it",
                "nn.Parameter(values.double()) for nn.Parameter(values).double(), and "
                "module.to(device) for the whole module afterwards; compute with it in forward, "
                "not in __init__; nothing, where another module has the parameter",
            ),
            "made-anew": (
                "a layer that is made in the forward pass is another one each time, with new "
                "random weights: it gets a gradient, and never learns",
                "make it once, in __init__, as an attribute of the module, and the optimizer after "
                "that; nothing, where the whole model was made in the block",
            ),
        },
    ),
    "leaf-output": Kind(
        "error",
        _LOST,
        "the output is a leaf, so backward fills its own .grad and goes nowhere else; if it was "
        "computed, its graph was cut, and requires_grad was switched on afterwards",
        "take requires_grad_() or requires_grad=True away from the result, and fix the cut before "
        "it, as by item(), numpy(), detach(), Variable() or torch.tensor(results): diagnose(..., "
        "watch=watched) names it after a forward pass in `with watch() as watched:`",
        variants={"left": _LEFT_TORCH},
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
        variants={
            "harmful": (
                "comparisons, arg-functions and casts to whole numbers move in jumps, and no other "
                "way leads to what gets no gradient",
                _SMOOTH,
            ),
            "term": (
                "comparisons, arg-functions and casts to whole numbers move in jumps: to autograd "
                "this part of the sum is a number that does not depend on the parameters",
                "nothing, where it is only to be seen in the value; else " + _SMOOTH,
            ),
        },
    ),
    "cannot-know": Kind(
        "info",
        _FUNCTIONS,
        "what a Node does when it runs is not in the graph",
        "call backward() once and look at the .grad of each input",
        variants={
            "undefined": (
                "the formula of this Node gives no gradient, not even zeros, and the Nodes below "
                "pass on what they get; .grad is left alone then",
                "nothing, where no gradient is meant; else take a function that has one, such as "
                "norm(p=1) for norm(p=0)",
            ),
            "option": (
                "the formula of this Node depends on how the operation was called, and with these "
                "arguments torch refuses to differentiate it",
                "call it in a way that has a formula, such as torch.linalg.qr(a, mode='reduced')",
            ),
            "sparse": (
                "a formula is written in operations, and not each of them can do with sparse "
                "tensors",
                "try backward() once; if it raises, compute with to_dense()",
            ),
            "transform": (
                "inside torch.func.grad, vmap and the like a tensor stands for the one that is "
                "there outside; the transform makes the gradient itself, and backward() raises",
                "diagnose the result, outside of the transform",
            ),
            "compiled": (
                "torch.compile puts one Node in place of many, and code in place of their formulas",
                "to see what is in it, run the forward pass without torch.compile",
            ),
            "checkpoint": (
                "its backward runs a part of the forward pass again, and a backward pass of its "
                "own, whose graph is not made yet",
                "call torch.utils.checkpoint.checkpoint with use_reentrant=False",
            ),
            "retained": (
                "retain_grad() asks the Node to fill .grad, and detach_() takes the tensor away "
                "from the Node, which does as it was asked",
                "detach() in place of detach_(), which gives another tensor and leaves this one in "
                "the graph",
            ),
            "hooks": (
                "what was saved through hooks, as in torch.utils.checkpoint or save_on_cpu(), is "
                "not looked at, since that would run the hooks, or the forward pass again",
                "nothing, where the gradients are finite; else diagnose once without the "
                "checkpoint or the hooks, or look at record_backward(loss).first_nonfinite",
            ),
            "operator": (
                "this operator has no autograd formula, only a kernel for its values; torch "
                "warns, and gives no gradient",
                "register one, as with torch.library.register_autograd, or write a "
                "torch.autograd.Function",
            ),
        },
    ),
    # ---- zero.md
    "zero-derivative": Kind(
        "warning",
        _LOST,
        "round, floor, sign and the like are flat between their jumps; their Nodes send zero",
        "a smooth stand-in, or a straight-through estimator: x + (x.round() - x).detach()",
        variants={
            "drawn": (
                "what is drawn is a constant for autograd, whatever it was drawn with; the Node of "
                "the drawing sends zero",
                "draw from a fixed distribution and compute on from that, as mu + std * "
                "torch.randn_like(std) for torch.normal(mu, std), or rsample() of "
                "torch.distributions; for bernoulli, poisson and others without (has_rsample) the "
                "score function, -dist.log_prob(sample) * reward, a relaxed distribution such as "
                "RelaxedBernoulli, or a straight-through estimator, p + (sample - p).detach()",
            ),
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
            "zero-weight": (
                "what is multiplied by zeros gets a gradient of zero; after the first step the "
                "zeros are none any more, unless they get none either",
                "nothing, where weights begin at zero on purpose, as in LoRA or a residual branch; "
                "else begin with random ones: nn.init.kaiming_uniform_(layer.weight)",
            ),
            "constant-sum": (
                "softmax adds up to 1, and what is normalised adds up to 0, whatever goes in: a "
                "plain sum or mean of it stays as it is, and the gradient is 0 but for rounding",
                "compare it with a target before the sum, as F.cross_entropy(logits, target) and "
                "(output - target).pow(2).mean() do",
            ),
            "zero-factor": (
                "what is multiplied by zeros gets a gradient of zero: a mask that leaves nothing, "
                "data that are all zeros, or what a layer gave whose own weights are zero",
                "look at what it is multiplied by: fill in the data, skip a batch whose mask is "
                "empty, begin at least one of two weights in a row with random numbers",
            ),
            "zero-number": (
                "what is multiplied by zero gets a gradient of zero",
                "nothing, where a term is to count nothing yet, as in warm-up; else look at the "
                "number",
            ),
            "masked": (
                "a mask leaves out every element, and what is left out gets zero",
                "look at the mask: it may be turned round, as where(mask, ...) for "
                "where(~mask, ...)",
            ),
            "second": (
                "this function has no bends but its kinks: between them its slope is constant, and "
                "so the derivative of that is zero",
                "take a smooth activation where second derivatives are needed, as in a PINN: tanh, "
                "softplus or SiLU in place of ReLU",
            ),
            "padding": (
                "the row of padding_idx gets no gradient, so that it stays what it is; here no "
                "index is that of another row",
                "look at the indices: a batch may have nothing but padding, or padding_idx is that "
                "of a word",
            ),
            "too-long": (
                "between equal labels a blank is needed, and so few steps have no room for any "
                "target: each loss is infinite, and zero_infinity=True makes it and its gradient 0",
                "give the network more steps, by less striding or pooling; look at input_lengths "
                "and target_lengths",
            ),
            "underflow": (
                "gradients have the dtype of the values, and in float16 what is below 3e-8 becomes "
                "0; so a loss that is small, or a mean over many elements, has gradients of zero",
                "scale the loss up: scaler = torch.amp.GradScaler(), scaler.scale(loss)"
                ".backward(); or compute in bfloat16 or float32",
            ),
            "overwritten": (
                "other values were written over all of the tensor: what it was before has no part "
                "in the loss, so it gets zero",
                "write into the part that you mean, as y[mask] = 0.0, or into a tensor of its own; "
                "for noise add it: y + std * torch.randn_like(y)",
            ),
            "ignored": (
                "a label that is ignore_index (-100, unless you say another) is left out of the "
                "loss; where all are, the sum over none is 0 and the mean NaN",
                "skip such a batch: if (labels != -100).any(); and look how the labels are made, "
                "as by a tokenizer or a mask that leaves nothing to learn",
            ),
            "nothing": (
                "a mask or an index has selected no element; a sum over none is 0, whatever went "
                "in, and a mean over none is NaN",
                "look at the mask; where a batch may have none, leave the term out: "
                "if mask.any(): loss = loss + term",
            ),
            "lowest": (
                "the function is at its lowest here, and its slope is zero there: a norm or a "
                "square of zeros, the variance of equal numbers, the divergence of two "
                "distributions that are equal now, a loss that is met exactly",
                "nothing, where that is reached; parameters that are to leave it begin at small "
                "random numbers in place of zeros",
            ),
            "itself": (
                "the loss of a tensor and itself is 0 whatever its values are, and so is its slope",
                "compare the output with the target; look whether one was given in place of the "
                "other, or the target was computed by the same call",
            ),
            "twice": (
                "x - x is 0 and x / x is 1, whatever x is, also where it was computed twice: the "
                "two gradients are equal but for their sign, and but for rounding nothing is left",
                "detach() the one that is to stay as it was, as the old log-probabilities of PPO: "
                "(logp - old_logp.detach()).exp(); its value stays 1 and its slope comes back",
            ),
            "adds-up": (
                "the gradients that come to it by several ways add up to 0, but for rounding: "
                "what is computed is the same whatever goes in, as the length of what was "
                "normalised and log(exp(x)) - x are, or it is at its lowest",
                "write the formula out and look which terms cancel; compare with a target that "
                "does not come of the same tensor, or detach() the term that is to stay as it was",
            ),
            "cancels": (
                "the two gradients are equal but for their sign; so are those of "
                "log_prob(rsample()) by the mean, since the sample moves with the mean",
                "detach() the sample for log_prob(...) * reward, as sample() does; to follow the "
                "sample itself, differentiate what is computed from rsample()",
            ),
        },
    ),
    "dead-relu": Kind(
        "warning",
        _KINKS,
        "relu sends zero wherever its input was zero or less, which is everywhere here",
        "look at what goes in; with leaky_relu some gradient passes",
    ),
    "half-precision": Kind(
        "info",
        _KINKS,
        "gradients have the dtype of the values: in float16 small ones become zero and large ones "
        "infinite, in bfloat16 they keep three digits at most",
        "compute in float32, or scale the loss for float16",
    ),
    # ---- nan.md
    "nan-risk": Kind(
        "warning",
        _KINKS,
        "the formula divides by zero here: it sends an infinite gradient, and NaN where a zero "
        "arrives or is met further on",
        "keep the input of the operation away from the point, not its result: "
        "clamp(min=1e-6) before it, or torch.where(mask, x, 1.0).sqrt() and then mask again",
        variants={
            "masked": (
                "a mask, where() or an index leaves out a value and not its Node: that gets a zero "
                "from there, and zero times infinity or NaN is NaN",
                "mask the input of the operation, not only its result: torch.where(mask, x, "
                "0.0).exp() with a safe value in place of x, and then mask again",
            ),
            "log": (
                "the formula divides by zero here; a probability that is too small for the dtype, "
                "as softmax, sigmoid and a product of many give, is rounded to 0",
                "stay with logarithms: F.log_softmax(x, -1) for x.softmax(-1).log(), F.logsigmoid, "
                "torch.logsumexp for the log of a sum of exp, a sum of logs for that of a product; "
                "else keep the input of the operation away from 0: clamp(min=1e-6) before it, and "
                "mask before it, not its result",
            ),
            "division": (
                "the formula divides by zero here: it sends an infinite gradient, and NaN where a "
                "zero arrives or is met further on",
                "keep what is divided by away from 0, and do not mask the result: "
                "x / y.clamp(min=1e-6), F.normalize(x, dim=-1) for a vector by its length, "
                "mask.sum().clamp(min=1) for a mean under a mask; or "
                "x / torch.where(y == 0, 1.0, y), and then mask again",
            ),
            "near": (
                "the formula divides by a number so near to 0 that what comes out is too large for "
                "the dtype: it is infinite, and NaN where a zero is met further on",
                "keep the input of the operation further away from 0: clamp(min=1e-6) before it, "
                "in float16 clamp(min=1e-2); or compute this part in float32",
            ),
            "half-zero": (
                "the formula divides by zero here, and float16 has 0 for all that is below 3e-8",
                "compute this part in float32, as x.float().rsqrt(); or keep its input further "
                "away from 0 than elsewhere: clamp(min=1e-2) before it",
            ),
            "half": (
                "gradients have the dtype of the values, and float16 ends at 65504: what is larger "
                "becomes infinite, and NaN where a zero is met further on",
                "scale the loss down, or compute this part in float32 or bfloat16; a GradScaler "
                "leaves out such a step and halves its scale, so its first steps may be like this",
            ),
            "too-long": (
                "between equal labels a blank is needed, and so few steps have no room for all: "
                "the loss of the sample is infinite, and its gradient NaN",
                "pass zero_infinity=True, which leaves such samples out; or give the network more "
                "steps, by less striding or pooling, and look at input_lengths",
            ),
            "domain": _OUTSIDE_OF_DOMAIN,
            "large": _TOO_LARGE,
            "all-masked": (
                "the exp of -inf is 0, and where there is nothing else the formula divides by "
                "their sum, which is 0 too",
                "mask with a large finite number in place of -inf: "
                "x.masked_fill(mask, -1e9).logsumexp(-1)",
            ),
            "zero-rows": (
                "the direction of a row of zeros is not determined: it is divided by its norm",
                "begin with other weights before weight_norm, as with nn.init.normal_(weight, "
                "std=0.02)",
            ),
            "interval": (
                "the slope is infinite at the end of what the function takes: it sends an infinite "
                "gradient, and NaN where a zero arrives",
                "keep the input off the ends: x.clamp(-1 + 1e-6, 1 - 1e-6) before acos, asin, "
                "atanh or erfinv, x.clamp(min=1 + 1e-6) before acosh, torch.logit(x, eps=1e-6)",
            ),
            "spectrum": (
                "the derivative of the vectors divides by the difference of two values, and that "
                "is zero: which vectors belong to equal values is not determined",
                "compute the loss from the values alone (eigvalsh, svdvals), or make them differ: "
                "A + torch.diag(torch.linspace(0, 1e-3, n))",
            ),
            "singular": (
                "the formula divides by what is zero for a singular matrix",
                "keep the matrix from being singular: A + 1e-4 * torch.eye(n) before it",
            ),
            "one-element": (
                "with correction=1 the sum of squares is divided by the number of elements less "
                "one, which is zero: the result is NaN, and so is the gradient",
                "leave it out where there is one element: x.std() if x.numel() > 1 else 0.0; or "
                "pass correction=0, with which std and gradient are 0 there",
            ),
            "empty-row": _EMPTY_ROW,
        },
    ),
    "non-finite": Kind(
        "warning",
        _KINKS,
        "formulas compute with the values of the forward pass; what is infinite or NaN there "
        "spoils the gradients that meet it",
        "fix the forward pass first: after it ran in `with watch() as watched:`, "
        "watched.first_nonfinite names the first operation whose result is not finite",
        variants={
            "clipped": (
                "one gradient is infinite or NaN, and so is their norm; divided by it all of them "
                "would become zero or NaN",
                "look for it by diagnose(loss, watch=watched) and fix that operation; with a "
                "GradScaler call unscale_(optimizer) before clipping, and leave "
                "error_if_nonfinite=True away: its step() is then left out",
                (
                    r"The total norm of order \S+ for gradients from `parameters` is non-finite",
                    "the gradients to clip are not finite",
                ),
            ),
            "stopped": (
                "a NaN or an infinity reached this place: it was born in the forward pass, or in "
                "the backward pass of a step before, which put it into the weights",
                "look first whether the weights are finite: p.isfinite().all() for each. If so, "
                "run the forward pass in with watch() as watched: and watched.first_nonfinite "
                "names the operation; if not, ask diagnose(loss, watch=watched) in the step before",
                (
                    r"but found invalid values:[^;]*\bnan\b|"
                    r"probability tensor contains either `inf`, `nan`|"
                    r"The parameter \w+ has invalid values|"
                    r"elements of the [^\n]*tensor are NaN|contained non-finite values",
                    "an operation was given NaN or infinity",
                ),
                (
                    r"Loss became infinite or NaN at iteration|Encountered NaN: \w*loss|"
                    r"[Uu]nderflow in dt|non-finite values in state `y`",
                    "a library stopped at a NaN or infinity of the forward pass",
                ),
                (
                    r"found NaN in local grad norm|element gradient array `gradf` are NaN",
                    "a library stopped at a NaN in the gradients",
                ),
            ),
            "domain": _OUTSIDE_OF_DOMAIN,
            "large": _TOO_LARGE,
            "data": (
                "what came in without a graph is infinite or NaN: data, a mask, or what something "
                "frozen gave; and so is all that is computed from it",
                "look for it where the data are read: x.isfinite().all(dim=0) names the columns; "
                "fill in or leave out what is missing, and divide by std.clamp(min=1e-6)",
            ),
            "running": (
                "a forward pass in training mode met infinity or NaN, and running statistics are "
                "averages, which keep that for ever",
                "take the values of a checkpoint, or module.reset_running_stats() and some passes "
                "over the data in training mode; and look for the batch that was not finite",
            ),
            "born": (
                "formulas compute with the values of the forward pass; what is infinite or NaN "
                "there spoils the gradients that meet it",
                "look what went into that operation: log, sqrt and a division want it away from 0 "
                "and exp below 88, and 0 times infinity is NaN, as of a mask of -inf that no "
                "softmax follows; watched.first_nonfinite has the operation, with shapes and line",
            ),
            "trained": (
                "a step before this one put it there: the gradient was infinite or NaN then, or so "
                "large that the step was",
                "begin again from weights that are finite, as those of a checkpoint; and look "
                "before each step, by diagnose(loss, watch=watched), or whether the norm that "
                "clip_grad_norm_ gives is finite",
            ),
            "overflow": (
                "a sum or a product of finite numbers may be larger than the dtype goes: float32 "
                "and bfloat16 end at 3.4e38, float16 at 65504",
                "make the numbers smaller before it, as by a norm layer or a lower learning rate "
                "where the weights grow; take mean() for sum(); or compute this part in float32, "
                "or in float64",
            ),
            "impossible": (
                "the loss is minus the log-probability of the label, and that is -inf, as where a "
                "mask of -inf leaves out the class",
                "look at the mask, which may leave out what is right, and at the labels; a large "
                "finite number in the mask keeps the loss finite: logits.masked_fill(mask, -1e9)",
            ),
            "ignored": (
                "a label that is ignore_index (-100, unless you say another) is left out of the "
                "loss; where all are, their mean divides zero by zero",
                "skip such a batch: if (labels != -100).any(); and look how the labels are made, "
                "as by a tokenizer or a mask that leaves nothing to learn",
            ),
            "nothing": (
                "a mask or an index has selected no element, and a mean over none divides zero by "
                "zero",
                "look at the mask; where a batch may have none, leave the term out: "
                "if mask.any(): loss = loss + term",
            ),
            "empty-row": _EMPTY_ROW,
            "after": (
                "the formula of this Node divided by zero, or met an infinity or NaN: one that "
                "came to it, or one of the forward pass, which may be masked in the loss",
                "if the loss is finite, keep the input of the operation away from the point, or "
                "mask it before: torch.where(mask, x, 1.0).sqrt(); else fix the operation of the "
                "forward pass that gave the first NaN or infinity. diagnose(loss, watch=watched) "
                "tells before the backward pass, watched.first_nonfinite names the operation",
                (
                    r"Function '(?P<node>\w+)' returned nan values in its (?P<index>\d+)\w\w out",
                    "{node} gave NaN for its input {index}",
                ),
            ),
            "probabilities": (
                "binary_cross_entropy takes probabilities, and was given numbers outside of 0 to "
                "1, or NaN",
                "give it what a sigmoid gave, or better give what comes before the sigmoid to "
                "binary_cross_entropy_with_logits; if it is NaN, look for the operation with "
                "watched.first_nonfinite",
                (
                    r"all elements of (?:input|target) should be between 0 and 1|"
                    r"`?input_val >= zero && input_val <= one`? failed",
                    "binary_cross_entropy was not given probabilities",
                ),
            ),
            "diverged": (
                "a loss or a gradient is NaN or infinite: steps that are too large let the weights "
                "grow until something overflows, or a formula met a zero, or the data have NaN",
                "look whether the data and the weights are finite; with watch() as watched: around "
                "the forward pass, watched.first_nonfinite names the operation, and "
                "diagnose(loss, watch=watched) what the backward pass divides by. If neither finds "
                "one before it happens, take a smaller learning rate, or clip the gradients",
                (
                    # Not: the loss is finite, but the weights are NaN.
                    rf"\b[Ll]oss(?:es)?\b(?:(?!\b(?:but|finite)\b)[^\n]){{0,40}}{_NAN}|"
                    rf"{_NAN}[^\n]{{0,20}}\b[Ll]oss(?:es)?\b",
                    "the loss is NaN or infinite",
                ),
                (
                    # A person types such words too, of a loss that is well: that is NaN risk.
                    rf"[Gg]radients are {_NAN}/|"
                    rf"(?:[Dd]etected|[Ff]ound) {_NAN}[^\n]{{0,20}}\b[Gg]rad(?:ient)?s?\b",
                    "gradients are NaN or infinite",
                ),
                (
                    rf"\b(?:activations?|boxes|logits|outputs?|predict\w+|scores|weights)\b"
                    rf"[^\n]{{0,30}}\bcontains? {_NAN}",
                    "a result of the model is NaN or infinite",
                ),
            ),
        },
    ),
    # ---- wrong-missing.md
    "detached": Kind(
        "warning",
        _CUT,
        "detach() and .data give the same values without a grad_fn: a constant for autograd",
        "take it away where the gradient should pass; keep it where you mean a constant",
        cut="{called} gives the value without its graph",
        variants={
            "harmful": (
                "detach() and .data give the same values without a grad_fn: a constant for "
                "autograd, and no other way leads to what gets no gradient",
                "take it away where the gradient should pass; where a constant is meant, as in a "
                "straight-through estimator, give what comes before it a loss of its own",
            ),
            "before": (
                "what detach(), .data and state_dict() give shows the values of a parameter, and "
                "no Node leads from it back to that",
                "compute with the parameter itself: with dict(model.named_parameters()), not with "
                "detached copies or state_dict(), in torch.func.functional_call as well; nothing, "
                "where you mean a constant",
            ),
            "library": (
                "a library that this line calls detaches what it hands out or writes, and no other "
                "way leads to what gets no gradient",
                "call what keeps the graph: dict(model.named_parameters()) or "
                "state_dict(keep_vars=True) for state_dict(), torch.stack of parameters for "
                "torch.func.stack_module_state(), torch.func.functional_call() with the parts of a "
                "vector for vector_to_parameters(); or take what it gives for the leaves to train",
            ),
            "meant": (
                "detach() and .data give the same values without a grad_fn: a constant, as a "
                "target, a baseline or a straight-through estimator needs one",
                "nothing, where you mean a constant; else take it away: the part of the gradient "
                "that would pass here is missing",
            ),
        },
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
                _CALL_WITH_RESULTS + "; to share a parameter assign it itself: b.weight = a.weight",
            ),
            "alias": (
                "the graph of what is written goes to the tensor that .data or detach() gave; the "
                "tensor whose memory that is has the values, and no Node of them",
                "write into the tensor itself, out[i] = result for out.data[i] = result, where no "
                "Node saved it; or put results together with torch.stack or torch.cat; where the "
                "values are constants on purpose, as a teacher's weights, compute the loss from "
                "what is to learn",
            ),
            "written": (
                "what is written through .data, or with gradients off, leaves no Node: the tensor "
                "keeps the place in the graph that it had",
                _CALL_WITH_RESULTS + "; nothing, where the values are meant as constants; where "
                "they are an average of weights, compute the loss from the model that is trained",
            ),
            "deepcopy": (
                "a deep copy has the values and leaves of its own, which get the gradients",
                "run the model itself; for inner steps compute new weights, as w - lr * g, and "
                "call the model with them: torch.func.functional_call(model, weights, (x,))",
            ),
        },
        cut_variants={
            "parameter": "{called} makes a new leaf of what this line computed",
            "written": "{called} writes a result into a tensor without a Node for it",
            "deepcopy": "copy.deepcopy() copies the values into new leaves",
        },
        errors=[
            (
                r"To copy construct from a tensor, it is recommended to use",
                "a tensor was copied by value",
            ),
            (
                r"not recommended to create a MaskedTensor with a tensor that requires_grad",
                "a MaskedTensor was made of a tensor that requires grad; as_masked_tensor() keeps "
                "its graph",
            ),
        ],
    ),
    "left-torch": Kind(
        "warning",
        _LOST,
        "a Python number, list or NumPy array has no grad_fn: a constant for autograd",
        "compute on with the tensor itself: loss for loss.item(), torch.stack(losses) for a new "
        "tensor of a list, torch's functions for NumPy's",
        cut="{called} gives a plain value, which autograd does not follow",
        variants={
            "scale": (
                "a Python number has no grad_fn: a constant for autograd, as a loss that is "
                "divided by its own size needs one",
                "nothing, where you mean a constant; else compute on with the tensor itself, as in "
                "a / b for a / b.item()",
            ),
        },
        errors=[
            (
                r"Converting a tensor with requires_grad=True to a scalar",
                "a tensor that requires grad was made a Python number",
            ),
        ],
    ),
    "no-grad": Kind(
        "warning",
        _CUT,
        "the operation ran with gradients off, so it left no Node",
        "keep it where you mean a constant, such as a target; else run it with gradients on: "
        "outside of torch.no_grad(), be it a block or a decorator, or after set_grad_enabled(True)",
        cut="{called} ran while gradients were off (torch.no_grad, set_grad_enabled(False))",
        variants={
            "harmful": (
                "the operation ran with gradients off, so it left no Node, and no other way leads "
                "to what gets no gradient",
                "run it with gradients on: outside of torch.no_grad(), be it a block or a "
                "decorator, or after set_grad_enabled(True). If it is to stay as it is, as a "
                "target network, switch requires_grad off for it, or leave it out of diagnose()",
            ),
            "library": (
                "a library that this line calls switched gradients off, as generate() of "
                "transformers does, and no other way leads to what gets no gradient",
                "call a function of it that leaves gradients on: the model itself, on the tokens "
                "that generate() gave; or compute it yourself",
            ),
            "meant": (
                "the operation ran with gradients off, so it left no Node: a constant for "
                "autograd, as a target needs one",
                "nothing, where you mean a constant; else move it out of torch.no_grad(): the part "
                "of the gradient that would pass here is missing",
            ),
            "view": _BARE_VIEW,
            "sample": (
                "sample() of a distribution draws with gradients off: what it gives is a constant "
                "for autograd",
                "rsample(), where the distribution has it (has_rsample), to differentiate through "
                "the sample; else the score function, -dist.log_prob(sample) * reward, or a "
                "relaxed distribution such as RelaxedOneHotCategorical; leave it where a constant "
                "is meant",
            ),
            "checkpoint": (
                "checkpoint() with use_reentrant=True runs its function with gradients off, and "
                "makes a Node only if one of the tensors it is given requires grad",
                "checkpoint(..., use_reentrant=False), or requires_grad_() on a tensor that goes "
                "in",
            ),
            "function": (
                "gradients are off in the forward of a custom Function; its Node leads to what "
                "apply() was given, and to nothing else, and not from what forward marked by "
                "mark_non_differentiable",
                "give apply() the tensors that should get a gradient, with gradients on, return a "
                "gradient for each from backward, and mark only what needs none",
            ),
        },
        cut_variants={
            "view": "{called} gave a view while gradients were off (torch.no_grad, "
            "set_grad_enabled(False)), which says requires_grad=True and has no Node",
            "sample": "sample() draws without a graph",
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
        variants={"view": _BARE_VIEW},
        cut_variants={
            "view": "{called} gave a view in inference mode, which says requires_grad=True and has "
            "no Node"
        },
    ),
    "late-requires-grad": Kind(
        "error",
        _CUT,
        "it went into the operation as a constant: it did not require grad then, and edges are "
        "decided when the operation runs",
        "call requires_grad_() before the forward pass, then run it again",
    ),
    # ---- wrong-step.md
    "accumulates": Kind(
        "warning",
        _LEAVES,
        "AccumulateGrad adds to the .grad that is there",
        "set .grad = None, or zero_grad(), before backward, unless you mean to add",
        variants={
            "per-sample": (
                "the gradient of each example is added to what the last pass left in .grad_sample",
                "set p.grad_sample = None for each parameter before the next pass; "
                "torch.func.vmap(torch.func.grad(f)) keeps nothing",
                (
                    r"Current Expanded Weights accumulates the gradients",
                    "a second pass would add to the gradients of single examples",
                ),
            ),
        },
    ),
    "changed-behind": Kind(
        "warning",
        _IN_PLACE,
        "the values were changed through .data or a NumPy array that shares them, and its "
        "version counter did not move; what Nodes saved is no longer what the forward pass used",
        "change them after backward(): clip or swap weights behind it; and under torch.no_grad() "
        "through the tensor itself or detach(), which share its version counter, so that torch "
        "raises where it is too early",
        variants={
            "recomputed": (
                "a checkpoint saves what its function was given, and runs the function again in "
                "the backward pass: what this changes is changed a second time, and it computes "
                "with other values than the first time",
                "change the tensor outside of the checkpointed function, before or after it; or "
                "compute with a copy: y = y + 1 for y += 1",
            ),
        },
    ),
    "hook": Kind(
        "info",
        _HOOKS,
        "a hook may change the gradient that passes, or change it in place for others as well",
        "make hooks return a new tensor, and take away the ones you do not need: handle.remove()",
        variants={
            "uncalled": (
                "a backward hook of a module is called by a Node that a call of the module puts "
                "round its output where that requires grad. None is there where the module ran "
                "under torch.vmap or another transform, where forward() was called by its name, "
                "where the hook was set after the forward pass, and where the output is no tensor "
                "and no tuple",
                "call the module itself, not its forward, outside of transforms, with the hook "
                "set before; else hook the result: output.register_hook(...)",
            ),
            "returns": (
                "what a hook returns takes the place of the gradient, so it must have its shape, "
                "its dtype and its device; None leaves the gradient as it is",
                "return a tensor like the gradient, such as 2 * g, or nothing; a hook of a module "
                "returns a tuple of as many gradients as it was given",
                (
                    r"hook '(?P<name>[^']*)' has changed the (?P<what>\w+) of value",
                    "the hook {name} returned a gradient of another {what}",
                ),
                (
                    r"expected (?:Variable|tuple), but hook returned '(?P<type>\w+)'",
                    "a hook returned a {type} in place of a gradient",
                ),
                (
                    r"[Bb]ackward (?:pre )?hook returned an invalid number of \w+, got "
                    r"(?P<given>\d+), but expected (?P<wanted>\d+)",
                    "a hook of a module returned {given} gradients for {wanted}",
                ),
                (
                    r"hook for Modules where no input requires gradient should always return None|"
                    r"can't replace a(?:n empty| None) gradient with a non-",
                    "a hook returned a gradient where there was none",
                ),
                (
                    r"forward pre-hook must return None or a tuple of \(new_args, new_kwargs\)",
                    "a hook before forward did not return the arguments as a pair",
                ),
            ),
            "arguments": (
                "torch calls a hook with what belongs to its kind, whether it needs that or not",
                "take (module, args) in a hook before forward, (module, args, output) after it, "
                "(module, grad_output) before the backward pass of a module, (module, grad_input, "
                "grad_output) after it, (grad) on a tensor, and (optimizer, args, kwargs) around "
                "step(); with_kwargs=True puts kwargs behind args",
            ),
            "raised": (
                "a hook runs in the middle of the backward pass, which an error in it ends; what "
                "it is given may be expanded from one number, or needed elsewhere; for a module it "
                "is a tuple, in which None may stand",
                "return a new tensor and change nothing in place, as 2 * g for g.mul_(2), and test "
                "what a module's hook is given: if g is not None",
            ),
            "module": (
                "a full backward hook of a module stands between two Nodes, one at the tensors "
                "that go in and one at those that come out: it sees tensors, or tuples of them, "
                "that require grad",
                "use register_full_backward_hook alone, return tensors from forward, not a dict; "
                "else call register_hook on the tensor that you mean",
                (
                    r"Cannot use both regular backward hooks and full backward hooks",
                    "a module has both kinds of backward hooks",
                ),
                (
                    r"You are trying to (?:call|revive) the hook of a dead Module|"
                    r"Error while setting up backward hooks",
                    "a hook was called whose module is gone, or could not be set up",
                ),
                (
                    r"Modules must not have hooks registered at the time they are passed",
                    "torch.cuda.make_graphed_callables was given a module with hooks; they are set "
                    "afterwards",
                ),
                (
                    r"Cannot set Module backward hook for a Module with no input Tensors",
                    "a module without input tensors has a backward hook",
                ),
                (
                    r"For backward hooks to be called, module output should be a Tensor or a tuple",
                    "the backward hook of a module that returns no tensor is not called",
                ),
                (
                    r"Using (?:a )?non-full backward hooks? (?:on|when)",
                    "register_backward_hook was used, which sees only part of the gradients",
                ),
                (
                    r"Full backward hook is firing when gradients are computed with respect to "
                    r"module outputs",
                    "no input of a module with a full backward hook requires grad, so its hook "
                    "is given None for grad_input",
                ),
            ),
            "per-sample": (
                "hooks on the modules compute a gradient for each example; a parameter has none "
                "where no backward pass came to it, or its module has no such hook",
                "freeze parameters that the loss does not use, before the model is wrapped "
                "(requires_grad_(False)); call backward() before each step(), on the wrapped "
                "model; diagnose(loss, model) names parameters without a gradient",
                (
                    r"Per sample gradient (?:is not initialized|not found)",
                    "a parameter has no gradient for each example",
                ),
            ),
            "reused": (
                "hooks keep one input and one output for each module, and this module ran twice, "
                "or not at all",
                "give each place a module of its own, such as nn.ReLU(), and call it by its name "
                "and not by torch.relu",
                (
                    r"input/output attributes that are required for DeepLift",
                    "a module has no input and output for DeepLift",
                ),
            ),
            "pickled": (
                "a hook is a function of this process, and a tensor is saved without its hooks",
                "nothing; to silence it mark the function with "
                "@torch.utils.hooks.unserializable_hook",
                (
                    r"backward hook [\s\S]+ on tensor will not be serialized",
                    "a tensor with a hook was saved",
                ),
            ),
            "saved": (
                "what a pack hook returns is kept in place of the saved tensor, and its unpack "
                "hook must make that tensor of it; both are given tensors that others use as well",
                "pack into something new, as t.cpu() or t * 1, never in place; return a tensor "
                "of the same shape and dtype from unpack; set one pair of hooks",
                (
                    r"saved tensor unpack_hook expected to be a Tensor but got result of type "
                    r"(?P<type>\w+)",
                    "an unpack hook returned a {type}",
                ),
                (
                    r"saved tensor pack hook is modifying its input in place",
                    "a pack hook changed the tensor that it was given",
                ),
                (
                    r"register_hooks on a saved tensor (?:whose hooks have|with value None)",
                    "hooks were set on a saved tensor that cannot have them",
                ),
            ),
            "outside": (
                "while no backward pass runs there is nothing for this call to be part of",
                "call it in a hook, which runs in the backward pass",
                (
                    r"expected this hook to be called inside a backward call|"
                    r"callbacks can only be installed during backward pass",
                    "something of the backward pass was called outside of one",
                ),
            ),
        },
    ),
    "penalty-detached": Kind(
        "warning",
        _TWICE,
        "without create_graph=True a gradient has no graph: it is a constant in the loss",
        "for a penalty, or for second order, take it with torch.autograd.grad(..., "
        "create_graph=True); keep it where you mean a constant, as in first-order MAML",
        cut="{called} without create_graph=True gives gradients that have no graph",
        variants={
            "meant": (
                "the gradient was added to what it was taken of, went into the model again, or was "
                "detached, where a constant is usual: first-order MAML, an adversarial example, "
                "the weight of a term",
                "nothing, where you mean a constant; for the whole derivative, or a penalty, take "
                "the gradient with torch.autograd.grad(..., create_graph=True)",
            ),
            "read": (
                "backward() leaves numbers in .grad, without a graph: a constant in what is "
                "computed from them",
                "take the gradient with (g,) = torch.autograd.grad(loss, x, create_graph=True) and "
                "compute with g; nothing, where you mean a constant, as in an adversarial example",
            ),
        },
    ),
    # ---- wrong-formula.md
    "ties": Kind(
        "info",
        _KINKS,
        "at a tie the derivative does not exist, and each formula takes its own choice",
        "nothing, but do not test gradients at ties",
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
    "no-formula": Kind(
        "warning",
        _LOST,
        "PyTorch has no derivative formula for this operation, and gives its result no Node",
        "use operations that have one, or write a torch.autograd.Function",
        cut="{called} has no formula for its derivative, so its result has no graph",
    ),
    "broadcast": Kind(
        "warning",
        _VECTORS,
        "of shapes such as (4, 1) and (4,) each element meets each, and the loss is over all "
        "pairs: its gradient pulls each output to the mean of the targets",
        "nothing, where all pairs are meant; else give both one shape before: "
        "output.squeeze(1), or target.unsqueeze(1)",
    ),
    "probabilities": Kind(
        "warning",
        _CHAIN,
        "the loss takes softmax or the logarithm itself: of numbers between 0 and 1 no softmax "
        "comes near 0 or 1, so the loss stays large and its gradient small, and a probability "
        "taken for its logarithm makes the loss negative",
        "give the loss what came before the softmax or sigmoid: F.cross_entropy(logits, target), "
        "F.binary_cross_entropy_with_logits(logits, target); give nll_loss "
        "F.log_softmax(logits, -1)",
    ),
    "control-flow": Kind(
        "info",
        _RUNS,
        "Python decided by the value; the graph holds the branch that ran",
        "nothing, where one of the branches is meant to run; for a gradient through the decision "
        "compute it smoothly, as with sigmoid for a comparison",
        cut=(
            "{called} let Python decide by the value; that is harmless, since the graph "
            "holds what was then computed"
        ),
    ),
    # ---- memory.md
    "growing-graph": Kind(
        "warning",
        _SAVED,
        "a tensor keeps its graph, and the graph of a sum over steps holds the graphs of all steps",
        "add up loss.item(), or loss.detach()",
    ),
    "slow-slices": Kind(
        "info",
        _SAVED,
        "the gradient of a part is as large as the whole: zeros but for the part, made or copied "
        "anew for each; n parts of n rows cost n times n rows",
        "take the tensor apart once, with unbind(), split() or chunk(), or compute on the whole "
        "tensor without a loop; collect results in a list for torch.stack or torch.cat rather than "
        "write them one by one",
        variants={
            "growing": (
                "torch.cat copies all that it is given, and what is read of its result sends zeros "
                "as large as that: n parts, added one by one, cost n times n / 2 of them",
                "collect the parts in a list, read the last of the list, and call torch.cat once "
                "at the end",
            ),
        },
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
}
