"""Many small cases in one test: each test takes 3 ms to be found by all workers and reported."""

import functools
import inspect
from collections.abc import Callable, Iterable
from typing import Any

import pytest


def each(names: str | tuple[str, ...], cases: Iterable[Any]) -> Callable[[Any], Any]:
    """As ``pytest.mark.parametrize``, but in one test, which runs all cases and names those that
    fail.

    For cases that take a few milliseconds. A fixture is made once for all of them, and none is
    skipped.
    """
    keys = tuple(names.replace(" ", "").split(",")) if isinstance(names, str) else names
    rows = [dict(zip(keys, [case] if len(keys) == 1 else case, strict=True)) for case in cases]
    assert rows, f"no cases of {names}"

    def decorate(test: Any) -> Any:
        @functools.wraps(test)
        def run_all(**others: Any) -> None:
            errors = []
            for number, row in enumerate(rows):
                try:
                    test(**others, **row)
                except pytest.skip.Exception as skipped:
                    raise AssertionError("one case would skip them all") from skipped
                except (Exception, pytest.fail.Exception) as error:
                    values = ", ".join(f"{name}={value!r}" for name, value in row.items())
                    error.add_note(f"in case {number}: {values}")
                    errors.append(error)
            if len(errors) == 1:
                raise errors[0]
            if errors:
                raise BaseExceptionGroup(f"{len(errors)} of {len(rows)} cases", errors)

        signature = inspect.signature(test)
        left = [each for name, each in signature.parameters.items() if name not in keys]
        run_all.__signature__ = signature.replace(parameters=left)  # what pytest gives fixtures for
        return run_all

    return decorate
