"""Names for a program: what a tensor is called becomes an identifier that nothing else has."""

from __future__ import annotations

import keyword
import re
import unicodedata
from collections.abc import Iterable, Mapping

import torch

from companion.graph.nodes import node_of
from companion.graph.reading import Graph

_LENGTH = 60  # characters of an identifier
# What the text itself says, and what Python does not let anybody use as a variable.
_TAKEN = frozenset([*keyword.kwlist, "torch", "_"])


class Identifiers:
    """Gives out identifiers, each once.

    Attributes:
        renamed: by identifier the name that was wished for, where that is another.
    """

    def __init__(self) -> None:
        self._taken = set(_TAKEN)
        self.renamed = dict[str, str]()

    def new(self, wish: str) -> str:
        """An identifier that nothing else has, as near as can be to what is wished for."""
        base = identifier(wish)
        base = f"{base}_" if base in _TAKEN else base
        name, count = base, 2
        while name in self._taken:
            name, count = f"{base}_{count}", count + 1
        self._taken.add(name)
        if name != wish:
            self.renamed[name] = wish
        return name


def identifier(wish: str) -> str:
    """The text as Python reads an identifier, with an underscore for what cannot stand in one.

    Python takes ``ﬁ`` and ``fi`` for the same name; NFKC makes them the same.
    """
    text = re.sub(r"\W", "_", unicodedata.normalize("NFKC", wish)[:_LENGTH])
    if text.startswith("__") and text.endswith("__"):  # such as __builtins__ and __debug__
        text = text.strip("_")
    if not f"a{text}".isidentifier():  # some characters are of a word and of no identifier
        text = re.sub(r"[^0-9A-Za-z_]", "_", text)
    if text.isidentifier():
        return text
    return f"tensor_{text}" if text else "tensor"


class ReadersNames:
    """What the text calls the tensors of the reader.

    Attributes:
        of_tensor: identifiers of leaves, and of tensors that were saved or made in the graph.
        of_result: the same of results, by Node and number of the output.
        of_leaf: the same of leaves, by Node. Each leaf has one.
        keys: for each name of a leaf its identifier.
    """

    def __init__(
        self,
        graph: Graph,
        names: Mapping[str, torch.Tensor],
        saved: Iterable[torch.Tensor],
        identifiers: Identifiers,
    ) -> None:
        self._index = {fn: i for i, fn in enumerate(graph._fns)}
        leaves = {leaf.grad_fn.variable: leaf.index for leaf in graph.leaves}
        known = {*saved, *leaves}
        self.of_tensor = dict[torch.Tensor, str]()
        self.of_result = dict[tuple[int, int], str]()
        for name, tensor in names.items():
            result = self.result(tensor)
            if tensor in self.of_tensor or result in self.of_result:
                continue
            if result is not None:
                self.of_result[result] = self.of_tensor[tensor] = identifiers.new(name)
            elif tensor in known:
                self.of_tensor[tensor] = identifiers.new(name)
        self.keys = {n: self.of_tensor[t] for n, t in names.items() if t in leaves}
        self.of_leaf = dict[int, str]()
        for tensor, i in leaves.items():
            if tensor not in self.of_tensor:
                self.of_tensor[tensor] = identifiers.new(f"leaf_{i}")
                key = f"leaf_{i}" if f"leaf_{i}" not in self.keys else self.of_tensor[tensor]
                self.keys[key] = self.of_tensor[tensor]
            self.of_leaf[i] = self.of_tensor[tensor]

    def result(self, tensor: torch.Tensor) -> tuple[int, int] | None:
        """The Node of the graph that made a tensor, and the number of its output."""
        fn = node_of(tensor)
        return (self._index[fn], tensor.output_nr) if fn in self._index else None

    def of(self, tensor: torch.Tensor) -> str | None:
        """The identifier of a tensor; None if the reader has no name for it."""
        result = self.result(tensor)
        return self.of_tensor.get(tensor) or (self.of_result.get(result) if result else None)
