"""A backward pass may run another inside of it, which adds to ``.grad`` of leaves nobody listed."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from torch.overrides import TorchFunctionMode

from companion.backward.copies import Copied, Tensor, copied, copy_of
from companion.internals import Node, has_memory
from companion.naming import is_tensor


class GradsNoted(TorchFunctionMode):
    """A mode that notes the ``.grad`` of each leaf before a call of torch takes the leaf.

    Such are the leaves that a custom Function uses in its backward, or a checkpoint that runs its
    forward again. It sees none that only C++ uses, as in a scripted module.
    """

    def __init__(self) -> None:
        super().__init__()
        self._before = dict[Tensor, tuple[Tensor | None, Copied | None]]()

    def note(self, leaf: Tensor) -> None:
        """Note the ``.grad`` of a leaf, as it is when this is first called."""
        if leaf not in self._before:
            grad = leaf.grad
            copy = copy_of(grad) if grad is not None and has_memory(grad) else None
            self._before[leaf] = grad, copied(grad, copy)

    def restore(self) -> None:
        """Make each ``.grad`` what it was."""
        for leaf, (grad, before) in self._before.items():
            if leaf.grad is not grad:
                leaf.grad = grad
            if before is not None and not before.is_current():
                before.tensor.detach().copy_(before.copy)

    @contextmanager
    def during(self, fn: Node) -> Iterator[None]:
        """In this block, note while a Node runs: the engine takes modes off for the pass."""

        def begin(_: object) -> None:
            self.__enter__()  # type: ignore[no-untyped-call]

        def end(*_: object) -> None:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]

        with fn.register_prehook(begin), fn.register_hook(end):
            yield

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Iterable[type],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        stack = [*args, *(kwargs or {}).values()]
        while stack:
            value = stack.pop()
            if isinstance(value, tuple | list):
                stack += value
            elif is_tensor(value) and value.requires_grad and value.is_leaf:
                self.note(value)
        return func(*args, **(kwargs or {}))


@contextmanager
def grads_kept() -> Iterator[GradsNoted]:
    """After this block each ``.grad`` is as it was that what it yields has noted in it."""
    noted = GradsNoted()
    try:
        yield noted
    finally:
        noted.restore()
