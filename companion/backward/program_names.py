"""Names for a program: what a tensor is called becomes an identifier that nothing else has."""

from __future__ import annotations

import keyword
import re
import unicodedata

# What the text itself says, and what Python does not let anybody assign or read as a variable.
_TAKEN = frozenset([*keyword.kwlist, "torch", "_"])


class Identifiers:
    """Gives out identifiers, each once."""

    def __init__(self) -> None:
        self._taken = set(_TAKEN)

    def new(self, wish: str) -> str:
        """An identifier as near as can be to what is wished for."""
        identifier = _identifier(wish)
        if identifier in self._taken and f"{identifier}_" not in self._taken:
            is_reserved = identifier in _TAKEN
            identifier = f"{identifier}_" if is_reserved else identifier
        candidate, count = identifier, 2
        while candidate in self._taken:
            candidate, count = f"{identifier}_{count}", count + 1
        self._taken.add(candidate)
        return candidate


def _identifier(wish: str) -> str:
    """The text as Python's parser reads an identifier, with an underscore for what cannot be in it.

    Python takes ``ﬁ`` and ``fi`` for the same name, which NFKC makes the same.
    """
    text = re.sub(r"\W", "_", unicodedata.normalize("NFKC", wish))
    if re.fullmatch(r"__.*__", text):  # such as __builtins__ and __debug__
        text = text.strip("_")
    if not f"a{text}".isidentifier():  # such as ² and lone surrogates
        text = re.sub(r"[^0-9A-Za-z_]", "_", text)
    if text.isidentifier():
        return text
    return f"tensor_{text}" if text else "tensor"
