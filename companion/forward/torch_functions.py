"""What functions of torch do, by their names: which are noted, and what each reads and writes."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from companion.internals import FUSED_STEPS, SET_GRAD_ENABLED

PROPERTIES = set("data T mT H mH real imag".split())  # those that give a tensor of its values
ASSIGNING = {"__setitem__", *PROPERTIES}  # those that assign, where they give None
DECIDING = set("__bool__ is_nonzero equal allclose __contains__".split())
LEAVING = set(
    "item tolist numpy __float__ __int__ __complex__ __index__ __array__ __dlpack__".split()
)
NOTED_WITHOUT_TENSORS = DECIDING | LEAVING
ADDING = set("add radd iadd sub rsub isub".split())  # without the underscores around them
ALIASING = set("data numpy __array__ __dlpack__".split())
# They let memory be written into, by others or by themselves, without a change of the version.
EXPOSING = ALIASING | set("set_ data_ptr untyped_storage storage share_memory_".split())
# No values of the tensor that is given go into what comes out.
VALUELESS = set(
    "zeros_like ones_like empty_like full_like rand_like randn_like randint_like "
    "new_zeros new_ones new_empty new_full new_empty_strided".split()
)
# Which arguments' values are read, where not all are.
READ = {
    "new_tensor": slice(1, None),
    **dict.fromkeys("expand_as view_as reshape_as type_as to".split(), slice(1)),
}
# They give tensors, or none, and compute nothing; or they are asked so often that it costs.
NOT_NOTED = set(
    "requires_grad_ retain_grad register_hook register_post_accumulate_grad_hook backward "
    "__repr__ __format__ __reduce_ex__ __setstate__ __delete__ __dir__ rename_ "
    "dim size numel stride is_contiguous storage_offset __len__ __hash__ "
    "is_floating_point is_complex".split()
) | {SET_GRAD_ENABLED, ""}


# They write into tensors and move no version: the parameters of a fused optimizer, and the running
# statistics of a normalization that is trained.
_NORMALIZING = {"batch_norm": False, "instance_norm": True}  # and whether they train if not told
SILENT = FUSED_STEPS | set(_NORMALIZING)


def written_silently(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any]:
    """What a function of ``SILENT`` writes into."""
    if name in FUSED_STEPS:
        return list(args[0])
    given = dict(enumerate(args)) | dict(kwargs)
    flags = [given[key] for key in (5, "training", "use_input_stats") if key in given]
    if not (flags or [_NORMALIZING[name]])[0]:
        return []
    statistics = [given.get(key) for key in (1, 2, 3, 4, "running_mean", "running_var")]
    return [t for t in statistics if isinstance(t, torch.Tensor) and not t.requires_grad]


def name_of(func: Callable[..., Any]) -> str:
    """The name of a function or of a property; empty for a property that is not noted."""
    name: str = getattr(func, "__name__", "function")
    if name == "__get__" or name == "__set__":
        name = getattr(getattr(func, "__self__", None), "__name__", "")
        return name if name in PROPERTIES else ""
    return name


def overwrites(name: str) -> bool:
    """Whether a function of this name writes into its first argument."""
    return name[-1:] == "_" and (name[:2] != "__" or name[2] == "i" or name == "__setitem__")
