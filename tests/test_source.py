import collections.abc
import copy
import json
import linecache
import marshal
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import companion
from companion import Source, explain, watch
from companion.source import _WRAPPERS, is_ours, is_users, source_among, source_at, users_source
from tests.cases import each


def here() -> Source:
    """What ``source_at`` says of the line that calls this."""
    frame = sys._getframe(1)
    return source_at(frame.f_code, frame.f_lasti)


def test_the_text_is_the_segment_of_the_call_and_not_its_line():
    found = [here(), 1]
    assert found[0].text == "here()"
    assert found[0].file == __file__
    assert found[0].line == here().line - 3


def test_a_segment_of_several_lines_is_told_in_one():
    def passed(source: Source, *_: int) -> Source:
        return source

    frames = []

    def note(*_: int) -> None:
        frames.append((sys._getframe(1).f_code, sys._getframe(1).f_lasti))

    note(
        1,
        2,
    )
    assert source_at(*frames[0]).text == "note( 1, 2, )"
    assert source_at(*frames[0]).line == here().line - 5


def test_columns_are_counted_in_bytes_as_python_counts_them():
    ä, found = "ä", here()
    assert (ä, found.text) == ("ä", "here()")


def test_an_assignment_to_a_part_is_told_with_what_is_assigned():
    class Noting:
        def __setitem__(self, index: int, value: int) -> None:
            self.source = source_at(sys._getframe(1).f_code, sys._getframe(1).f_lasti)

    noting = Noting()
    noting[0] = 1 + 1
    assert noting.source.text == "noting[0] = 1 + 1"


def test_code_without_a_source_has_a_line_and_no_text():
    scope: dict[str, object] = {"here": here}
    exec(compile("\n\nfound = here()", "<nowhere>", "exec"), scope)
    assert scope["found"] == Source("<nowhere>", 3, "")


def test_a_function_in_a_file_is_found_by_its_file(tmp_path):
    path = tmp_path / "script.py"
    path.write_text("def f(here):\n    return 1, here()\n")
    scope: dict[str, object] = {}
    exec(compile(path.read_text(), str(path), "exec"), scope)
    assert scope["f"](here)[1] == Source(str(path), 2, "here()")


def test_a_snippet_in_the_folder_of_the_companion_is_the_readers():
    package = Path(companion.__file__).parent
    assert is_users(str(package / "README.md")) and not is_ours(str(package / "README.md"))
    assert is_ours(str(package / "graph/text.py")) and not is_users(str(package / "graph/text.py"))


def test_code_of_exec_does_not_take_its_text_from_other_code_of_that_name(monkeypatch):
    lines = ["the program of python -c\n"]  # which Python 3.13 keeps there
    monkeypatch.setitem(linecache.cache, "<string>", (len(lines[0]), None, lines, "<string>"))
    scope: dict[str, object] = {"here": here}
    exec("def f():\n    return here()", scope)
    exec("g = lambda: here()", scope)
    assert scope["f"]() == Source("<string>", 2, "")
    assert scope["g"]() == Source("<string>", 1, "")


def test_the_users_source_is_in_no_file_of_torch():
    places = []

    class Module(torch.nn.Module):
        def forward(self, x: int) -> int:
            return x

    module = Module()
    module.register_forward_hook(lambda *_: places.append(users_source()))
    module(1)
    assert places[0].text == "users_source()"
    assert users_source().file == __file__


@each(
    ("function", "is_the_users"),
    [
        (copy.deepcopy, False),
        (json.JSONDecoder.decode, False),  # in a folder
        (collections.abc.Sequence.index, False),  # frozen
        (torch.nn.Module.forward, False),
        (source_at, False),
        (pytest.raises, True),  # installed, as a package of the user's may be
        (here, True),
    ],
)
def test_whose_code_it_is(function, is_the_users):
    assert is_users(function.__code__.co_filename) is is_the_users


def test_the_users_source_is_in_no_module_of_python():
    x = torch.ones(2, requires_grad=True)
    with watch() as seen:
        copy.deepcopy(x)
    operation = seen.operations[0]
    assert operation.name == "__deepcopy__"
    assert str(operation.source).endswith("`copy.deepcopy(x)`")


@pytest.mark.parametrize("flag", [[], ["-X", "no_debug_ranges"]])
def test_without_columns_the_text_is_the_line(tmp_path, flag):
    path = tmp_path / "script.py"
    path.write_text("def f(here):\n    return 1, here()\n")
    program = "import marshal, sys; code = compile(open(sys.argv[1]).read(), sys.argv[1], 'exec')"
    program += "; sys.stdout.buffer.write(marshal.dumps(code))"
    command = [sys.executable, *flag, "-c", program, str(path)]
    compiled = subprocess.run(command, capture_output=True, check=True).stdout
    scope: dict[str, object] = {}
    exec(marshal.loads(compiled), scope)
    assert scope["f"](here)[1].text == ("return 1, here()" if flag else "here()")


def test_a_source_names_its_file_only_if_that_is_a_program(monkeypatch):
    monkeypatch.chdir(Path(__file__).parents[1])
    assert str(Source(__file__, 3, "x @ w")) == "tests/test_source.py:3: `x @ w`"
    assert str(Source(__file__, 3, "")) == "tests/test_source.py:3"
    assert str(Source("/gone/ipykernel_1/2.py", 3, "x @ w")) == "`x @ w`"  # the cell of a notebook
    assert str(Source("<string>", 3, "")) == "line 3 of <string>"  # as of what is typed


def test_a_source_begins_with_a_path_that_opens_from_the_working_directory(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "train.py").write_text("\n")
    source = Source(str(tmp_path / "inner" / "train.py"), 1, "f(x)")
    for folder in (tmp_path, tmp_path / "inner", Path(__file__).parent):
        monkeypatch.chdir(folder)
        path, line, _ = str(source).split(":", 2)
        assert Path(path).resolve() == (tmp_path / "inner" / "train.py").resolve()
        assert (Path(path).is_absolute(), line) == (
            not (tmp_path.is_relative_to(folder) or folder.is_relative_to(tmp_path)),
            "1",
        )


# ---- a library between the user and torch


def library(folder: Path, text: str) -> dict[str, Any]:
    """What a module of an installed package defines."""
    path = folder / "site-packages" / "wheels.py"
    path.parent.mkdir()
    path.write_text(text)
    scope: dict[str, Any] = {}
    exec(compile(text, str(path), "exec"), scope)
    return scope


def test_of_a_library_the_line_that_called_it_comes_first_and_then_its_own(tmp_path):
    scale = library(
        tmp_path, "def scale(x):\n    return inner(x)\ndef inner(x):\n    return x * 2\n"
    )["scale"]
    with watch() as seen:
        scale(torch.ones(2))
    source = seen.operations[-1].source
    assert (source.file, source.text) == (__file__, "scale(torch.ones(2))")
    assert (source.inside.line, source.inside.text) == (4, "x * 2")
    assert source.innermost is source.inside and source.inside.innermost is source.inside
    assert re.fullmatch(
        r".*test_source\.py:\d+: `scale\(torch\.ones\(2\)\)`, in .*wheels\.py:4: `x \* 2`",
        str(source),
    )


def test_what_a_library_calls_back_is_the_users(tmp_path):
    apply = library(tmp_path, "def apply(f, x):\n    return f(x)\n")["apply"]
    with watch() as seen:
        apply(lambda x: x * 2, torch.ones(2))
    source = seen.operations[-1].source
    assert (source.text, source.inside) == ("x * 2", None)


def test_a_program_that_is_installed_has_its_own_lines(tmp_path):
    scope = library(tmp_path, "def f(users_source):\n    return users_source()\n")
    places = [(scope["f"].__code__, 0)]
    assert source_among(places).file.endswith("wheels.py") and source_among([]) is None


@pytest.mark.filterwarnings("ignore:Converting a tensor", "ignore:.*__array")
@each(
    "f",
    [
        lambda x: torch.autograd.grad((x * x).sum(), x),
        lambda x: x.detach(),
        lambda x: torch.no_grad()(torch.functional.norm)(x),
        lambda x: torch.nn.functional.relu(x) > 1,
        lambda x: torch.nn.functional.one_hot(x.long()),
        lambda x: np.asarray(x.detach()),
        lambda x: 1.0 in x,
        lambda x: float(x.sum()),
        lambda x: torch.ops.aten.detach.default(x),
        lambda x: torch.no_grad()(lambda: x.norm())(),
    ],
)
def test_a_call_of_the_user_is_no_librarys_though_torch_has_it_in_python(f):
    with watch() as seen:
        f(torch.ones(3, requires_grad=True))
    assert seen.cuts and not any(cut.by_library for cut in seen.cuts)


def test_all_files_of_torch_whose_functions_stand_for_operations_are_known():
    folder = Path(torch.__file__).parent
    others = {"_dynamo", "_functorch", "_export", "testing", "distributed", "onnx", "amp", "utils"}
    files = [p for p in folder.rglob("*.py") if p.relative_to(folder).parts[0] not in others]
    handing = {p for p in files if "handle_torch_function(" in p.read_text(errors="replace")}
    assert {str(path.relative_to(folder)) for path in handing} <= _WRAPPERS


def test_an_error_out_of_a_library_is_told_at_the_users_line(tmp_path):
    text = "def run(y):\n    inner(y)\ndef inner(y):\n    y.backward()\n"
    run = library(tmp_path, text)["run"]
    with pytest.raises(RuntimeError) as caught:
        run(torch.ones(2, requires_grad=True) * 2)
    source = explain(caught.value).source
    assert source.text == "run(torch.ones(2, requires_grad=True) * 2)"
    assert source.inside.text == "y.backward()"


@pytest.mark.filterwarnings("ignore:The .grad attribute of a Tensor that is not a leaf")
@pytest.mark.usefixtures("fresh_compiler")
def test_of_compiled_code_the_function_is_told_and_no_line_that_does_something_else():
    def halves(x):
        y = x.detach() * x
        print("a break of the graph")
        return y.detach() * x

    with watch() as seen:
        torch.compile(halves, backend="eager")(torch.ones(2, requires_grad=True)).sum()
    texts = [cut.source.text for cut in seen.cuts]
    assert texts == ["somewhere in halves, which is compiled"] * 2
