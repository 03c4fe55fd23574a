"""An error that torch raised, explained: from its message to the kind of finding it is.

The messages are those of torch 2.6 to 2.15; where one was worded otherwise before, both match.
"""

from __future__ import annotations

import re

from companion.findings import Finding, finding
from companion.source import Source, is_users, source_at


def explain(error: BaseException) -> Finding | None:
    """Say what an error about gradients means, and what to do.

    Args:
        error: an exception that torch raised, or a warning of it that was caught or made an error.

    Returns:
        A finding of the same kind that ``diagnose`` gives; its ``source`` is the line of your
        program that the error passed last. None if the message is not known.

    Raises:
        TypeError: ``error`` is not an exception.

    Examples:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> try:
        ...     (x * x).backward()
        ... except RuntimeError as error:
        ...     explained = explain(error)
        >>> explained.code, explained.cure[:38]
        ('non-scalar', 'reduce the output to one number, as wi')
        >>> explain(ValueError("something else")) is None
        True
    """
    if not isinstance(error, BaseException):
        raise TypeError(
            f"error must be an exception, got {type(error).__name__}; catch it first: "
            "except RuntimeError as error"
        )
    told = str(error)
    for code, pattern, message in _MESSAGES:
        found = re.search(pattern, told)
        if found:
            known = {name: value or "" for name, value in found.groupdict().items()}
            source = _users_line(error)
            where = str(source or "")
            return finding(
                code, message.format(**known), severity="error", where=where, source=source
            )
    return None


def _users_line(error: BaseException) -> Source | None:
    """The innermost place of the user that an error passed."""
    place, traceback = None, error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if is_users(code.co_filename):
            place = code, traceback.tb_lasti
        traceback = traceback.tb_next
    return None if place is None else source_at(*place)


# Code, how torch says it, how we say it. The first that matches counts.
_MESSAGES = [
    (
        "no-graph",
        r"element (?P<place>\d+) of tensors does not require grad and does not have a grad_fn",
        "backward() was called on a tensor that has no graph",
    ),
    (
        "non-scalar",
        r"grad can be implicitly created only for scalar outputs",
        "backward() was called without a gradient on a tensor of several elements",
    ),
    (
        "complex-output",
        r"grad can be (?:implicitly )?(?:created|computed) only for real scalar outputs but got "
        r"(?P<dtype>\S+)",
        "backward() was called without a gradient on a tensor of dtype {dtype}",
    ),
    (
        "non-scalar",
        r"Mismatch in shape: grad_output\[\d+\] has a shape of",
        "the gradient that the pass should begin with does not have the shape of the output",
    ),
    (
        "freed",
        r"Trying to backward through the graph a second time",
        "the pass came to a Node that an earlier pass ran",
    ),
    (
        "modified-in-place",
        r"modified by an inplace operation: \[(?P<kind>\S+) (?P<shape>\[.*?\])\]"
        r"(?:, which is output \d+ of (?P<node>[\w:]+),)? is at version (?P<now>\d+); "
        r"expected version (?P<then>\d+)",
        "a saved tensor of shape {shape} is at version {now} and was saved at version {then}",
    ),
    (
        "modified-in-place",
        r"one of the variables needed for gradient computation has been modified by an inplace",
        "a saved tensor was changed in place",
    ),
    (
        "modified-in-place",
        r"saved tensor that has been detached in-place",
        "a saved tensor was taken out of its graph by detach_()",
    ),
    (
        "leaf-in-place",
        r"a (?:view of a )?leaf Variable that requires grad (?:is being|has been) used in an in-pl",
        "an in-place operation met a leaf, or a view of one",
    ),
    (
        "leaf-in-place",
        r"leaf variable has been moved into the graph interior",
        "a leaf was overwritten by the result of an operation after the graph was made",
    ),
    (
        "multi-view-in-place",
        r"is a view and is being modified inplace|its base or another view of its base has been "
        r"modified inplace|view was created in (?:no_grad|inference) mode",
        "an in-place operation met a view whose history cannot be rewritten",
    ),
    (
        "unused-input",
        r"(?:Tensor at index (?P<place>\d+)|One of the differentiated Tensors) appears to not "
        r"have been used in the graph",
        "no path leads from the output to an input that a gradient was asked for",
    ),
    (
        "input-without-grad",
        r"One of the differentiated Tensors does not require grad|"
        r"retain_grad on Tensor that has requires_grad=False|"
        r"cannot register a hook on a (?:tensor|variable) that doesn't require gradient|"
        r"gradcheck expects at least one input tensor to require gradient",
        "a gradient was asked for a tensor that does not require grad",
    ),
    (
        "integer-tensor",
        r"[Oo]nly Tensors of floating point (?:and complex )?dtype can require gradients",
        "requires_grad was asked for a tensor of whole numbers or booleans",
    ),
    (
        "integer-tensor",
        r"isDifferentiableType\(grad\.scalar_type\(\)\)",
        "a tensor with a graph was written into a tensor of whole numbers",
    ),
    (
        "numpy",
        r"Can't call numpy\(\) on Tensor that requires grad",
        "NumPy was asked to take a tensor that is in a graph",
    ),
    (
        "custom-gradients",
        r"function (?P<node>\w+) returned an incorrect number of gradients "
        r"\(expected (?P<wanted>\d+), got (?P<given>\d+)\)",
        "the backward of {node} returned {given} gradients for {wanted} arguments of forward",
    ),
    (
        "custom-gradients",
        r"(?:[Ff]unction (?P<node>\w+) )?returned an invalid gradient at index (?P<place>\d+) - "
        r"(?P<told>[^\n]*)",
        "the backward of {node} returned gradient {place} of another shape or kind: {told}",
    ),
    (
        "custom-gradients",
        r"function (?P<node>\w+) returned a gradient different than None "
        r"at position (?P<place>\d+)",
        "the backward of {node} returned a gradient for argument {place} of forward, which is no "
        "tensor",
    ),
    (
        "custom-gradients",
        r"Legacy autograd function with non-static forward method",
        "a custom Function was called as it was before torch 1.3; forward and backward must be "
        "static methods, and apply calls them",
    ),
    (
        "inference-tensor",
        r"Inference tensors cannot be saved for backward|"
        r"Inplace update to inference tensor outside InferenceMode|"
        r"requires_grad=True on inference tensor outside InferenceMode",
        "a tensor of torch.inference_mode() was used where autograd records",
    ),
    (
        "not-implemented",
        r"derivative for '?(?P<op>[^'\n]+?)'? is not implemented",
        "{op} has no derivative formula",
    ),
    (
        "not-implemented",
        r"backward through (?P<op>\S+) but no autograd formula was registered",
        "{op} has no derivative formula",
    ),
    (
        "once-differentiable",
        r"differentiate twice a function that was marked with @once_differentiable",
        "a gradient that was computed with @once_differentiable was differentiated again",
    ),
    (
        "requires-grad-of-non-leaf",
        r"you can only change requires_grad flags of leaf variables",
        "requires_grad of a tensor in the middle of a graph was set",
    ),
    (
        "deepcopy",
        r"Only Tensors created explicitly by the user \(graph leaves\) support the deepcopy",
        "copy.deepcopy met a tensor in the middle of a graph",
    ),
    (
        "gradcheck",
        r"Input #(?P<place>\d+) requires gradient and is not a double precision",
        "input {place} of gradcheck is not double precision",
    ),
    (
        "gradcheck",
        r"Jacobian mismatch for output|Numerical gradient for function expected to be zero",
        "the gradient and the finite difference differ",
    ),
    (
        "not-a-leaf",
        r"\.grad attribute of a Tensor that is not a leaf Tensor is being accessed",
        "the .grad of a tensor in the middle of a graph was read",
    ),
    (
        "not-a-leaf",
        r"can't optimize a non-leaf Tensor",
        "an optimiser was given a tensor in the middle of a graph",
    ),
    (
        "reference-cycle",
        r"Using backward\(\) with create_graph=True will create a reference cycle",
        "backward() was called with create_graph=True",
    ),
    (
        "copied",
        r"To copy construct from a tensor, it is recommended to use",
        "a tensor was copied by value",
    ),
    (
        "left-torch",
        r"Converting a tensor with requires_grad=True to a scalar",
        "a tensor that requires grad was made a Python number",
    ),
    (
        "non-finite",
        r"Function '(?P<node>\w+)' returned nan values in its (?P<place>\d+)\w\w output",
        "{node} gave NaN for its input {place}",
    ),
    (
        "not-a-tensor",
        r"'(?P<kind>\w+)' object has no attribute 'backward'",
        "backward() was called on a {kind}, which is no tensor",
    ),
]
