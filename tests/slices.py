"""How much ``make test`` runs of many checks of one kind, all of which ``make deep`` runs."""

import os
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

DEEP = os.environ.get("EXAMPLES") == "all"
PINS = (Path(__file__).parents[1] / "constraints.txt").read_text(encoding="utf-8").splitlines()
HAS_ANOTHER_TORCH = f"torch=={version('torch').partition('+')[0]}" not in PINS

# What can break by another torch alone.
torchs_own = pytest.mark.skipif(
    not (DEEP or HAS_ANOTHER_TORCH),
    reason="depends on torch alone; make deep runs it, and make test with another torch",
)


def examples(in_deep: int, part: int = 10) -> int:
    """How many random programs a test makes: so many in ``make deep``, else a tenth of them."""
    return in_deep if DEEP else in_deep // part


def every(step: int, subjects: Iterable[Any]) -> list[Any]:
    """All subjects in ``make deep``, else the first and each so many after it."""
    return list(subjects)[:: 1 if DEEP else step]
