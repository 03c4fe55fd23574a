"""Errors that torch really raises, and their older wordings, are explained; others are not."""

import copy
import re
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.autograd import Function, gradcheck
from torch.autograd.function import once_differentiable

from companion import Finding, explain, record_backward, watch
from companion.findings import KINDS
from tests.cases import each
from tests.diagnosis.messages import OF_OTHER_LIBRARIES, OTHERS, PROGRAMS, WRITTEN, leaf


def function(gradients, mark=lambda f: f):
    """A custom Function that doubles, and whose backward returns what is given."""

    class Double(Function):
        @staticmethod
        def forward(ctx, x):
            return x * 2

        @staticmethod
        @mark
        def backward(ctx, gradient):
            return gradients(gradient)

    return Double.apply


def two_arguments(x, factor):
    class Scale(Function):
        @staticmethod
        def forward(ctx, x, factor):
            return x * factor

        @staticmethod
        def backward(ctx, gradient):
            return gradient, gradient

    return Scale.apply(x, factor)


def twice(loss):
    loss.backward()
    loss.backward()


def change(y):
    loss = (y * y).sum()
    y.add_(1)
    loss.backward()


def take_out(y):
    loss = (y * y).sum()
    y.detach_()
    loss.backward()


def overwrite():
    x, w = leaf(1, 2), torch.ones(2)
    loss = (x + w.requires_grad_()).sum()
    w.requires_grad_(False).add_(x)
    loss.backward()


def change_base():
    base = leaf(1, 2) * 1
    y, _ = base.unbind()
    base.mul_(2)
    y.backward()


def view_without_gradients():
    x = leaf(1, 2) * 1
    with torch.no_grad():
        y = x[:1]
    y.mul_(x[1])


def inference():
    with torch.inference_mode():
        return torch.ones(2)


def whole():
    x = leaf(1, 2)
    (torch.zeros(2, dtype=torch.long).fill_(x.sum()) * x).sum().backward()


def legacy():
    class Old(Function):
        def forward(self, x):
            return x

    Old()(leaf(1))


def differentiate_once():
    x = leaf(1, 2)
    y = (function(lambda g: 2 * g, once_differentiable)(x) * x).sum()
    (g,) = torch.autograd.grad(y, x, create_graph=True)
    g.sum().backward()


def register():
    @torch.library.custom_op("course::double", mutates_args=())
    def double(x: torch.Tensor) -> torch.Tensor:
        return x * 2

    double(leaf(1)).sum().backward()


def find_nan():
    with torch.autograd.detect_anomaly(check_nan=True):
        (leaf(0).sqrt() * 0).sum().backward()


def attention_twice():
    q = torch.ones(1, 2, 4, 8, requires_grad=True)
    y = nn.functional.scaled_dot_product_attention(q, q, q)
    (g,) = torch.autograd.grad(y.sum(), q, create_graph=True)
    g.sum().backward()


def complex_leaf():
    return torch.ones((), dtype=torch.complex64, requires_grad=True)


# What raises, the code, and the message.
RAISED = [
    (
        lambda: torch.ones(1).backward(),
        "no-graph",
        "backward() was called on a tensor that has no graph",
    ),
    (
        lambda: leaf(1, 2).backward(),
        "non-scalar",
        "backward() was called without a gradient on a tensor of several elements",
    ),
    (
        lambda: leaf(1, 2).backward(torch.ones(3)),
        "non-scalar",
        "the gradient that the pass should begin with does not have the shape of the output",
    ),
    (
        lambda: complex_leaf().backward(),
        "complex-output",
        "backward() was called without a gradient on a tensor of dtype torch.complex64",
    ),
    (
        lambda: twice(leaf(1, 2).exp().sum()),
        "freed",
        "the pass came to a Node that an earlier pass ran",
    ),
    (
        lambda: change(leaf(1, 2) * 2),
        "modified-in-place",
        "a saved tensor of shape [2] is at version 1 and was saved at version 0; MulBackward0 "
        "saved other and self, which was changed since",
    ),
    (
        lambda: take_out(leaf(1, 2) * 2),
        "modified-in-place",
        "a saved tensor was taken out of its graph by detach_(); MulBackward0 saved other and "
        "self, which was changed since",
    ),
    (
        lambda: leaf(1).add_(1),
        "leaf-in-place",
        "an in-place operation met a leaf, or a view of one",
    ),
    (
        lambda: leaf(1, 2)[:1].add_(1),
        "leaf-in-place",
        "an in-place operation met a leaf, or a view of one",
    ),
    (
        overwrite,
        "leaf-in-place",
        "a leaf was overwritten by the result of an operation after the graph was made",
    ),
    (
        lambda: (leaf(1, 2) * 1).unbind()[0].mul_(2),
        "multi-view-in-place",
        "an in-place operation met a view whose history cannot be rewritten",
    ),
    (
        change_base,
        "multi-view-in-place",
        "an in-place operation met a view whose history cannot be rewritten",
    ),
    (
        view_without_gradients,
        "multi-view-in-place",
        "an in-place operation met a view whose history cannot be rewritten",
    ),
    (
        lambda: torch.autograd.grad(leaf(1).sum(), leaf(2)),
        "unused-input",
        "no gradient came to an input that one was asked for",
    ),
    (
        lambda: torch.autograd.grad(leaf(1).sum(), torch.ones(1)),
        "input-without-grad",
        "a gradient was asked for a tensor that does not require grad",
    ),
    (
        lambda: torch.ones(1).retain_grad(),
        "input-without-grad",
        "a gradient was asked for a tensor that does not require grad",
    ),
    (
        lambda: torch.ones(1).register_hook(print),
        "input-without-grad",
        "a hook for the gradient was set on a tensor that does not require grad",
    ),
    (
        lambda: torch.tensor([1], requires_grad=True),
        "integer-tensor",
        "requires_grad was asked for a tensor of whole numbers or booleans",
    ),
    (
        lambda: torch.tensor([1]).requires_grad_(),
        "integer-tensor",
        "requires_grad was asked for a tensor of whole numbers or booleans",
    ),
    (
        whole,
        "integer-tensor",
        "a tensor with a graph was written into a tensor of whole numbers",
    ),
    (
        lambda: leaf(1).numpy(),
        "numpy",
        "NumPy was asked to take a tensor that is in a graph",
    ),
    (
        lambda: np.asarray(leaf(1)),
        "numpy",
        "NumPy was asked to take a tensor that is in a graph",
    ),
    (
        lambda: function(lambda g: (g, g))(leaf(1)).backward(),
        "custom-gradients",
        "the backward of DoubleBackward returned 2 gradients for 1 arguments of forward",
    ),
    (
        lambda: function(lambda g: torch.ones(2))(leaf(1, 2, 3)).sum().backward(),
        "custom-gradients",
        "the backward of DoubleBackward returned gradient 0 of another shape or kind: got [2] but "
        "expected shape compatible with [3]",
    ),
    (
        lambda: two_arguments(leaf(1), 3).backward(),
        "custom-gradients",
        "the backward of ScaleBackward returned a gradient for argument 2 of forward, which is no "
        "tensor",
    ),
    (
        legacy,
        "custom-gradients",
        "a custom Function was called as it was before torch 1.3; forward and backward must be "
        "static methods, and apply calls them",
    ),
    (
        lambda: leaf(1, 2) * inference(),
        "inference-tensor",
        "a tensor of torch.inference_mode() was used where autograd records",
    ),
    (
        lambda: inference().add_(1),
        "inference-tensor",
        "a tensor of torch.inference_mode() was used where autograd records",
    ),
    (
        lambda: inference().requires_grad_(),
        "inference-tensor",
        "a tensor of torch.inference_mode() was used where autograd records",
    ),
    (
        lambda: torch.special.gammainc(leaf(1), leaf(2)).backward(),
        "not-implemented",
        "igamma: input has no derivative formula",
    ),
    (
        attention_twice,
        "not-implemented",
        "_scaled_dot_product_flash_attention_for_cpu_backward, the backward of a fused attention, "
        "has no derivative formula",
    ),
    (register, "not-implemented", "course.double.default has no derivative formula"),
    (
        differentiate_once,
        "once-differentiable",
        "a gradient that was computed with @once_differentiable was differentiated again",
    ),
    (
        lambda: setattr(leaf(1) * 2, "requires_grad", False),
        "requires-grad-of-non-leaf",
        "requires_grad of a tensor in the middle of a graph was set",
    ),
    (
        lambda: copy.deepcopy(leaf(1) * 2),
        "deepcopy",
        "copy.deepcopy met a tensor in the middle of a graph",
    ),
    (
        lambda: gradcheck(function(lambda g: 3 * g), leaf(1).double().detach().requires_grad_()),
        "gradcheck",
        "the gradient and the finite difference differ",
    ),
    (
        lambda: gradcheck(torch.sin, leaf(1)),
        "gradcheck",
        "input 0 of gradcheck is not double precision",
    ),
    (
        lambda: torch.optim.SGD([leaf(1) * 2]),
        "not-a-leaf",
        "an optimizer was given a tensor in the middle of a graph",
    ),
    (
        find_nan,
        "non-finite",
        "SqrtBackward0 gave NaN for its input 0",
    ),
    (
        lambda: (1.0).backward(),
        "not-a-tensor",
        "backward() was called on a float, which is no tensor",
    ),
    (
        lambda: [leaf(1)].backward(),
        "not-a-tensor",
        "backward() was called on a list, which holds tensors and is none",
    ),
    (
        lambda: None.backward(),
        "not-a-tensor",
        "backward() was called on None: no loss was computed, or none returned",
    ),
    (
        lambda: sum([]).backward(),
        "not-a-tensor",
        "backward() was called on an int, to which no tensor was added",
    ),
    (
        lambda: (leaf(1) * 2).grad,
        "not-a-leaf",
        "the .grad of a tensor in the middle of a graph was read",
    ),
    (
        lambda: leaf(1).sum().backward(create_graph=True),
        "reference-cycle",
        "backward() was called with create_graph=True",
    ),
    (lambda: torch.tensor(leaf(1)), "copied", "a tensor was copied by value"),
    (
        lambda: float(leaf(1)),
        "left-torch",
        "a tensor that requires grad was made a Python number",
    ),
]


@pytest.fixture
def warnings_are_errors():
    """Torch tells some of its warnings only once in a process."""
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings(
            "ignore", message="Anomaly Detection|Error detected in|.* should not be"
        )
        yield
    torch.set_warn_always(always)


@each(("raising", "code", "message"), RAISED)
@pytest.mark.usefixtures("warnings_are_errors")
def test_what_torch_raises_is_explained(raising, code, message):
    with pytest.raises((RuntimeError, TypeError, ValueError, AttributeError, Warning)) as caught:
        raising()
    found = explain(caught.value)
    assert (found.code, found.severity, found.message) == (code, "error", message)
    assert found.source.file == __file__
    assert found.where == str(found.source)


# Older wordings, and those of torch's C++ interface; from torch 2.6 on where nothing else is said.
OLDER = [
    ("The parameter probs has invalid values", "non-finite"),  # before 1.8
    ("Checkpointing is not compatible with .grad() or when an `inputs` parameter is passed to "
     ".backward().", "checkpoint"),
    ("grad can be created only for real scalar outputs but got ComplexFloat", "complex-output"),
    ("grad can be computed only for real scalar outputs but got ComplexFloat", "complex-output"),
    ("only Tensors of floating point dtype can require gradients", "integer-tensor"),
    ("cannot register a hook on a variable that doesn't require gradient", "input-without-grad"),
    ("One of the differentiated Tensors appears to not have been used in the graph. Set "
     "allow_unused=True if this is the desired behavior.", "unused-input"),  # before 2.1
    ("the derivative for 'other' is not implemented.", "not-implemented"),
    ("derivative for aten::_ctc_loss_backward is not implemented", "not-implemented"),
    ("one of the variables needed for gradient computation has been modified by an inplace "
     "operation", "modified-in-place"),  # before 1.1
    ("a leaf Variable that requires grad has been used in an in-place operation.", "leaf-in-place"),
    ("Trying to backward through the graph a second time, but the saved intermediate results have "
     "already been freed. Specify retain_graph=True when calling .backward() or autograd.grad() "
     "the first time.", "freed"),  # before 1.9
    ("Function MyBackward returned an invalid gradient at index 1 - expected type torch.FloatTensor"
     " but got torch.LongTensor", "custom-gradients"),
    ("Output 0 of UnbindBackward is a view and is being modified inplace.", "multi-view-in-place"),
    ("Inference tensors cannot be saved for backward. To work around you can make a clone to get a "
     "normal tensor and use it in autograd.", "inference-tensor"),
    ("isDifferentiableType(grad.scalar_type()) INTERNAL ASSERT FAILED at "
     '"/pytorch/torch/csrc/autograd/engine.cpp":982', "integer-tensor"),
]  # fmt: skip


@each(("wording", "code"), OLDER)
def test_other_wordings_are_explained_without_gaps_in_the_message(wording, code):
    found = explain(RuntimeError(wording))
    assert found.code == code
    assert (found.source, found.where) == (None, "")
    assert not re.search(r"\{|  | $", found.message)


def said_by(program):
    """What a program raises, or else the first of its warnings that is known."""
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            program()
        except Exception as error:
            return error
        finally:
            torch.set_warn_always(always)
    return next(filter(explain, [warning.message for warning in caught]), None)


@each("message", PROGRAMS)
def test_each_program_is_explained_and_its_cure_works(message):
    error = said_by(message.raises)
    found = explain(error)
    assert found is not None and found.code == message.code, error
    assert found.severity == "error"
    assert not re.search(r"\{|  | $", found.message)
    if not isinstance(error, Warning):
        assert found.source is not None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        assert message.cured() is True


@each(("code", "text"), WRITTEN + OF_OTHER_LIBRARIES)
def test_what_cannot_be_raised_here_is_explained_from_its_text(code, text):
    found = explain(RuntimeError(text))
    assert found.code == code
    assert not re.search(r"\{|  | $", found.message)


@each("text", OTHERS)
@each("kind", [RuntimeError, TypeError, ValueError, AttributeError, UserWarning])
def test_what_says_nothing_about_gradients_is_none(kind, text):
    assert explain(kind(text)) is None


@pytest.mark.usefixtures("warnings_are_errors")
def test_every_pattern_is_the_first_to_fit_some_wording_here_and_no_wording_fits_two_codes():
    errors = [RuntimeError(wording) for wording, _ in OLDER]
    errors += [RuntimeError(text) for _, text in WRITTEN + OF_OTHER_LIBRARIES]
    errors += [said_by(message.raises) for message in PROGRAMS]
    for raising, *_ in RAISED:
        try:
            raising()
        except Exception as error:
            errors.append(error)
    wordings = [f"{type(error).__name__}: {error}" for error in errors]
    patterns = [(code, pattern) for code, kind in KINDS.items() for pattern, *_ in kind.wordings]
    first = set()
    for wording in wordings:
        fitting = [(code, pattern) for code, pattern in patterns if re.search(pattern, wording)]
        assert len({code for code, _ in fitting}) <= 1, (wording, fitting)
        first.update(fitting[:1])
    assert first == set(patterns)


class OddlyWorded(RuntimeError):
    def __init__(self, wording):
        self.wording = wording

    def __str__(self):
        return self.wording


@pytest.mark.parametrize(
    "error",
    [
        ValueError("something else"),
        RuntimeError(),
        RuntimeError(None),
        RuntimeError(1, ("a", b"b")),
        KeyError("loss"),
        KeyboardInterrupt(),
        OddlyWorded("ünï\n\0{code}"),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied (2x3 and 2x3)"),
        AttributeError("'Tensor' object has no attribute 'backwards'"),
    ],
    ids=repr,
)
def test_an_error_that_is_not_known_is_none(error):
    assert explain(error) is None


def test_braces_in_a_message_are_no_fields():
    wording = "derivative for '{op}{0}' is not implemented"
    assert explain(OddlyWorded(wording)).message == "{op}{0} has no derivative formula"


LOG = """Traceback (most recent call last):
  File "train.py", line 3, in step
    y.backward()  # RuntimeError: Trying to backward through the graph a second time
RuntimeError: grad can be implicitly created only for scalar outputs

During handling of the above exception, another exception occurred:

[rank0]: torch.some.OwnError: {}
[rank0]: and more of the same message
"""


@each(("code", "message"), WRITTEN)
def test_a_text_is_explained_as_the_last_message_of_a_log(code, message):
    assert explain(message).code == explain(LOG.format(message)).code == code


NO_GRAPH = "element 0 of tensors does not require grad and does not have a grad_fn"
AS_PASTED = {
    "in a box": ("no-graph", """\
╭────────── Traceback (most recent call last) ──────────╮
│ /home/u/train.py:12 in <module>                       │
╰───────────────────────────────────────────────────────╯
RuntimeError: element 0 of tensors does not require grad and does not have a
grad_fn"""),
    "in a box that breaks it": ("freed", """\
│ RuntimeError: Trying to backward through the graph a  │
│ second time (or directly access saved tensors)        │"""),
    "by a launcher": ("freed", """\
[rank1]: RuntimeError: Trying to backward through the
[rank1]: graph a second time"""),
    "by pytest": ("non-scalar", """\
>       loss.backward()
E       RuntimeError: grad can be implicitly created only for scalar outputs

/usr/lib/x.py:88: RuntimeError"""),
    "cut off": ("modified-in-place", "RuntimeError: one of the variables needed for gradient "
                "computation has been modi"),
    "without its beginning": ("no-graph", "tensor does not require grad and does not have a "
                              "grad_fn"),
    "before an error of the logger": ("no-graph", f"""\
RuntimeError: {NO_GRAPH}

During handling of the above exception, another exception occurred:

Traceback (most recent call last):
  File "w.py", line 3, in exit
BrokenPipeError: [Errno 32] Broken pipe"""),
    "of a .grad that is None": ("grad-is-none", """\
  File "a.py", line 7, in <module>
    w.data -= lr * w.grad
              ~~~^~~~~~~~
TypeError: unsupported operand type(s) for *: 'float' and 'NoneType'"""),
}  # fmt: skip


@each("how", AS_PASTED)
def test_a_text_is_explained_as_people_paste_it(how):
    code, text = AS_PASTED[how]
    assert explain(text).code == code


def test_an_error_that_another_one_wraps_is_explained():
    def train():
        try:
            torch.ones(2).sum().backward()
        except RuntimeError as error:
            raise OSError("the worker has stopped") from error

    with pytest.raises(OSError, match="the worker") as caught:
        train()
    found = explain(caught.value)
    assert found.code == "no-graph" and found.source.text == "torch.ones(2).sum().backward()"
    caught.value.__cause__ = None  # as after "from None"
    assert explain(caught.value) is None
    first, second = OSError(), OSError()
    first.__context__, second.__context__ = second, first
    assert explain(first) is None


def test_of_a_text_the_last_error_counts_that_is_known():
    text = f"RuntimeError: {NO_GRAPH}\n\nValueError: Loss is nan, stopping training\n"
    assert explain(text).code == "non-finite"
    assert explain("TypeError: unsupported operand for *: 'float' and 'NoneType'") is None


def test_of_a_log_the_class_of_the_error_counts_too():
    log = "torch.autograd.gradcheck.GradcheckError: who knows"
    assert explain(log).code == "gradcheck"
    assert explain(log.replace("GradcheckError", "ValueError")) is None


def test_what_is_neither_an_exception_nor_a_text_is_refused_with_a_cure():
    with pytest.raises(TypeError, match=r"the text of one, got type; catch it: except Runtime"):
        explain(RuntimeError)


def step(model, x):
    loss = model(x)
    loss.backward()


def test_the_source_is_the_innermost_line_of_the_user():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(RuntimeError) as caught:
        step(model, torch.ones(1, 2))
    found = explain(caught.value)
    assert found.code == "non-scalar"
    assert found.source.text == "loss.backward()"
    assert found.source.line == step.__code__.co_firstlineno + 2


def test_a_line_inside_a_module_of_the_user_is_below_that_of_torch():
    class Mine(nn.Module):
        def forward(self, x):
            return x.requires_grad_().add_(1)

    with pytest.raises(RuntimeError) as caught:
        nn.Sequential(Mine())(torch.ones(1))
    found = explain(caught.value)
    assert (found.code, found.source.text) == ("leaf-in-place", "x.requires_grad_().add_(1)")


def test_a_warning_that_was_recorded_is_explained_too():
    always = torch.is_warn_always_enabled()
    torch.set_warn_always(True)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.tensor(leaf(1))
    torch.set_warn_always(always)
    found = explain(caught[0].message)
    assert isinstance(found, Finding)
    assert (found.code, found.source) == ("copied", None)


def test_explaining_leaves_the_error_as_it_was():
    try:
        leaf(1, 2).backward()
    except RuntimeError as error:
        before = str(error), error.args, error.__traceback__
        assert explain(error) == explain(error)
        assert (str(error), error.args, error.__traceback__) == before


def nan_error(f):
    """What a recorded backward pass raises under anomaly mode."""
    with pytest.raises(RuntimeError) as caught, torch.autograd.detect_anomaly(check_nan=True):
        record_backward(f())
    return caught.value


@pytest.mark.filterwarnings("ignore:.*Anomaly", "ignore:Error detected")
def test_a_nan_after_a_finite_forward_pass_is_not_blamed_on_it():
    x = leaf(0, 4)
    error = nan_error(lambda: (x.sqrt() * 0).sum())
    found = explain(error)
    assert "fix the forward pass first" not in found.cure
    assert "node 2, SqrtBackward0, was the first to get finite gradients" in found.message
    with watch() as watched:
        loss = (x.sqrt() * 0).sum()
    found = explain(nan_error(lambda: loss), watch=watched)
    assert found.code == "nan-risk" and found.severity == "error"
    assert "every result in the watched block was finite" in found.message


@pytest.mark.filterwarnings("ignore:.*Anomaly", "ignore:Error detected")
def test_a_nan_is_explained_by_the_operation_of_the_forward_pass_that_gave_the_first():
    x = leaf(0, 250)
    with watch() as watched:
        loss = torch.where(x > 1, x, x.exp()).sum()
    found = explain(nan_error(lambda: loss), watch=watched)
    assert found.code == "non-finite" and found.source.text == "x.exp()"
    assert "the first result that was not finite is that of exp() at " in found.message


@pytest.mark.filterwarnings("ignore:.*Anomaly", "ignore:Error detected")
def test_beside_a_mask_of_minus_infinity_stands_the_softmax_that_made_nan_of_it():
    x = leaf(0, 1)
    for mask, is_nan in ([True, True], True), ([True, False], False):
        with watch() as watched:
            masked = x.masked_fill(torch.tensor(mask), -torch.inf)
            loss = masked.softmax(0).square().sum() + (x * 0).sqrt().sum()
        found = explain(nan_error(lambda loss=loss: loss), watch=watched)
        assert "is that of masked_fill() at" in found.message
        assert ("and the first NaN that of softmax() at" in found.message) == is_nan


def raised_by(f):
    with pytest.raises((RuntimeError, TypeError, AttributeError)) as caught:
        f()
    return caught.value


def test_an_output_without_a_graph_is_explained_by_the_cut_that_a_watch_saw():
    model = nn.Linear(2, 1)
    with watch() as watched:
        features = model(torch.ones(3, 2)).detach()
        loss = features.exp().sum()
    error = raised_by(loss.backward)
    found = explain(error, watch=watched)
    assert (found.code, found.severity) == ("detached", "error")
    assert found.source.text == "model(torch.ones(3, 2)).detach()"
    assert "no graph: detach() gives the value" in found.message
    assert explain(error).code == "no-graph"


def test_a_mask_is_not_told_before_the_cut_that_matters():
    w = leaf(1, 2)
    with watch() as watched:
        loss = torch.where(w > 1, w.detach(), 0).sum()
    assert explain(raised_by(loss.backward), watch=watched).code == "detached"


def test_an_output_of_constants_is_told_as_such():
    model = nn.Linear(2, 1).requires_grad_(False)
    with watch() as watched:
        loss = model(torch.ones(3, 2)).sum()
    found = explain(raised_by(loss.backward), watch=watched)
    assert found.code == "no-graph" and "nothing that went into it" in found.message
    assert "if they are frozen" in found.cure


def test_an_output_that_was_computed_after_the_block_is_not_told_to_be_of_constants():
    model = nn.Linear(2, 1)
    with watch() as watched:
        features = model(torch.ones(3, 2)).detach()
    found = explain(raised_by(features.sum().backward), watch=watched)
    assert found.code == "no-graph" and "if they are frozen" not in found.cure
    assert found.message.endswith(
        "; in the watched block detach() gives the value without its graph"
    )
    assert found.source.text == "model(torch.ones(3, 2)).detach()"
    with watch() as watched:
        model(torch.ones(3, 2)).sum()
    found = explain(raised_by(features.sum().backward), watch=watched)
    assert found.message == "backward() was called on a tensor that has no graph"
    assert "if they are frozen" not in found.cure


def test_a_number_that_left_torch_may_have_come_back():
    model = nn.Linear(2, 1)
    with watch() as watched:
        number = round(model(torch.ones(2)).item(), 3)
        loss = torch.ones(()) * number
    found = explain(raised_by(loss.backward), watch=watched)
    assert found.message.endswith(": values left torch before it by way of item()")
    assert found.source.text == "model(torch.ones(2)).item()"
    assert found.cure.startswith("compute on with the tensor itself")


def test_a_part_that_is_older_than_the_watched_block_is_named_after_the_error_too():
    net, w = nn.Linear(2, 1), leaf(1, 2)
    scale = w.exp()
    (net(torch.ones(2)) * scale).sum().backward()
    with watch() as watched:
        loss = (net(torch.ones(2)).tanh() * scale).sum()
    found = explain(raised_by(loss.backward), watch=watched)
    assert found.code == "freed" and "the rest was not run yet" in found.cause
    assert "; ExpBackward0 was computed earlier, before the watched block" in found.message


def test_a_sum_of_steps_is_told_as_such_after_the_error_too():
    net, total = nn.Linear(2, 1), torch.zeros(())
    for _ in range(3):
        loss = net(torch.ones(2)).exp().sum()
        loss.backward()
        total = total + loss
    found = explain(raised_by(total.backward))
    assert found.code == "freed" and "loss.item() or loss.detach()" in found.cure
    assert found.message.endswith("a sum keeps the graphs of 3 forward passes, and grows with each")


def test_no_part_of_a_graph_is_called_older_that_was_made_in_the_block():
    x = leaf(1, 2)
    with watch() as watched:
        loss = (x.exp() * x).sum()
        loss.backward()
    again = explain(raised_by(loss.backward), watch=watched)
    early = explain(raised_by(loss.backward), watch=no_operations())
    for found in (again, early):
        assert found.code == "freed" and "earlier, before" not in found.message


def test_a_state_that_a_step_kept_is_named_with_its_line_after_the_error():
    net, h, error = nn.Linear(2, 2), torch.ones(2), None
    with watch() as watched:
        for _ in range(2):
            state = net(h).tanh()
            loss = (state * h.cos()).exp().sum()
            error = raised_by(loss.backward) if h.requires_grad else loss.backward()
            h = state
    found = explain(error, watch=watched)
    assert "; TanhBackward0 was computed earlier and kept" in found.message
    assert found.source.text == "net(h).tanh()" and "TanhBackward0" in found.where
    assert "detach() it" in found.cure
    assert "computed earlier" not in explain(error).message  # no watch, no part


def test_what_two_losses_share_is_named_with_its_line_after_the_error():
    net = nn.Linear(2, 2)
    with watch() as watched:
        h = net(torch.ones(2)).tanh()
        actor, critic = h.sin().exp().sum(), h.cos().exp().sum()
        critic.backward()
        error = raised_by(actor.backward)
    found = explain(error, watch=watched)  # sin() was made before the pass too, and not run by it
    assert "; TanhBackward0 was computed earlier and kept" in found.message
    assert found.source.text == "net(torch.ones(2)).tanh()"
    assert "add them and call backward once" in found.cure


def test_of_two_losses_no_part_is_named_once_the_first_is_gone():
    net = nn.Linear(2, 2)
    with watch() as watched:
        h = net(torch.ones(2)).tanh()
        actor, critic = h.sin().exp().sum(), h.cos().exp().sum()
        critic.backward()
        del critic
        error = raised_by(actor.backward)
    found = explain(error, watch=watched)
    assert found.code == "freed" and "computed earlier" not in found.message


def no_operations():
    with watch() as watched:
        pass
    return watched


def test_of_whole_numbers_the_line_that_made_them_is_told():
    x = leaf(1, 2)
    with watch() as watched:
        loss = x.long().sum()
    found = explain(raised_by(loss.backward), watch=watched)
    assert (found.code, found.source.text) == ("not-differentiable", "x.long()")
    assert found.cure.startswith("a smooth stand-in")


def test_of_several_outputs_the_one_that_torch_names_is_looked_at():
    w = leaf(1, 2)
    good, whole = w.sum(), w.argmax()
    found = explain(raised_by(lambda: torch.autograd.backward([good, whole])))
    assert found.code == "not-differentiable" and "torch.int64" in found.message


def test_an_input_without_gradient_is_explained_as_diagnose_does():
    x = torch.ones(2)
    y = (x * leaf(1, 2)).sum()
    x.requires_grad_()
    early = raised_by(lambda: torch.autograd.grad(y, x))
    assert explain(early).code == "late-requires-grad"
    whole = torch.ones(2).long()
    assert explain(raised_by(lambda: torch.autograd.grad(y, whole))).code == "integer-tensor"


@pytest.mark.parametrize("cut", [Tensor.detach, lambda x: x.data, lambda x: torch.tensor(x)])
def test_an_input_behind_a_cut_is_explained_by_the_cut(cut):
    x, w = leaf(1, 2), leaf(3, 4)
    with watch() as watched, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch.tensor(tensor)
        y = (cut(x) * w).sum()
    found = explain(raised_by(lambda: torch.autograd.grad(y, x)), watch=watched)
    assert found.code in {"detached", "copied"} and found.severity == "error"
    assert found.source.line and "get" in found.message and "no gradient" in found.message


def test_an_input_of_equal_shape_that_was_not_used_is_no_proof_of_a_new_one():
    y = leaf(1, 2).sum()
    found = explain(raised_by(lambda: torch.autograd.grad(y, leaf(3, 4))))
    assert found.code == "unused-input" and "sends None" not in found.cause


def test_a_view_that_was_taken_afterwards_is_told_with_its_base():
    x = torch.ones(2, 2, requires_grad=True)
    y = x.exp().sum()
    part = x[:, :1]
    found = explain(raised_by(lambda: torch.autograd.grad(y, part)))
    assert found.code == "unused-input" and "a view of x, made apart" in found.message
    assert "take the gradient by the base" in found.cure


def test_a_path_whose_node_sends_none_is_told_as_such():
    x = leaf(1, 2)
    y = function(lambda g: None)(x).sum()
    found = explain(raised_by(lambda: torch.autograd.grad(y, x)))
    assert found.code == "unused-input" and "a Node on it sends None" in found.cause


def test_a_changed_tensor_is_told_with_the_line_that_a_watch_saw():
    x = leaf(1, 2)
    with watch() as watched:
        y = x.exp()
        loss = y.sum()
        y.add_(1)
    error = raised_by(loss.backward)
    found = explain(error, watch=watched)
    assert (found.code, found.source.text) == ("modified-in-place", "y.add_(1)")
    assert "at version 1" in found.message and "ExpBackward0 saved result" in found.message
    assert explain(error).source.text != "y.add_(1)"


class Holder:
    def __init__(self, w):
        self.w = w


def test_a_grad_that_is_none_is_told_by_name_and_reason():
    frozen, result, held = torch.ones(2), leaf(1) * 2, Holder(leaf(1))
    errors = [
        raised_by(lambda: frozen.grad.zero_()),
        raised_by(lambda: 2 * held.w.grad),
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        errors.append(raised_by(lambda: result.grad + 1))
    errors.append(raised_by(lambda: [frozen][0].grad + 1))
    messages = [explain(error).message for error in errors]
    assert messages == [
        "frozen.grad is None, since frozen does not require grad",
        "held.w.grad is None: no backward pass has come to held.w",
        "result.grad is None, since result is the result of an operation",
        "something in this line is None, most likely the .grad",
    ]


def test_none_that_is_no_grad_is_not_told_as_one():
    class Box:
        grad = None

    w = leaf(1)
    w.grad = torch.ones(1)
    nothing = None
    assert explain(raised_by(lambda: nothing + 1)) is None
    assert explain(raised_by(lambda: w.grad + nothing)) is None
    assert explain(raised_by(lambda: Box.grad + 1)) is None


def test_unused_parameters_are_told_by_name():
    unused = next(message for message in PROGRAMS if message.code == "data-parallel")
    found = explain(said_by(unused.raises))
    assert found.message.endswith("in the last backward pass: unused.weight, unused.bias")


def test_a_watch_that_is_none_is_refused():
    with pytest.raises(TypeError, match="watch must be what `with watch"):
        explain(RuntimeError("x"), watch=3)
