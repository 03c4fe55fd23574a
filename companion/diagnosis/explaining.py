"""An error that torch raised, explained: from its message to the code of finding that it means.

The messages are in the table of findings, ``KINDS``, under ``errors``.
"""

from __future__ import annotations

import re

from companion.diagnosis.nonfinite import born_in
from companion.findings import KINDS, Finding, finding
from companion.forward.watching import Watch
from companion.source import Source, is_users, source_at


def explain(error: BaseException, *, watch: Watch | None = None) -> Finding | None:
    """Say what an error about gradients means, and what to do.

    Args:
        error: an exception that torch raised, or a warning of it that was caught or made an error.
            Of one that left ``record_backward`` the steps that ran are looked at.
        watch: what ``with watch() as watched:`` saw of the forward pass.

    Returns:
        A finding of the same kind that ``diagnose`` gives; its ``source`` is the line of your
        program that the error passed last. None if the message is not known.

    Raises:
        TypeError: ``error`` is not an exception, or ``watch`` is not a ``Watch``.

    Examples:
        >>> import torch
        >>> x = torch.ones(2, requires_grad=True)
        >>> try:
        ...     (x * x).backward()
        ... except RuntimeError as error:
        ...     explained = explain(error)
        >>> explained.code, explained.cure[:38]
        ('non-scalar', 'reduce the output to one number, as wi')
        >>> explain(ValueError("something else")) is None
        True
    """
    if not isinstance(error, BaseException):
        raise TypeError(
            f"error must be an exception, got {type(error).__name__}; catch it first: "
            "except RuntimeError as error"
        )
    if watch is not None and not isinstance(watch, Watch):
        raise TypeError(
            f"watch must be what `with watch() as watched:` gave, got {type(watch).__name__}"
        )
    text = str(error)
    for code, kind in KINDS.items():
        for pattern, message, variant in kind.wordings:
            if match := re.search(pattern, text):
                fields = {name: value or "" for name, value in match.groupdict().items()}
                message = message.format(**fields)
                if code == "non-finite":
                    return _nan(error, message, watch)
                source = _users_line(error)
                return finding(code, message, severity="error", source=source, variant=variant)
    return None


def _nan(error: BaseException, message: str, watch: Watch | None) -> Finding:
    """A Node gave NaN: whether it was the first, and whether the forward pass was finite."""
    source, code, variant = _users_line(error), "non-finite", "after"
    step = getattr(getattr(error, "recording", None), "first_nonfinite", None)
    if step is not None:
        node = error.recording.graph.nodes[step.node]  # type: ignore[attr-defined]
        message += f"; node {step.node}, {node.name}, was the first to get finite gradients and "
        message += "give others"
    if watch is not None:
        born, line = born_in(watch)
        message, source = f"{message}; {born}", line or source
        if watch.first_nonfinite is None:
            code, variant = "nan-risk", ""
    return finding(code, message, severity="error", source=source, variant=variant)


def _users_line(error: BaseException) -> Source | None:
    """The innermost line of the user that an error passed."""
    innermost, traceback = None, error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if is_users(code.co_filename):
            innermost = code, traceback.tb_lasti
        traceback = traceback.tb_next
    return None if innermost is None else source_at(*innermost)
