"""What holds everywhere: the arrows of the imports, the exports, the two commands."""

import ast
import fnmatch
import graphlib
import importlib.metadata
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from functools import cache
from pathlib import Path

import pytest

import companion
from tools.course import pages
from tools.notebooks import repository

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
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages(ROOT / "course")]


@cache
def nodes(path: Path) -> list[ast.AST]:
    """All that a file consists of, as Python parses it; the file itself comes first."""
    return [*ast.walk(ast.parse(path.read_text(encoding="utf-8")))]


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


@pytest.mark.parametrize("path", COMPANION, ids=lambda path: str(path.relative_to(ROOT)))
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


LENGTHS = {"findings": 9999, "table": 9999, "diagnosing": 580, "rules": 640}  # two are tables


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


# ---- the commands


def targets() -> dict[str, str]:
    """The targets of the Makefile and what help says of them."""
    return dict(re.findall(r"^([a-z]+):.*## (.*)$", (ROOT / "Makefile").read_text(), re.M))


def test_readme_begins_with_the_two_commands():
    first = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == [
        "make serve",
        "make test",
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_on_a_page_is_a_target(page):
    commands = re.findall(r"(?:`|^)make ([a-z]+)", page.read_text(), re.M)
    assert set(commands) <= set(targets())


def test_every_target_is_told_by_help_and_help_is_the_first():
    phony = re.search(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    shown = make("help").stdout
    assert list(targets())[0] == "help"
    assert set(phony) == set(targets())
    for name, what in targets().items():
        assert re.search(rf"^make {name} +{re.escape(what)}$", shown, re.M)


def test_every_file_that_a_page_or_a_command_names_exists():
    text = (ROOT / "Makefile").read_text() + "".join(page.read_text() for page in PAGES[:2])
    named = re.findall(r"(?:companion|course|tests|tools|benchmarks)/[\w./-]*\w/?", text)
    assert "tests/graph/test_freeing.py" in named
    missing = [name for name in named if not (ROOT / name).exists()]
    assert [name for name in missing if name != "course/NN-slug.md"] == []


def test_what_make_makes_is_removed_by_clean_and_ignored_by_git():
    made = [".venv", "site", "build", "dist", "inside_autograd.egg-info", ".mypy_cache"]
    removed = re.search(r"^\trm -rf (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    for name in made:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in removed), name
        assert any(fnmatch.fnmatch(name, pattern) for pattern in ignored), name


def test_what_is_released_has_what_the_tree_has_and_nothing_of_an_earlier_build(tmp_path):
    for name in ("pyproject.toml", "setup.py", "MANIFEST.in", "LICENSE"):
        shutil.copy(ROOT / name, tmp_path)
    for name in ("companion", "tests"):
        unwanted = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, tmp_path / name, ignore=unwanted)
    (tmp_path / "build/lib/companion").mkdir(parents=True)
    (tmp_path / "build/lib/companion/old.py").touch()
    build = "from setuptools import build_meta as b; b.build_wheel('dist'); b.build_sdist('dist')"
    subprocess.run([sys.executable, "-c", build], cwd=tmp_path, check=True, capture_output=True)
    (wheel,) = (tmp_path / "dist").glob(f"inside_autograd-{companion.__version__}-*.whl")
    (source,) = (tmp_path / "dist").glob(f"inside_autograd-{companion.__version__}.tar.gz")
    files = (path for path in (tmp_path / "companion").rglob("*") if path.is_file())
    tree = sorted(path.relative_to(tmp_path).as_posix() for path in files)
    names = [name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name]
    assert sorted(names) == tree
    names = [name.partition("/")[2] for name in tarfile.open(source).getnames()]
    assert {*tree} < {*names}
    assert not [name for name in names if name.startswith("tests")]  # which need the pages


def test_the_page_of_the_package_index_needs_nothing_of_the_repository():
    text = (ROOT / "companion" / "README.md").read_text()
    assert re.findall(r"\]\((?!https://)", text) == []
    address = repository(ROOT / "course")
    urls = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"].get("urls", {})
    assert any(address in url for url in urls.values()) if address else not urls


def test_the_same_versions_are_claimed_everywhere():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    torch = re.search(r"torch>=([\d.]+)", " ".join(project["dependencies"]))[1]
    python = project["requires-python"].removeprefix(">=")
    for name in ("companion/README.md", "course/reference.md", "CONTRIBUTING.md"):
        text = (ROOT / name).read_text()
        assert set(re.findall(r"PyTorch ([\d.]+) (?:or|and) newer", text)) == {torch}, name
        assert set(re.findall(r"Python ([\d.]+) (?:or|and) newer", text)) == {python}, name
    assert f"torch {torch} or newer" in (ROOT / "companion/internals.py").read_text()
    assert f"Python {python} or newer" in (ROOT / "Makefile").read_text()
    assert f"make test TORCH={torch}.0\n" in (ROOT / "CONTRIBUTING.md").read_text()


def test_mypy_and_editors_find_the_companion_from_another_folder(tmp_path):
    """They follow paths, and not the hooks for import of an editable install."""
    find = "import importlib.machinery as m; print(m.PathFinder.find_spec('companion').origin)"
    done = subprocess.run(
        [sys.executable, "-c", find], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.endswith("companion/__init__.py\n"), "make check installs it anew"


def test_ci_runs_the_test_command_of_the_readme():
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text(), re.M)


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    ours = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PORT", "PYTHON", "TORCH"}  # of a make around this
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


@pytest.fixture
def newcomer(tmp_path):
    """A clone without a virtual environment, and a Python that answers as told."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())

    def newcomer(answers: str) -> str:
        (tmp_path / "python").write_text(f"#!/bin/sh\n{answers}\n")
        (tmp_path / "python").chmod(0o755)
        done = make("notebooks", "PYTHON=./python", cwd=tmp_path)
        assert done.returncode != 0
        assert not (tmp_path / ".venv").exists()
        return done.stderr

    return newcomer


def test_a_python_that_is_too_old_gets_one_clear_line(newcomer):
    first, *rest = newcomer("exit 1").splitlines()
    assert first.startswith(
        "this needs Python 3.11 or newer as ./python; name another: make PYTHON="
    )
    assert len(rest) == 1 and rest[0].startswith("make: ***")


def test_a_python_without_venv_gets_one_clear_line(newcomer):
    first, *rest = newcomer('case "$2" in *venv*) exit 1;; esac').splitlines()
    assert first.startswith("./python has no venv module; on Debian and Ubuntu: apt install")
    assert len(rest) == 1 and rest[0].startswith("make: ***")


@pytest.fixture
def another_torch(tmp_path):
    """A clone set up for torch 2.6.0, which needs a sympy of its own, where pip installs this."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml"):
        (tmp_path / name).write_text((ROOT / name).read_text())

    def another_torch(installed: str) -> subprocess.CompletedProcess[str]:
        (tmp_path / "python").write_text(f"""#!/bin/sh
            case "$1 $2 $3" in
                "-m venv "*) mkdir -p $3/bin; cp $0 $3/bin/python;;
                "-m pip show") printf "Name: torch\\nRequires: sympy, typing-extensions\\n";;
                *metadata*torch*) echo {installed};;
            esac""")
        (tmp_path / "python").chmod(0o755)
        return make("check", "TORCH=2.6.0", "PYTHON=./python", cwd=tmp_path)

    return another_torch


def test_another_torch_is_held_and_what_it_needs_is_not_pinned(another_torch, tmp_path):
    done = another_torch("2.6.0+cpu")
    assert done.returncode == 0, done.stderr
    assert "--constraint .venv-torch-2.6.0/constraints.txt --editable" in done.stdout
    pins = (tmp_path / ".venv-torch-2.6.0/constraints.txt").read_text().splitlines()
    all_pins = (ROOT / "constraints.txt").read_text().splitlines()
    dropped = {re.split("==", pin)[0] for pin in {*all_pins} - {*pins}}
    assert dropped == {"torch", "sympy", "typing_extensions"}
    assert {*pins} - {*all_pins} == {"torch==2.6.0"}


def test_pip_refuses_a_torch_that_is_too_old_before_it_downloads_it(another_torch):
    needed = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"][0]
    (install,) = re.findall(r"whl/cpu (.*)", another_torch("2.6.0+cpu").stdout)
    assert needed.startswith("torch>=") and install == f"torch==2.6.0 '{needed}'"


def test_a_torch_that_is_not_the_one_asked_for_gets_one_clear_line(another_torch, tmp_path):
    done = another_torch("2.14.1")
    assert done.returncode != 0
    assert not (tmp_path / ".venv-torch-2.6.0/ready").exists()
    first, *rest = done.stderr.splitlines()
    assert first.startswith("this tests torch 2.6.0, but pip installed another in .venv-torch-2.6")
    assert len(rest) == 1 and rest[0].startswith("make: ***")


@pytest.fixture
def ready(tmp_path):
    """A clone whose virtual environment is set up, with one lesson."""
    for name in ("Makefile", "constraints.txt", "pyproject.toml", "mkdocs.yml"):
        (tmp_path / name).write_text((ROOT / name).read_text())
    (tmp_path / "course/notebooks").mkdir(parents=True)
    (tmp_path / "course/01-x.md").write_text("# X\n\nA [Node](glossary.md#node).\n")
    (tmp_path / "tools").symlink_to(ROOT / "tools")
    (tmp_path / ".venv/bin").mkdir(parents=True)
    python = f'case "$2" in jupyterlab) echo "$@";; *) exec {sys.executable} "$@";; esac'
    (tmp_path / ".venv/bin/python").write_text(f"#!/bin/sh\n{python}\n")
    (tmp_path / ".venv/bin/python").chmod(0o755)
    (tmp_path / ".venv/ready").touch()
    (tmp_path / ".venv/lab-ready").touch()
    return tmp_path


def test_a_port_that_is_taken_gets_one_clear_line(ready):
    make("notebooks", cwd=ready)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = make("serve", f"PORT={port}", cwd=ready)
    first, *rest = done.stderr.splitlines()
    assert first.startswith(f"cannot listen on port {port}, something else may use it; try: make")
    assert len(rest) == 1 and rest[0].startswith("make: ***")


def test_a_broken_link_fails_the_building_of_the_site(ready):
    (ready / "mkdocs.yml").write_text("site_name: X\ndocs_dir: course\n")
    (ready / "course/01-x.md").write_text("# X\n\n[Next](02-x.md)\n")
    done = make("site", cwd=ready)
    assert done.returncode != 0
    assert "a link '02-x.md', but the target is not found" in done.stderr
    assert "Aborted with 1 warning" in done.stdout  # so it is this link that fails


def test_a_student_gets_copies_of_the_notebooks_that_are_never_written_over(ready):
    done = make("lab", cwd=ready)
    assert done.returncode == 0, done.stderr
    assert "jupyterlab --LabApp.default_url=/lab/tree/lab" in done.stdout
    copy = ready / "lab/01-x.ipynb"
    assert "A [Node](../course/glossary.md#node)." in copy.read_text()
    copy.write_text("mine")
    assert make("lab", cwd=ready).returncode == 0
    assert copy.read_text() == "mine"
