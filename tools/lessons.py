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
import re
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

EXPECTED = "<!--pytest-codeblocks:expected-output-->"
RAISES = re.compile(r"<!--pytest\.mark\.xfail\(raises=([\w.]+)\)-->")
PINNED = "<!--pytest.mark.pinned_torch-->"  # what stands below holds for one version of torch
FENCE = re.compile(r"(`{3,}|~{3,})(.*)")
KINDS = re.compile(r'(python|py|console|text)(?: (?:title|hl_lines|linenums)="[^"`]*")*')
ALLOWED = "use python (runs), py or console (shown), with title, hl_lines or linenums"
# A drawing is shown as an image, a player as a link. Either is found in place of the other too.
FIGURE = re.compile(r"!?\[.*\]\(([\w./-]*figures/[\w./-]+\.(?:svg|html))\)")
# Whatever leads to a player: a link, a link's address below the text, HTML.
PLAYER = re.compile(r"""(?:\]\(|\]:|href=)[\s<"']*((?:[\w.-]+/)*figures/[\w./-]+\.html)""")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--update-outputs",
        action="store_true",
        help="write what the snippets print, raise, draw and record into the lessons",
    )


@pytest.hookimpl(wrapper=True)
def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> Iterator[Any]:
    found = yield
    return [
        Lesson.from_parent(parent, path=file_path) if isinstance(node, MarkdownFile) else node
        for node in found
    ]


class Lesson(MarkdownFile):
    """A Markdown page, with the namespace and the state of torch that its snippets share."""

    def collect(self) -> list[pytest.Item]:
        self.text = self.path.read_text(encoding="utf-8")
        self.namespace = types.ModuleType("__main__")
        self.state: dict[str, Any] | None = None
        self.snippets: list[Snippet] = []
        try:
            blocks = extract_from_file(self.path)
        except RuntimeError as error:
            raise self.CollectError(f"{self.path}: {error}") from None
        for block in blocks:
            if block.syntax.partition(" ")[0] == "python":
                name = f"line-{block.lineno}"
                self.snippets.append(Snippet.from_parent(self, name=name, obj=block))
        if self.config.option.update_outputs:
            return [*self.snippets]
        return [Format.from_parent(self, name="format"), *self.snippets]

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """The world as the lesson left it, so that lessons see nothing of each other."""
        outside, main = _state(), sys.modules["__main__"]
        with warnings.catch_warnings():
            _set_state(self.state or _NEW)
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


class Figure(NamedTuple):
    """What a page shows of a value that is a drawing or a player."""

    mark: str  # before the brackets: a drawing is an image, a player is a link
    suffix: str
    source: str  # of the file

    @classmethod
    def of(cls, value: Any) -> Figure | None:
        """The figure that a value is. A value that is neither is none."""
        if hasattr(type(value), "_repr_svg_"):
            return cls("!", ".svg", value.svg)
        if hasattr(type(value), "_repr_html_") and hasattr(value, "fragment"):
            return cls("", ".html", value.fragment)
        return None


class Snippet(TestBlock):  # type: ignore[misc]
    """One ``python`` fence."""

    parent: Lesson

    def runtest(self) -> None:
        for earlier in self.parent.snippets[: self.parent.snippets.index(self)]:
            if earlier.ran.error is not None and earlier.raises is None:
                pytest.fail(f"needs {earlier.nodeid}, which fails", pytrace=False)
        printed, error, value = self.ran
        if error is not None and (self.raises is None or type(error) is not self.expected_error):
            raise error
        if error is None and self.raises is not None:
            raise Differs(f"{self.where} was to raise {self.raises} and raised nothing")
        if error is not None:
            printed += "".join(traceback.format_exception_only(error))
        figure = Figure.of(value)
        if value is not None and figure is None:
            raise Differs(
                f"{self.where} ends with a value of type {type(value).__name__}, which only a "
                "notebook would show; print it, or give it a name"
            )
        below = Below(self.parent.text, self.obj.lineno)
        shows, made = "", None
        if figure is not None:
            name = Path(below.figure or self.new_figure()).with_suffix(figure.suffix).as_posix()
            shows = f"{figure.mark}[{_escape(value.alt)}]({name})"
            made = str(self.path.parent / name), figure.source
        wanted = _render(printed, shows)
        if self.config.option.update_outputs:
            update = [str(self.path), self.parent.text, below.first, below.end, wanted, made]
            self.user_properties.append(("lesson", update))
            return
        if PINNED in self.marks and not torch_is_pinned(self.config.rootpath):
            return
        _compare(self.path, below.first, self.obj.lineno, below.shown, wanted)
        if made is not None:
            file = Path(made[0])
            old = file.read_text(encoding="utf-8") if file.exists() else ""
            _compare(file, 0, self.obj.lineno, old, made[1])

    @cached_property
    def ran(self) -> Ran:
        """What the snippet prints, raises and returns. The ones before it have run."""
        value, caught = None, None
        with contextlib.redirect_stdout(io.StringIO()) as out, self.parent.running():
            try:
                value = self.execute()
            except Exception as error:
                caught = error
        printed = out.getvalue()
        return Ran(printed if printed[-1:] in ("", "\n") else printed + "\n", caught, value)

    def execute(self) -> Any:
        """Run the code with the line numbers of the page; the value of a last expression."""
        names = vars(self.parent.namespace)
        tree = ast.parse("\n" * self.obj.lineno + self.obj.code, str(self.path))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, str(self.path), "exec"), names)
        if last is None:
            return None
        return eval(compile(ast.Expression(last.value), str(self.path), "eval"), names)

    @property
    def raises(self) -> str | None:
        """The name of the exception that the snippet is to raise."""
        found = [RAISES.fullmatch(mark) for mark in self.marks]
        return next((mark[1] for mark in found if mark), None)

    @property
    def marks(self) -> list[str]:
        """The comments above the fence, as they stand in the page."""
        return [f"<!--{mark}-->" for mark in self.obj.marks]

    @property
    def expected_error(self) -> Any:
        return eval(self.raises or "None", dict(vars(self.parent.namespace)))

    @property
    def where(self) -> str:
        return f"{self.path}:{self.obj.lineno}: this snippet"

    def new_figure(self) -> str:
        """A name for what a snippet draws or records, where the page has none for it yet."""
        return f"figures/{self.path.stem.partition('-')[0]}-line-{self.obj.lineno}.svg"

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, self.obj.lineno - 1, self.name

    def _traceback_filter(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        return excinfo.traceback.filter(lambda entry: entry.path == self.path) or excinfo.traceback

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        if isinstance(excinfo.value, Differs):
            return str(excinfo.value)
        return pytest.Item.repr_failure(self, excinfo, style="short")


class Differs(AssertionError):
    """The page does not show what a snippet did."""


def _compare(path: Path, above: int, lineno: int, shown: str, wanted: str) -> None:
    """Raise ``Differs`` with the first line of ``path`` that is not what the snippet did.

    ``shown`` stands in ``path`` below its first ``above`` lines.
    """
    if shown == wanted:
        return
    old, new = shown.splitlines(), wanted.splitlines()
    same = len(os.path.commonprefix([old, new]))
    diff = difflib.unified_diff(old, new, "as it stands", "as it ran", lineterm="", n=1)
    told = f"{path}:{above + same + 1}: is not what the snippet on line {lineno} did"
    advice = "make update writes what ran; look at the change with git diff"
    raise Differs("\n".join([told, *diff, advice]))


class Below:
    """The lines of a page that show what the snippet above them did.

    Attributes:
        first, end: they are ``lines[first:end]``.
        shown: their text.
        figure: the file of the drawing or player they show, if any.
    """

    def __init__(self, text: str, lineno: int) -> None:
        lines = text.splitlines(keepends=True)
        self.first = self.end = _closing(lines, lineno - 1) + 1
        self.figure: str | None = None
        place = _skip_blank(lines, self.end)
        if place < len(lines) and lines[place].strip() == EXPECTED:
            place = _skip_blank(lines, place + 1)
            if place < len(lines) and FENCE.match(lines[place]):
                self.end = _closing(lines, place) + 1
        place = _skip_blank(lines, self.end)
        if place < len(lines) and (figure := FIGURE.fullmatch(lines[place].strip())):
            self.end, self.figure = place + 1, figure[1]
        self.shown = "".join(lines[self.first : self.end])


def _render(printed: str, figure: str) -> str:
    """What stands below a snippet that printed this and shows this figure."""
    text = ""
    if printed:
        fence = max(["```", *(ticks + "`" for ticks in re.findall("`{3,}", printed))], key=len)
        text += f"\n{EXPECTED}\n\n{fence}text\n{printed}{fence}\n"
    return text + (f"\n{figure}\n" if figure else "")


def _escape(alt: str) -> str:
    return re.sub(r"([\\`*_\[\]])", r"\\\1", alt).replace("&", "&amp;").replace("<", "&lt;")


def _closing(lines: list[str], opening: int) -> int:
    """The line that closes the fence which ``lines[opening]`` opens."""
    ticks = FENCE.match(lines[opening])[1]  # type: ignore[index]
    return next(n for n in range(opening + 1, len(lines)) if lines[n].startswith(ticks))


def _skip_blank(lines: list[str], place: int) -> int:
    while place < len(lines) and not lines[place].strip():
        place += 1
    return place


class Format(pytest.Item):
    """The test of a page for what no snippet would catch."""

    parent: Lesson

    def runtest(self) -> None:
        run = [snippet.obj.lineno for snippet in self.parent.snippets]
        found = [f"{self.path}:{line}: {what}" for line, what in problems(self.parent.text, run)]
        if found:
            raise Misformed("\n".join(found))

    def reportinfo(self) -> tuple[Path, int, str]:
        return self.path, 0, self.name

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException]) -> Any:
        if isinstance(excinfo.value, Misformed):
            return str(excinfo.value)
        return super().repr_failure(excinfo)


class Misformed(AssertionError):
    """A page has something that nothing would test."""


def problems(text: str, run: list[int]) -> Iterator[tuple[int, str]]:
    """What is wrong with a page in which the fences on the lines ``run`` are run: (line, what)."""
    lines = text.splitlines(keepends=True)
    produced = [Below(text, lineno) for lineno in run]
    shown = {n for below in produced for n in range(below.first, below.end)}
    place = _after_front_matter(lines)
    while place < len(lines):
        line, lineno = lines[place].strip("\n"), place + 1
        if fence := FENCE.match(line):
            kind = KINDS.fullmatch(fence[2])
            if kind is None or fence[1][0] == "~":
                yield lineno, f"a fence that nothing runs, {line}; {ALLOWED}"
            elif kind[1] == "python" and lineno not in run:
                yield lineno, "a python fence that pytest-codeblocks does not run"
            elif kind[1] == "text" and place not in shown:
                yield (
                    lineno,
                    f"an output that no snippet produced; it stands below one and {EXPECTED}",
                )
            place = _closing(lines, place)
        elif re.match(r"[\s>*+-]*(`{3,}|~{3,})", line):
            yield lineno, f"a fence that is not at the margin: {line.strip()}"
        elif line.strip() == EXPECTED:
            if place not in shown:
                yield lineno, "an output that no snippet produced"
        elif RAISES.fullmatch(line.strip()) or line.strip() == PINNED:
            below = _skip_blank(lines, place + 1)
            while below < len(lines) and lines[below].startswith("<!--pytest.mark."):
                below = _skip_blank(lines, below + 1)
            if below + 1 not in run:
                yield lineno, "a mark without a python fence right below it"
        elif "<!--" in line:
            yield lineno, f"a comment that means nothing here: {line.strip()}"
        elif re.search(r"<(img|svg|iframe|picture|pre|script)\b", line):
            yield lineno, "HTML that nothing tests; a snippet draws it and ![...](...) shows it"
        images = re.findall(r"!\[(.*?)\]\((.*?)\)", line)
        if line.count("![") > len(images):
            yield lineno, "an image that is not written as ![alternative text](file)"
        for alt, target in images:
            if not alt.strip():
                yield lineno, f"the image {target} has no alternative text"
            if place not in shown:
                yield lineno, f"the image {target} is not below a snippet that draws it"
        for target in PLAYER.findall(line):
            if place not in shown:
                yield lineno, f"the player {target} is not below a snippet that makes it"
            elif place + 1 < len(lines) and re.match(r"(?!///)\s*\S", lines[place + 1]):
                yield lineno, f"the player {target} does not stand in a paragraph of its own"
        place += 1


def torch_is_pinned(root: Path) -> bool:
    """Whether the torch that runs is the one whose outputs the lessons show."""
    import torch

    version = torch.__version__.partition("+")[0]
    return f"torch=={version}" in (root / "constraints.txt").read_text().splitlines()


def _after_front_matter(lines: list[str]) -> int:
    if lines and lines[0] == "---\n" and "---\n" in lines[1:]:
        return lines.index("---\n", 1) + 1
    return 0


def _state() -> dict[str, Any]:
    import torch

    return {
        "rng": torch.get_rng_state(),
        "dtype": torch.get_default_dtype(),
        "grad": torch.is_grad_enabled(),
        "warn_always": torch.is_warn_always_enabled(),
        "filters": list(warnings.filters),
    }


def _set_state(state: dict[str, Any]) -> None:
    import torch

    torch.manual_seed(0) if state["rng"] is None else torch.set_rng_state(state["rng"])
    torch.set_default_dtype(state["dtype"] or torch.float32)
    torch.set_grad_enabled(state["grad"])
    torch.set_warn_always(state["warn_always"])
    if state["filters"] is not None:
        warnings.resetwarnings()
        warnings.filters.extend(state["filters"])  # type: ignore[attr-defined]


# A new lesson: seed 0, float32, gradients on, every warning told each time it comes, and the
# filters that pyproject.toml sets, which make it an error.
_NEW = {"rng": None, "dtype": None, "grad": True, "warn_always": True, "filters": None}


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
        self.told: list[str] = []

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "call":
            self.updates += [value for key, value in report.user_properties if key == "lesson"]

    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        for page in sorted({path for path, *_ in self.updates}):
            updates = [update for path, *update in self.updates if path == page]
            ran, old = updates[0][0], Path(page).read_text(encoding="utf-8")
            if old != ran:
                self.told.append(f"{page} changed while it ran and was left alone; run this again")
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
            self.told.append(f"wrote {path}")

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        for line in self.told or ["every lesson shows what its snippets did; nothing to write"]:
            terminalreporter.write_line(line)
