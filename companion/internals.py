"""Every private name of torch that the companion uses, each behind a function with a plain name.

No other file may use one, and a test holds that. So when a new torch comes, this is the file to
read. A name that not every torch from 2.12 on has, the oldest that the companion claims, says so.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator
from functools import cache
from types import CodeType, FrameType
from typing import Any, Final

import torch
from torch import Tensor, nn, overrides
from torch._functorch import pyfunctorch
from torch._subclasses import FakeTensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils.hooks import RemovableHandle

# Their stubs lack some of what is used here.
_C: Any = torch._C
_functorch: Any = torch._C._functorch
_modes: Any = overrides

Node = Any  # torch.autograd.graph.Node, whose C++ classes have more attributes than its stub

if not hasattr(torch._C._autograd.SavedTensor, "unpack"):  # which saved_raw promises
    raise ImportError(
        f"the companion needs torch 2.12 or newer, and this is torch {torch.__version__}; "
        "pip install --upgrade torch"
    )

# ---- passes and Nodes

# The sequence number that the next Node made in this thread will get.
next_number = torch._C._autograd._get_sequence_nr

# The number of the backward pass that runs in this thread; -1 if none does.
running_pass = torch._C._current_graph_task_id


def number_of(node: Node) -> int:
    """The sequence number of a Node: its place in the order of making, in its thread."""
    return node._sequence_nr()  # type: ignore[no-any-return]


def metadata_of(node: Node, output_nr: int) -> Any:
    """Shape, dtype and device of one output of the operation that a Node stands for."""
    return node._input_metadata[output_nr]


def output_count(node: Node) -> int:
    """How many outputs that can have a gradient the operation has that a Node stands for."""
    return len(node._input_metadata)


def forward_class_of(node: Node) -> Any:
    """The ``torch.autograd.Function`` whose backward the Node of a custom Function runs."""
    return node._forward_cls


def is_of_torch_in_cpp(kind: type) -> bool:
    """Whether the Nodes of this class are torch's own, and run no Python.

    Those of C++ extensions share a class of another name, with scripted functions.
    """
    return getattr(torch._C._functions, kind.__name__, None) is kind


def is_of_torch(node: Node) -> bool:
    """Whether the Node of a custom Function is that of one that torch wrote, as for a checkpoint.

    Those that torch makes of operators and Functions of the user are not; the operator of torch's
    own linear_cross_entropy is.
    """
    module: str = node._forward_cls.__module__
    made = ("torch._library.", "torch._functorch.autograd_function")
    is_of_operator = node._forward_cls.__name__.startswith("GeneratedBackwardFor_torch_nn_")
    return is_of_operator or (module.startswith("torch.") and not module.startswith(made))


def is_of_compile(node: Node) -> bool:
    """Whether the Node of a custom Function stands for what ``torch.compile`` compiled."""
    return is_of_torch(node) and node._forward_cls.__name__ == "CompiledFunction"


def reads_saved_once(node: Node) -> bool:
    """Whether a custom Function frees what it saved as soon as that is looked at. Since 2.13."""
    return bool(getattr(node._forward_cls, "clear_saved_tensors_on_access", False))


def materializes(node: Node) -> bool:
    """Whether the Node of a custom Function wants zeros in place of undefined gradients.

    Torch does not tell; but who wants none has to say so in ``forward`` or ``setup_context``.
    """
    functions = [getattr(node._forward_cls, name, None) for name in ("forward", "setup_context")]
    codes = [code for function in functions if (code := getattr(function, "__code__", None))]
    for code in codes:  # the list grows while the loop runs along it
        if not {"set_materialize_grads", "materialize_grads"}.isdisjoint(code.co_names):
            return False
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return True


# The Nodes that differentiate the backward of a norm. Their formulas, the double backwards, give
# the right result, but take the saved mean and variance for constants: its derivatives are wrong.
OF_BACKWARDS_OF_NORMS: Final = {
    f"{norm}BackwardBackward0"
    for norm in "NativeLayerNorm NativeBatchNorm BatchNorm CudnnBatchNorm MiopenBatchNorm".split()
}


def takes_statistics_for_constants(node: Node) -> bool:
    """Whether it is such a Node, and the statistics are not running ones, which are constants."""
    return node.name() in OF_BACKWARDS_OF_NORMS and bool(getattr(node, "_saved_train", True))


# ---- what a Node saved

_OF_FUNCTIONS: Final = "saved_tensors"  # what a custom Function saved; its author chose the rest


def saved_names(node: Node) -> tuple[str, ...]:
    """The names of what a Node saved, as its formula has them, such as ``"self"``."""
    if isinstance(node, torch.autograd.function.BackwardCFunction):
        return (_OF_FUNCTIONS,)
    kind: type = type(node)
    return _names_of_class(kind)


@cache
def _names_of_class(kind: type) -> tuple[str, ...]:
    names = (name for name in dir(kind) if name.startswith("_saved_"))
    return tuple(name.removeprefix("_saved_") for name in names)


def saved_attribute(name: str) -> str:
    """The attribute of a Node that has what it saved under a name."""
    return name if name == _OF_FUNCTIONS else f"_saved_{name}"


def saved_value(node: Node, name: str) -> Any:
    """What a Node saved under a name: a tensor, a list or a number. Runs unpack hooks.

    Raises:
        RuntimeError: it was freed or modified in place.
    """
    value = getattr(node, saved_attribute(name))
    return tuple(map(_signed, value)) if isinstance(value, tuple) else _signed(value)


def _signed(value: Any) -> Any:
    """A number as it was given: torch hands out a negative one, such as dim -1, as 2**64 - 1."""
    return value - 2**64 if type(value) is int and value >= 2**63 else value


def saved_raw(node: Node, name: str) -> Any:
    """The same before it is unpacked: torch's ``SavedTensor``, or a tuple of them. Runs no hooks.

    None if the Node saved a number. A ``SavedTensor`` has ``unpack()``, ``unpack_hook`` and
    ``data``, which is None for a tensor that was saved through hooks.

    Raises:
        RuntimeError: a custom Function freed them.
    """
    attribute = "_raw_saved_tensors" if name == _OF_FUNCTIONS else f"_raw_saved_{name}"
    return getattr(node, attribute, None)


# ---- tensors


def version_of(tensor: Tensor) -> int | None:
    """How often a tensor was written to, itself or through a view; None for an inference tensor."""
    try:
        return tensor._version
    except RuntimeError:
        return None


def base_of(tensor: Tensor) -> Tensor | None:
    """The tensor that a view is a view of; None if it is no view."""
    return tensor._base


def hooks_on(tensor: Tensor) -> int:
    """How many hooks of the user a tensor has."""
    after = getattr(tensor, "_post_accumulate_grad_hooks", None)
    return len(tensor._backward_hooks or ()) + len(after or ())


def is_wrapped(tensor: Tensor) -> bool:
    """Whether it is a tensor inside a transform, such as ``torch.vmap``."""
    return bool(_functorch.is_functorch_wrapped_tensor(tensor))


def unwrapped(tensor: Tensor) -> Tensor:
    """What a tensor inside of transforms stands for outside of all; else the tensor itself."""
    while is_wrapped(tensor):
        tensor = _functorch.get_unwrapped(tensor)
    return tensor


# How deep this thread is in transforms, such as ``torch.vmap``; None outside of all.
transform_level = _functorch.maybe_current_level


def is_without_numbers(tensor: Tensor) -> bool:
    """Whether it is a shape alone: on ``meta``, or fake, as ``torch.export`` computes with."""
    return tensor.is_meta or isinstance(tensor, FakeTensor)


def mode_of(tensor: Tensor) -> contextlib.AbstractContextManager[Any]:
    """The mode in which a fake tensor may meet others, as the 0.0 of a formula; of others none."""
    return tensor.fake_mode if isinstance(tensor, FakeTensor) else contextlib.nullcontext()


def has_memory(tensor: Tensor) -> bool:
    """Whether the numbers of a tensor can be read: it has some, and its storage was not freed.

    FSDP and offloading free storages between the passes, as ``untyped_storage().resize_(0)`` does,
    and the tensor keeps its shape. To read it then ends the process.
    """
    if type(tensor) in _PLAIN and tensor.layout is torch.strided:  # as most are
        return not tensor.is_meta and _is_held(tensor)
    parts = [tensor]
    for part in parts:  # the list grows by those that one is made of
        if type(part) not in _PLAIN and hasattr(part, "__tensor_flatten__"):
            held = [getattr(part, name) for name in part.__tensor_flatten__()[0]]
            parts += [each for each in held if isinstance(each, Tensor)]  # not a DeviceMesh
        elif part.layout in _SPARSE:
            parts += parts_of(part)
        elif is_without_numbers(part) or not _is_held(part):
            return False
    return True


def _is_held(tensor: Tensor) -> bool:
    """Whether the storage of a dense tensor reaches to its last element."""
    try:
        end: int | torch.SymInt = (size := tensor.numel())
        if size and not (tensor.is_nested or tensor.is_contiguous()):
            end = 1 + sum(
                (n - 1) * step for n, step in zip(tensor.shape, tensor.stride(), strict=True)
            )
        end += tensor.storage_offset()
        return bool(not size or end * tensor.element_size() <= tensor.untyped_storage().nbytes())
    except RuntimeError:  # it has no storage of the usual kind
        return True


def parts_of(tensor: Tensor) -> list[Tensor]:
    """The dense tensors that make up a tensor: itself, unless it is sparse."""
    if tensor.layout is torch.sparse_coo:  # as they are: ``values()`` wants a coalesced one
        return [tensor._indices(), tensor._values()]
    return [getattr(tensor, part)() for part in _SPARSE.get(tensor.layout, ())] or [tensor]


_PLAIN: Final = (Tensor, nn.Parameter)
_SPARSE: Final[dict[torch.layout, tuple[str, ...]]] = {
    torch.sparse_coo: (),
    torch.sparse_csr: ("crow_indices", "col_indices", "values"),
    torch.sparse_bsr: ("crow_indices", "col_indices", "values"),
    torch.sparse_csc: ("ccol_indices", "row_indices", "values"),
    torch.sparse_bsc: ("ccol_indices", "row_indices", "values"),
}


# A copy that shares the memory of its source, until either is written to and gets its own: torch
# calls it copy on write. It is refused, with a RuntimeError, for what has no storage of the usual
# kind, such as a sparse tensor, and for memory that is not torch's, such as an array's.
lazy_copy = Tensor._lazy_clone


def is_shared_lazily(tensor: Tensor) -> bool:
    """Whether a tensor was copied lazily, or is such a copy, and was not written to since."""
    return type(tensor) in _PLAIN and tensor.layout is torch.strided and _C._is_cow_tensor(tensor)


def end_sharing(tensor: Tensor) -> None:
    """Give a tensor that was copied lazily memory of its own: who asks where it is may write."""
    tensor.data_ptr()


def has_one_owner(storage: torch.UntypedStorage) -> bool:
    """Whether one tensor has this memory and nobody else: no alias, array or other process.

    An alias through ``.data`` and an array of NumPy are owners too. Memory that was lent to torch
    cannot be resized. Not seen are other objects of this storage, and who got it through DLPack.
    """
    this_object_and_one_tensor = 2
    owners = torch._C._storage_Use_Count(storage._cdata)
    return owners == this_object_and_one_tensor and storage.resizable() and not storage.is_shared()


def address_of(storage: torch.UntypedStorage) -> int:
    """A number that stands for a storage as long as it lives, or a ``StorageWeakRef`` of it."""
    return int(storage._cdata)


# ---- modes and subclasses that look at calls

# ``with unseen():`` no mode of ``__torch_function__`` and no subclass sees a call.
unseen = torch._C.DisableTorchFunction

# ``with unseen_by_subclasses():`` no subclass does. Torch's manual on subclasses recommends it.
unseen_by_subclasses = torch._C.DisableTorchFunctionSubclass


def unseen_by_dispatch_modes() -> contextlib.AbstractContextManager[None]:
    """In the block no ``__torch_dispatch__`` mode sees a call, such as a counter of FLOPs."""
    return _disable_current_modes() if has_dispatch_mode() else contextlib.nullcontext()


@contextlib.contextmanager
def unseen_by_all() -> Iterator[None]:
    """In the block neither modes of any kind nor a profiler see a call, nor counters of FLOPs."""
    is_profiled = torch._C._autograd._profiler_enabled()
    with unseen(), unseen_by_dispatch_modes():
        if is_profiled:
            torch._C._autograd._enable_record_function(False)
        try:
            yield
        finally:
            if is_profiled:
                torch._C._autograd._enable_record_function(True)


def leave_mode(mode: TorchFunctionMode) -> int | None:
    """Take a mode off torch's stack of modes, also from below others, if it is there.

    A generator that is closed late may find other modes above its own; in another thread, none.

    Returns:
        How many modes were above; None if it was not there.
    """
    modes = _modes._get_current_function_mode_stack()
    above = next((n for n, other in enumerate(reversed(modes)) if other is mode), None)
    if above is not None:
        _replace_modes(modes[len(modes) - 1 - above :], modes[len(modes) - above :])
    return above


def enter_mode(mode: TorchFunctionMode, above: int) -> None:
    """Put a mode on torch's stack of modes, below some others."""
    modes = _modes._get_current_function_mode_stack()
    others = modes[len(modes) - above :]
    _replace_modes(others, [mode, *others])


def _replace_modes(old: list[TorchFunctionMode], new: list[TorchFunctionMode]) -> None:
    """Put modes in place of those on top of the stack."""
    for _ in old:
        _modes._pop_mode()
    for mode in new:
        _modes._push_mode(mode)


def has_dispatch_mode() -> bool:
    """Whether a ``__torch_dispatch__`` mode is on, which would see our operations."""
    return bool(torch._C._len_torch_dispatch_stack())


# ---- vmap


@contextlib.contextmanager
def hiding(count: int) -> Iterator[int]:
    """In the block a first dimension of this length can be hidden; gives the number for it.

    ``torch.vmap`` does the same around a whole function.
    """
    level = _functorch._vmap_increment_nesting(count, "same")
    try:
        yield level
    finally:
        _functorch._vmap_decrement_nesting()


# ``with nothing_hidden():`` the tensors that hide nothing are used as outside of ``hiding``.
nothing_hidden = pyfunctorch.temporarily_clear_interpreter_stack


def hidden(tensor: Tensor, level: int) -> Tensor:
    """The tensor without its first dimension: operations go along it unseen."""
    plain = tensor.resolve_conj()  # torch.vmap cannot make a view that negates of it
    return _functorch._add_batch_dim(plain, 0, level)  # type: ignore[no-any-return]


# Whether a tensor has a dimension that is hidden.
is_batched = _functorch.is_batchedtensor


def shown(tensor: Tensor, level: int) -> Tensor:
    """A tensor with the dimension that it hides under this number, if any, as the first again."""
    if not is_batched(tensor) or _functorch.maybe_get_level(tensor) != level:
        return tensor
    return _functorch._remove_batch_dim(tensor, level, 0, 0)  # type: ignore[no-any-return]


# ---- names by which a ``__torch_function__`` sees what has another name in public

SET_GRAD_ENABLED: Final = "_set_grad_enabled"  # torch.set_grad_enabled
THRESHOLD: Final = "_threshold"  # torch.nn.functional.threshold
FUSED_STEPS: Final = {f"_fused_{name}_" for name in ("adagrad", "adam", "adamw", "sgd")}
VERSION: Final = "_version"  # the attribute that version_of reads


# ---- torch.compile and torch.jit


COMPILE_WRAPPER: Final = "compile_wrapper"  # what torch.compile puts around a function


def is_of_compiled_function(frame: FrameType) -> bool:
    """Whether a frame is that of this wrapper."""
    module = frame.f_globals.get("__name__")
    return module == "torch._dynamo.eval_frame" and frame.f_code.co_name == COMPILE_WRAPPER


# What torch.jit.trace notes of the calls of this thread; None outside of one.
tracing_state = torch._C._get_tracing_state


def may_compile() -> bool:
    """Whether this process has loaded what compiles."""
    return "torch._dynamo" in sys.modules


# ---- modules


def has_backward_hook(module: nn.Module) -> bool:
    """Whether it has a hook that a Node of the module itself calls; the old kind is not one."""
    hooks = module._backward_hooks if module._is_full_backward_hook else ()
    return bool(hooks or module._backward_pre_hooks)


def remove_hook_on_all(handle: RemovableHandle) -> None:
    """Remove a hook on all modules.

    In torch 2.13 ``remove()`` leaves behind that the hook was given keywords, for which
    ``torch.compile`` then warns of hooks on all modules.
    """
    handle.remove()
    nn.modules.module._global_forward_hooks_with_kwargs.pop(handle.id, None)


def is_compiled(module: nn.Module) -> bool:
    """Whether it was made by ``torch.compile(module)``, or had its ``compile()`` called."""
    return hasattr(module, "_orig_mod") or module._compiled_call_impl is not None


# The attributes of a module that hold its submodules, its parameters and its buffers, by name.
PARTS_OF_MODULES: Final = ("_modules", "_parameters", "_buffers")
