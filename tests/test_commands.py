"""What is said of the commands and the versions is so, and what is released is whole."""

import fnmatch
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import companion
from tests.cases import each
from tools.course import pages, repository

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *pages(ROOT / "course")]


# ---- what the pages say


def targets() -> dict[str, str]:
    """The targets of the Makefile and what help says of them."""
    return dict(re.findall(r"^([a-z]+):.*## (.*)$", (ROOT / "Makefile").read_text(), re.M))


def files_in(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def test_readme_begins_with_the_two_commands():
    first = re.search(r"```console\n(.*?)```", (ROOT / "README.md").read_text(), re.S)[1]
    assert [line.split("#")[0].strip() for line in first.splitlines()] == [
        "make serve",
        "make test",
    ]


@each("page", PAGES)
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
    code = [path.name for name in ("companion", "tests", "tools") for path in files_in(ROOT / name)]
    bare = re.findall(r"`(\w+\.(?:py|js|css))`", text)  # in a row whose first file has its folder
    assert "fitting.py" in bare and {*bare} <= {*code}


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


def test_ci_runs_the_test_command_of_the_readme():
    assert re.search(r"^make test$", (ROOT / ".ci/run").read_text(), re.M)


# ---- what is released


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
    files = files_in(tmp_path / "companion")
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


def test_mypy_and_editors_find_the_companion_from_another_folder(tmp_path):
    """They follow paths, and not the hooks for import of an editable install."""
    find = "import importlib.machinery as m; print(m.PathFinder.find_spec('companion').origin)"
    done = subprocess.run(
        [sys.executable, "-c", find], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.stdout.endswith("companion/__init__.py\n"), "make check installs it anew"


# ---- what the commands do


def make(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    ours = {"MAKEFLAGS", "MAKELEVEL", "MFLAGS", "PORT", "PYTHON", "TORCH"}  # of a make around this
    environment = {name: value for name, value in os.environ.items() if name not in ours}
    return subprocess.run(
        ["make", *arguments], cwd=cwd, env=environment, capture_output=True, text=True
    )


def test_what_make_makes_is_removed_by_clean_and_ignored_by_git():
    made = [".venv", "site", "build", "dist", "inside_autograd.egg-info", ".mypy_cache"]
    removed = re.search(r"^\trm -rf (.*)$", (ROOT / "Makefile").read_text(), re.M)[1].split()
    ignored = [line.strip("/") for line in (ROOT / ".gitignore").read_text().split()]
    for name in made:
        assert any(fnmatch.fnmatch(name, pattern) for pattern in removed), name
        assert any(fnmatch.fnmatch(name, pattern) for pattern in ignored), name


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
