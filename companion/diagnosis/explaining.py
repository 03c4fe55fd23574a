"""An error that torch raised, explained: from its message to the code of finding that it means.

The messages are in the table of findings, ``KINDS``, under ``errors``.
"""

from __future__ import annotations

import re

from companion.findings import KINDS, Finding, finding
from companion.source import Source, is_users, source_at


def explain(error: BaseException) -> Finding | None:
    """Say what an error about gradients means, and what to do.

    Args:
        error: an exception that torch raised, or a warning of it that was caught or made an error.

    Returns:
        A finding of the same kind that ``diagnose`` gives; its ``source`` is the line of your
        program that the error passed last. None if the message is not known.

    Raises:
        TypeError: ``error`` is not an exception.

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
    text = str(error)
    for code, kind in KINDS.items():
        for pattern, message in kind.errors:
            if match := re.search(pattern, text):
                fields = {name: value or "" for name, value in match.groupdict().items()}
                message = message.format(**fields)
                return finding(code, message, severity="error", source=_users_line(error))
    return None


def _users_line(error: BaseException) -> Source | None:
    """The innermost line of the user that an error passed."""
    innermost, traceback = None, error.__traceback__
    while traceback is not None:
        code = traceback.tb_frame.f_code
        if is_users(code.co_filename):
            innermost = code, traceback.tb_lasti
        traceback = traceback.tb_next
    return None if innermost is None else source_at(*innermost)
