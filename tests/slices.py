"""How much ``make test`` runs of many checks of one kind, all of which ``make deep`` runs."""

import os
from collections.abc import Iterable
from typing import Any

DEEP = os.environ.get("EXAMPLES") == "all"


def examples(in_deep: int) -> int:
    """How many random programs a test makes: so many in ``make deep``, else an eighth."""
    return in_deep if DEEP else in_deep // 8


def every(step: int, subjects: Iterable[Any]) -> list[Any]:
    """All subjects in ``make deep``, else the first and each so many after it."""
    return list(subjects)[:: 1 if DEEP else step]
