"""How much ``make test`` runs of many checks of one kind, all of which ``make deep`` runs."""

import os
from collections.abc import Iterable
from typing import Any

WHOLE = os.environ.get("EXAMPLES") == "all"


def examples(in_deep: int) -> int:
    """How many random programs a test makes: so many in ``make deep``, else an eighth."""
    return in_deep if WHOLE else in_deep // 8


def every(step: int, subjects: Iterable[Any]) -> list[Any]:
    """All subjects in ``make deep``, else the first and each so many after it."""
    return list(subjects)[:: 1 if WHOLE else step]
