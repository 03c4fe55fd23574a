"""A pytest plugin: a lesson runs as a notebook does, a test a snippet, one namespace for all.

Below a snippet stands what it produced: what it printed, or the error it raised on purpose, and
what it drew or recorded. The test makes that piece of the page anew and compares;
``--update-outputs`` writes it instead. Each page has one more test, ``format``, for what no snippet
would catch: a fence that nothing runs, an output, a picture or a player that nothing produced.
"""

from __future__ import annotations

import ast
import contextlib
import difflib
import io
import os
import sys
import traceback
import types
import warnings
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from pytest_codeblocks.main import extract_from_file
from pytest_codeblocks.plugin import MarkdownFile, TestBlock

from tools import grammar
from tools.page_format import problems


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-outputs",
        action="store_true",
        help="write what the snippets print, raise, draw and record into the lessons",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Iterator[Any]:
    collected = yield
    return [
        Lesson.from_parent(parent, path=file_path) if isinstance(node, MarkdownFile) else node
        for node in collected
    ]


TOO_DEEP = " while calling a Python object"  # which newer Pythons leave out of a RecursionError


class Lesson(MarkdownFile):
    """A Markdown page, with the namespace and the state of torch that its snippets share."""

    def collect(self) -> list[pytest.Item]:
        self.text = self.path.read_text(encoding="utf-8")
        self.namespace = types.ModuleType("__main__")
        self.state: dict[str, Any] | None = None
        if "matplotlib" in self.text:
            import tools.plots  # noqa: F401 so that the snippets find matplotlib as it sets it
        try:
            blocks = extract_from_file(self.path)
        except RuntimeError as error:
            raise self.CollectError(f"{self.path}: {error}") from None
        self.run = [b.lineno for b in blocks if b.syntax.partition(" ")[0] == "python"]
        self.snippets: list[Snippet] = [
            Snippet.from_parent(self, name=f"line-{part.line}", obj=part)
            for part in grammar.parse(self.text)
            if isinstance(part, grammar.Snippet) and part.line in self.run
        ]
        if self.config.option.update_outputs:
            return [*self.snippets]
        return [Format.from_parent(self, name="format"), *self.snippets]

    @property
    def figures(self) -> str:
        """The folder of the figures: beside the page, or beside the folder that the page is in."""
        above = self.path.parents[1] / "figures"
        is_above = above.exists() and not self.path.with_name("figures").exists()
        return "../figures" if is_above else "figures"

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The world as the lesson left it, so that lessons see nothing of each other."""
        outside, main = _state(), sys.modules["__main__"]
        if self.state is None:
            _forget_what_was_compiled()
        with warnings.catch_warnings():
            _set_state(self.state or {})
            sys.modules["__main__"] = self.namespace  # where pickle and dataclasses look
            try:
                yield
            finally:
                sys.modules["__main__"] = main
                self.state = _state()
                _set_state(outside)


class Ran(NamedTuple):
    """What a snippet did."""

    printed: str
    error: Exception | None
    value: Any


class Made(NamedTuple):
    """The file that shows a value which is a drawing or a player."""

    path: Path
    source: str
    link: str  # what the page has of it


class Snippet(TestBlock):  # type: ignore[misc]
    """The test of one ``python`` fence."""

    parent: Lesson
    obj: grammar.Snippet

    def runtest(self) -> None:
        self.check_what_it_needs()
        printed, error, value = self.ran
        self.check_error(error)
        if error is not None:
            printed += "".join(traceback.format_exception_only(error)).replace(TOO_DEEP, "")
        made = self.make(value)
        wanted = grammar.shown(printed, made.link if made else "")
        if self.config.option.update_outputs:
            files = [str(made.path), made.source] if made else None
            update = [str(self.path), self.parent.text, self.obj.fence.end, self.obj.end]
            self.user_properties.append(("lesson", [*update, wanted, files]))
        elif not self.obj.is_pinned or torch_is_pinned(self.config.rootpath):
            self.compare(wanted, made)

    def check_what_it_needs(self) -> None:
        for earlier in self.parent.snippets[: self.parent.snippets.index(self)]:
            if earlier.ran.error is not None and not earlier.obj.raises:
                pytest.fail(f"needs {earlier.nodeid}, which fails", pytrace=False)

    def check_error(self, error: Exception | None) -> None:
        """Raise an error that is not the one on purpose."""
        raises = self.obj.raises
        if error is None and raises:
            raise Differs(f"{self.where} was to raise {raises} and raised nothing")
        if error is not None and not (raises and type(error) is self.named(raises)):
            raise error

    def make(self, value: Any) -> Made | None:
        """The file for the value that the snippet ends with, if it ends with one."""
        if value is None:
            return None
        if hasattr(type(value), "_repr_svg_"):
            suffix, source = ".svg", value.svg
        elif hasattr(type(value), "_repr_html_") and hasattr(value, "fragment"):
            suffix, source = ".html", value.fragment
        else:
            raise Differs(
                f"{self.where} ends with a value of type {type(value).__name__}, which only a "
                "notebook would show; print it, or give it a name"
            )
        new = f"{self.parent.figures}/{self.path.stem.partition('-')[0]}-line-{self.obj.line}.svg"
        name = self.obj.figure.file if self.obj.figure else new
        file = Path(name).with_suffix(suffix).as_posix()
        # What a plot shows no program knows: the lesson says it.
        alt = value.alt or (self.obj.figure.alt if self.obj.figure else "")
        return Made(self.path.parent / file, source, grammar.figure(alt, file))

    def compare(self, wanted: str, made: Made | None) -> None:
        """Compare the page, and the file that it shows, with what ran."""
        line = self.obj.line
        _compare(self.path, self.obj.fence.end, line, self.obj.shown, wanted)
        if made is not None:
            old = made.path.read_text(encoding="utf-8") if made.path.exists() else ""
            _compare(made.path, 0, line, old, made.source)

    @cached_property
    def ran(self) -> Ran:
        """What the snippet prints, raises and returns. The ones before it have run."""
        value, caught = None, None
        with contextlib.redirect_stdout(io.StringIO()) as out, self.parent.running():
            try:
                value = self.shown(self.execute())
            except Exception as error:
                caught = error
        printed = out.getvalue()
        return Ran(printed if printed[-1:] in ("", "\n") else printed + "\n", caught, value)

    def execute(self) -> Any:
        """Run the code with the line numbers of the page; the value of a last expression."""
        names = vars(self.parent.namespace)
        tree = ast.parse("\n" * self.obj.line + self.obj.fence.code, str(self.path))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(self.path), "exec"), names)
        if last is None:
            return None
        return eval(compile(ast.Expression(last.value), str(self.path), "eval"), names)

    def shown(self, value: Any) -> Any:
        """The value as a page shows it: a figure of matplotlib as the SVG that it is now."""
        plots = sys.modules.get("tools.plots")
        if plots is None:
            return value
        if any(figure is not value for figure in plots.close_all()):
            raise Differs(
                f"{self.where} leaves a figure of pyplot open, which only a notebook would show; "
                "end with it, or close it with plt.close()"
            )
        return plots.Plot(plots.svg(value)) if isinstance(value, plots.Figure) else value

    def named(self, error: str) -> Any:
        """The class of this name, as the snippet would find it."""
        return eval(error, dict(vars(self.parent.namespace)))

    @property
    def where(self) -> str:
        return f"{self.path}:{self.obj.line}: this snippet"

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.obj.line - 1, self.name

    def _traceback_filter(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        return excinfo.traceback.filter(lambda entry: entry.path == self.path) or excinfo.traceback

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        if isinstance(excinfo.value, Differs):
            return str(excinfo.value)
        return pytest.Item.repr_failure(self, excinfo, style="short")


class Differs(AssertionError):
    """The page does not show what a snippet did."""


def _compare(path: Path, above: int, line: int, shown: str, wanted: str) -> None:
    """Raise ``Differs`` with the first line of ``path`` that is not what the snippet did.

    ``shown`` stands in ``path`` below its first ``above`` lines.
    """
    if shown == wanted:
        return
    old, new = shown.splitlines(), wanted.splitlines()
    same = len(os.path.commonprefix([old, new]))
    diff = difflib.unified_diff(old, new, "as it stands", "as it ran", lineterm="", n=1)
    message = f"{path}:{above + same + 1}: is not what the snippet on line {line} did"
    advice = "make update writes what ran; look at the change with git diff"
    raise Differs("\n".join([message, *diff, advice]))


class Format(pytest.Item):
    """The test of a page for what no snippet would catch."""

    parent: Lesson

    def runtest(self) -> None:
        faults = problems(self.parent.text, self.parent.run)
        if messages := [f"{self.path}:{line}: {what}" for line, what in faults]:
            pytest.fail("\n".join(messages), pytrace=False)

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name


def torch_is_pinned(root: Path) -> bool:
    """Whether the torch that runs is the one whose outputs the lessons show."""
    import torch

    version = torch.__version__.partition("+")[0]
    return f"torch=={version}" in (root / "constraints.txt").read_text().splitlines()


def _state() -> dict[str, Any]:
    import torch

    plots = sys.modules.get("tools.plots")
    return {
        "plots": plots.settings() if plots else None,
        "rng": torch.get_rng_state(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "warn_always": torch.is_warn_always_enabled(),
        "filters": list(warnings.filters),
    }


def _forget_what_was_compiled() -> None:
    """Or what other pages compiled counts against a limit, after which nothing is compiled."""
    if "torch._dynamo" in sys.modules:
        import torch

        torch.compiler.reset()


def _set_state(state: dict[str, Any]) -> None:
    """Make the world what it was; of an empty state what it is for a new lesson.

    That has nothing of an earlier one: matplotlib as tools.plots sets it, seed 0, float32, and the
    filters that pyproject.toml sets, which make each warning an error.
    """
    import torch

    if plots := sys.modules.get("tools.plots"):
        plots.set_settings(state.get("plots"))
    torch.set_rng_state(state["rng"]) if "rng" in state else torch.manual_seed(0)
    torch.set_default_dtype(state.get("dtype", torch.float32))
    torch.set_grad_enabled(state.get("grad", True))
    torch.set_warn_always(state.get("warn_always", True))
    if "filters" in state:
        warnings.resetwarnings()
        warnings.filters.extend(state["filters"])  # type: ignore[attr-defined]


def pytest_configure(config: pytest.Config) -> None:
    if config.option.update_outputs and not hasattr(config, "workerinput"):
        config.pluginmanager.register(Writer())


class Writer:
    """Writes what the snippets did into the pages, when all of them have run.

    Only then, so that no line moves under a snippet that still runs; and only in the process that
    sees every report, so that the workers of pytest-xdist do not write over each other.
    """

    def __init__(self) -> None:
        self.updates: list[Any] = []
        self.messages: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.updates += [value for key, value in report.user_properties if key == "lesson"]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for page in sorted({path for path, *_ in self.updates}):
            updates = [update for path, *update in self.updates if path == page]
            ran, old = updates[0][0], Path(page).read_text(encoding="utf-8")
            if old != ran:
                self.messages.append(
                    f"{page} changed while it ran and was left alone; run this again"
                )
                session.exitstatus = pytest.ExitCode.TESTS_FAILED
                continue
            lines = old.splitlines(keepends=True)
            for _, first, end, wanted, made in sorted(updates, key=lambda u: u[1], reverse=True):
                lines[first:end] = [wanted]
                if made is not None:
                    self.write(*made)
            self.write(page, "".join(lines))

    def write(self, path: str, text: str) -> None:
        file = Path(path)
        if not file.exists() or file.read_text(encoding="utf-8") != text:
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, encoding="utf-8")
            self.messages.append(f"wrote {path}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in self.messages or ["every lesson shows what its snippets did; nothing to write"]:
            terminalreporter.write_line(line)
