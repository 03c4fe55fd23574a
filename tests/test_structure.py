"""What holds everywhere in the code: the arrows of the imports, the exports, how long a file is."""

import ast
import graphlib
import importlib.metadata
import re
import sys
import tomllib
from functools import cache
from pathlib import Path

import pytest

import companion
from tests.cases import each

ROOT = Path(__file__).parents[1]
CODE = sorted(
    path
    for room in ("companion", "tools", "tests")
    for path in (ROOT / room).rglob("*.py")
    if path.parent.name != "fixtures"  # programs that are watched
)
COMPANION = [path for path in CODE if path.relative_to(ROOT).parts[0] == "companion"]
# What each folder of the companion may import of the others. Any may import the files on top.
TOP = {"internals": set(), "source": set(), "naming": {"source"}, "findings": {"source"}}
ARROWS = {
    "graph": set(),
    "forward": set(),
    "drawing": {"graph", "forward"},
    "backward": {"graph", "drawing"},
    "diagnosis": {"graph", "forward"},
    "higher_order": {"graph"},
}


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All that a file consists of, as Python parses it; the file itself comes first."""
    return [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


@cache
def imports(path: Path) -> set[str]:
    """The modules that a file imports, wherever in it."""
    found = set()
    for node in nodes(path):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: write the whole name of the module"
            found.add(node.module or "")
    return found


def declared() -> tuple[set[str], set[str]]:
    """The distributions that learners get, and those for testing."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]["test"]
    names = [
        [re.match(r"[\w-]+", d)[0] for d in part] for part in (project["dependencies"], extras)
    ]
    return set(names[0]), set(names[1])


# ---- imports


def ours(path: Path) -> set[str]:
    """The modules of the companion that a file imports, by their names below it."""
    names = {name.partition(".") for name in imports(path)}
    return {below for package, _, below in names if package == "companion"}


@each("path", COMPANION)
def test_imports_go_one_way(path):
    room = path.relative_to(ROOT / "companion").with_suffix("").parts
    targets = {name.split(".")[0] for name in ours(path)}
    if room == ("__init__",):
        assert targets <= {*TOP, *ARROWS}
    elif len(room) == 1:
        assert targets <= {"internals", *TOP[room[0]]}
    else:
        assert targets <= {*TOP, room[0], *ARROWS[room[0]]}
    assert not {name for name in imports(path) if name.split(".")[0] == "tools"}


def test_the_arrows_are_those_that_contributing_shows():
    text = (ROOT / "CONTRIBUTING.md").read_text().partition("may import from |\n|---|---|\n")[2]
    shown = {}
    for row in text.partition("\n\n")[0].splitlines():
        folders, targets = (re.findall(r"`(\w+)`", cell) for cell in row.split("|")[1:3])
        shown |= {folder: {*targets} for folder in folders}
    assert shown == ARROWS


def test_no_import_leads_back_to_its_file():
    rooms = {
        ".".join(path.relative_to(ROOT / "companion").with_suffix("").parts): ours(path)
        for path in COMPANION
    }
    order = graphlib.TopologicalSorter(rooms).static_order()  # raises at a cycle
    assert set(order) == set(rooms)  # so no name is misspelled, and none is a folder


def test_nothing_lies_loose_beside_the_folders():
    loose = {path.stem for path in COMPANION if path.parent.name == "companion"}
    folders = {
        path.name for path in (ROOT / "companion").iterdir() if (path / "__init__.py").exists()
    }
    assert loose == {"__init__", *TOP}
    assert folders == {*ARROWS}
    assert not folders & {*companion.__all__}  # the folder would stand in the function's place


def test_tools_import_nothing_of_the_companion():
    for path in (ROOT / "tools").glob("*.py"):
        assert not {name for name in imports(path) if name.split(".")[0] == "companion"}


def test_every_package_that_is_imported_is_declared_and_its_version_pinned():
    learners, testers = declared()
    owners = importlib.metadata.packages_distributions()
    pinned = (ROOT / "constraints.txt").read_text()
    for path in CODE:
        allowed = learners | (testers if path not in COMPANION else {"networkx"})
        for name in {name.split(".")[0] for name in imports(path)}:
            if name in sys.stdlib_module_names or name in {"companion", "tests", "tools"}:
                continue
            owner = {o.lower().replace("_", "-") for o in owners[name]} & allowed
            assert owner, f"{path.name} imports {name}, which pyproject.toml does not declare"
    for name in learners | testers:
        pin = name.replace("-", "[-_]")
        assert re.search(rf"^{pin}==", pinned, re.M | re.I), f"{name} has no pin in constraints.txt"


def test_what_only_drawing_needs_is_loaded_when_first_used():
    for path in COMPANION:
        for node in nodes(path)[0].body:
            if isinstance(node, ast.Import):
                loaded = {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                loaded = {node.module.split(".")[0]}
            else:
                continue
            assert loaded <= {"torch", "companion", *sys.stdlib_module_names}, path.name


# ---- the companion


def test_what_is_exported_is_sorted_documented_and_used():
    names = companion.__all__
    reference = (ROOT / "course/reference.md").read_text()
    users = [p for p in (ROOT / "tests").rglob("*.py") if p.name != Path(__file__).name]
    used = "\n".join(path.read_text() for path in users)
    assert names == sorted(names)
    public = {name for name in vars(companion) if not name.startswith("_")}
    assert public - {*TOP, *ARROWS} == set(names)
    for name in names:
        assert f"::: companion.{name}\n" in reference
        assert re.search(rf"\b{name}\b", used), f"no test uses {name}"


def test_the_tables_of_the_reference_have_each_exported_name_the_functions_above():
    """*I want to … → call …*, and below it what comes back."""
    text = (ROOT / "course/reference.md").read_text(encoding="utf-8").partition("\n## Walk\n")[0]
    first, second = re.findall(r"(?:^\|.*\n)+", text, re.M)
    code = [" ".join(re.findall(r"`[^`]*`", table)) for table in (first, second)]
    tables = [set(re.findall(r"[A-Za-z_]\w+", table)) for table in code]
    called = {name for name in companion.__all__ if name in tables[0]}
    assert {*companion.__all__} <= tables[0] | tables[1]
    assert called == {name for name in companion.__all__ if name.islower()} | {"Graph"}


def test_everything_exported_has_a_docstring_and_what_is_called_an_example():
    called = [getattr(companion, name) for name in companion.__all__ if name.islower()]
    assert companion.draw in called and len(called) > 15
    for name in companion.__all__:
        assert getattr(companion, name).__doc__, name
    for function in (*called, companion.Graph.of, companion.Watch.reaching):
        assert ">>> " in function.__doc__, function
        takes_nothing = function is companion.watch
        assert takes_nothing or "Args:" in function.__doc__ and "Raises:" in function.__doc__


LENGTHS = {"findings": 9999, "table": 9999, "diagnosing": 480, "rules": 560}  # two are tables


def test_a_file_fits_in_a_head_and_a_function_on_two_screens():
    for path in (path for path in CODE if path.relative_to(ROOT).parts[0] != "tests"):
        last = nodes(path)[0].body[-1:]
        assert not last or last[0].end_lineno <= LENGTHS.get(path.stem, 460), path.name
        for function in nodes(path):
            if isinstance(function, ast.FunctionDef):
                body = function.body[ast.get_docstring(function) is not None :]
                first = body[0].lineno if body else function.end_lineno
                head = function.body[0].lineno - function.lineno
                assert head + function.end_lineno - first < 80, f"{path.name}: {function.name}"


def private_names(path: Path) -> list[str]:
    """What a file says of torch's that begins with one underscore, and where.

    A name that the companion gives to something of its own is not torch's.
    """
    found = list[str]()
    own = own_names()
    for node in nodes(path):
        if isinstance(node, ast.Attribute) and re.match(r"_[a-zA-Z]", node.attr):
            if node.attr not in own and ast.unparse(node.value) not in {"self", "cls", "sys", "os"}:
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if re.fullmatch(r"_(raw_)?saved\w*|_[a-z]\w+", node.value) and node.value not in own:
                found.append(f"{path.name}:{node.lineno} {node.value!r}")
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("torch"):
            private = [alias.name for alias in node.names if alias.name.startswith("_")]
            parts = (node.module or "").split(".")
            if private or any(part.startswith("_") for part in parts):
                found.append(f"{path.name}:{node.lineno} {ast.unparse(node)}")
    return found


@cache
def own_names() -> set[str]:
    """The names with an underscore that classes and functions of the companion define."""
    own = {"_replace", "_asdict", "_fields"}  # of a NamedTuple
    for path in COMPANION:
        if path.stem == "internals":
            continue
        for node in nodes(path):
            if isinstance(node, ast.FunctionDef | ast.ClassDef):
                own.add(node.name)
            elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                own.add(node.id)
            elif isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
                own.add(node.attr)
    return own


def test_private_names_of_torch_stand_in_internals_alone():
    rooms = {path.stem: private_names(path) for path in COMPANION}
    assert rooms.pop("internals")
    assert not [name for found in rooms.values() for name in found]


def test_nothing_is_keyed_by_an_address_and_no_path_is_patched():
    for path in (p for p in CODE if p.relative_to(ROOT).parts[0] != "tests"):
        for node in nodes(path):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
                assert node.func.id != "id", f"{path.name}:{node.lineno} calls id()"
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                assert (node.value.id, node.attr) != ("sys", "path"), f"{path.name}:{node.lineno}"


def test_no_function_of_the_companion_calls_itself():
    for path in COMPANION:
        for function in nodes(path):
            if isinstance(function, ast.FunctionDef):
                calls = [n.func for n in ast.walk(function) if isinstance(n, ast.Call)]
                names = [call.id for call in calls if isinstance(call, ast.Name)]
                assert function.name not in names, f"{path.name}: {function.name} recurses"


# ---- many cases in one test


def test_of_many_cases_in_one_test_all_run_and_those_that_fail_are_named():
    seen = []

    @each(("low", "high"), [(1, 2), (4, 3), (5, 6), (8, 7)])
    @each("step", [0, 9])
    def is_ordered(low, high, step):
        seen.append((low, step))
        assert low < high + step

    with pytest.raises(ExceptionGroup, match="2 of 4") as failed:
        is_ordered()
    assert seen == [(low, step) for low in (1, 4, 5, 8) for step in (0, 9)]
    notes = [error.__notes__ for error in failed.value.exceptions]
    assert notes == [
        ["in case 0: step=0", "in case 1: low=4, high=3"],
        ["in case 0: step=0", "in case 3: low=8, high=7"],
    ]


def test_a_case_that_would_skip_the_others_is_an_error():
    with pytest.raises(AssertionError, match="skip them all"):
        each("number", [1])(lambda number: pytest.skip("why"))()
