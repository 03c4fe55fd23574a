"""The line of code that made a Node, where anomaly mode noted it."""

from __future__ import annotations

import re

from companion.internals import Node
from companion.source import Source, is_installed, is_users


def noted_source(fn: Node) -> Source | None:
    """The innermost line of the user that made a Node, as anomaly mode noted it.

    That of a library, if there is none.
    """
    of_library = None
    for entry in reversed(fn.metadata.get("traceback_", ())):
        line = re.match(r'\s*File "(.*)", line (\d+).*\n\s*(.*)', entry)
        if line and line[3] and is_users(line[1]):
            source = Source(line[1], int(line[2]), line[3].strip(), of_library)
            if not is_installed(source.file):
                return source
            of_library = of_library or source
    return of_library
