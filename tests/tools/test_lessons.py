"""Tests for tools.lessons: what runs, what is compared, what is written, what is refused.

Small lessons run in a pytest inside this one, with the settings of ``make test``.
"""

import re
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch

from companion import draw

pytest_plugins = ["pytester"]

ROOT = Path(__file__).parents[2]
OUT = "<!--pytest-codeblocks:expected-output-->"
DRAWS = """\
```python
import torch
from companion import draw
x = torch.ones(2, requires_grad=True)
draw(x * 2)
```
"""
RECORDS = """\
```python
class Player:
    alt = "One <step>."
    fragment = '<figure class="player">\\n<p>Step 1</p>\\n</figure>\\n'
    def _repr_html_(self):
        return "<iframe></iframe>"
Player()
```
"""
# Those that lessons need. To look for all that are installed takes as long as a small lesson.
PLUGINS = ["-p", "codeblocks", "-p", "xdist"]
FRAGMENT = '<figure class="player">\n<p>Step 1</p>\n</figure>\n'
PLAYER = r"[One &lt;step>.](figures/01-step.html)"


@pytest.fixture(scope="module", autouse=True)
def loaded():
    """What lessons import, so that it is not loaded anew in each run."""
    import tools.plots  # noqa: F401

    return draw(torch.ones(1, requires_grad=True)).svg


class Torch:
    """Keeps the modules of torch that a run loaded, which cannot be loaded a second time."""

    def __init__(self) -> None:
        self.modules: dict[str, ModuleType] = {}

    def pytest_unconfigure(self) -> None:
        loaded = {name: module for name, module in sys.modules.items() if name[:5] == "torch"}
        self.modules |= loaded


@pytest.fixture
def kept():
    kept = Torch()
    yield kept
    sys.modules.update(kept.modules)


@pytest.fixture
def run(kept, pytester, monkeypatch):
    """Write lessons, run pytest over them, and return what it said."""
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    for name in ("pyproject.toml", "constraints.txt"):
        shutil.copy(ROOT / name, pytester.path)

    def run(*arguments: str, exit: int = 0, own_process: bool = False, **lessons: str) -> str:
        for name, text in lessons.items():
            (pytester.path / f"{name}.md").write_text(text)
        pages = [] if any(".md" in a for a in arguments) else [f"{name}.md" for name in lessons]
        options = ["-q", *PLUGINS]
        # A second faulthandler would take the place of the handler by which Graphviz' runtime
        # notices that a graph is too deep, and the process would end there.
        quiet = ["-p", "no:faulthandler"]
        command = [*quiet, *options, *arguments, *pages]
        if own_process:
            result = pytester.runpytest_subprocess(*command)
        else:
            result = pytester.runpytest_inprocess(*command, plugins=[kept])
            sys.modules.update(kept.modules)
        assert result.ret == exit
        return result.stdout.str()

    return run


def python(code: str) -> str:
    return f"```python\n{code}\n```\n"


def prints(code: str, output: str) -> str:
    return f"{python(code)}\n{OUT}\n\n```text\n{output}\n```\n"


def raises(error: str, code: str, output: str) -> str:
    return f"<!--pytest.mark.xfail(raises={error})-->\n\n{prints(code, output)}"


# ---- what runs


def test_each_snippet_is_a_test_and_the_page_has_one_for_its_form(run):
    said = run("--collect-only", a=f"# A\n\n{python('x = 1')}\n{python('assert x == 1')}")
    assert re.findall(r"a\.md::(\S+)", said) == ["format", "line-3", "line-7"]


def test_a_single_snippet_runs_alone_with_what_it_needs(run):
    text = f"{python('x = [1]')}\n{python('x.append(2)')}\n{python('assert x == [1, 2]')}"
    assert "1 passed" in run("a.md::line-9", a=text)


def test_each_snippet_runs_once_in_any_order(run):
    text = prints("n = 1\nprint(n)", "1") + "\n" + prints("n += 1\nprint(n)", "2")
    assert "2 passed" in run("a.md::line-12", "a.md::line-1", a=text)


def test_lessons_see_nothing_of_each_others_names(run):
    said = run(a=python("secret = 1"), b=python("print(secret)"), exit=1)
    assert "NameError: name 'secret' is not defined" in said


@pytest.mark.filterwarnings("ignore")
def test_what_one_lesson_compiled_takes_nothing_from_the_next(run):
    compiled = """\
import torch
x, compiled = torch.tensor(0.5), []
def backend(graph, inputs):
    compiled.append(graph)
    return graph
for f in FUNCTIONS:
    y = torch.compile(f, backend=backend)(x)
print(len(compiled))"""

    def lesson(functions: str) -> str:
        return prints(compiled.replace("FUNCTIONS", functions), "5")

    # More in all than the eight that torch compiles of one code.
    some, others = "torch.sin, torch.cos, torch.exp, torch.tanh", "torch.sqrt, torch.abs, torch.neg"
    a, b = lesson(some + ", torch.log"), lesson(others + ", torch.relu, torch.sigmoid")
    run(a=a, b=b)


def test_lessons_see_nothing_of_each_others_state(run):
    changes = """\
import warnings
import torch
torch.manual_seed(7)
torch.set_default_dtype(torch.float64)
torch.set_grad_enabled(False)
torch.set_warn_always(False)
warnings.simplefilter("ignore")"""
    looks = """\
import warnings
import torch
print(torch.equal(torch.rand(3), torch.rand(3, generator=torch.Generator().manual_seed(SEED))))
print(torch.get_default_dtype(), torch.is_grad_enabled(), torch.is_warn_always_enabled())
try:
    print(warnings.warn("a warning", stacklevel=1))
except UserWarning as warning:
    print(warning)
"""
    own = looks.replace("SEED", "7")
    a = python(changes) + "\n" + prints(own, "True\ntorch.float64 False False\nNone")
    b = prints(looks.replace("SEED", "0"), "True\ntorch.float32 True True\na warning")
    run(a=a, b=b)
    run("a.md::line-1", "b.md", "a.md::line-11")  # its own state comes back to a lesson
    assert torch.get_default_dtype() == torch.float32 and torch.is_grad_enabled()


def test_what_a_lesson_defines_can_be_pickled_and_its_source_read(run):
    run(
        a=python(
            "import inspect\nimport pickle\nclass A:\n    pass\n"
            "assert isinstance(pickle.loads(pickle.dumps(A())), A)\n"
            "f = lambda: 7\n"
            "assert inspect.getsource(f) == 'f = lambda: 7\\n'"
        )
    )


def test_a_traceback_points_at_the_line_of_the_page(run):
    said = run(
        a=f"# A\n\ntext\n\n{python('def f():' + chr(10) + '    1 / 0')}\n{python('f()')}", exit=1
    )
    assert "a.md:7: in f" in said and "    1 / 0" in said
    assert "a.md:11: in <module>" in said
    assert "ZeroDivisionError" in said
    assert "site-packages" not in said and "tools/lessons.py" not in said


def test_what_comes_after_a_failure_says_what_it_needs(run):
    said = run(a=f"{python('1 / 0')}\n{python('x = 1')}", exit=1)
    assert "needs a.md::line-1, which fails" in said
    assert said.count("ZeroDivisionError") == 2  # once in the traceback, once in the summary


# ---- what is compared


def test_an_output_that_is_right_passes(run):
    run(a=prints("print(1)\nprint('a', end='')", "1\na"))


@pytest.mark.parametrize(
    ("text", "line"),
    [
        pytest.param(prints("print(1)\nprint(2)", "1\n3"), 10, id="a wrong line"),
        pytest.param(prints("print(1)", "1\n2"), 9, id="a line too many"),
        pytest.param(prints("print(1)\nprint(2)", "1"), 10, id="a line missing"),
        pytest.param(prints("print(1)", "1 "), 8, id="a blank too many"),
        pytest.param(python("print(1)"), 4, id="no output"),
        pytest.param(prints("x = 1", "1"), 4, id="an output of a snippet that prints nothing"),
        pytest.param(raises("ValueError", "int('x')", "ValueError: x"), 10, id="another message"),
        pytest.param(DRAWS, 7, id="no image"),
        pytest.param(f"{DRAWS}\n[a](figures/x.svg)\n", 8, id="a link for a drawing"),
        pytest.param(RECORDS, 9, id="no link to the player"),
        pytest.param(f"{RECORDS}\n!{PLAYER}\n", 10, id="an image for a player"),
        pytest.param(f"{RECORDS}\n{PLAYER[:-5]}svg)\n", 10, id="a drawing's file for a player"),
        pytest.param(f"{RECORDS}\n{PLAYER.replace('One', 'Two')}\n", 10, id="another text"),
        pytest.param(f"{RECORDS}\n{PLAYER} and\n", 9, id="a link in a sentence"),
        pytest.param(f"{python('x = 1')}\n{PLAYER}\n", 4, id="a player of nothing"),
        pytest.param(prints("print('`' * 3)", "x"), 7, id="ticks in the output"),
    ],
)
def test_an_output_that_is_not_what_ran_fails_and_names_its_line(run, text, line):
    said = run(a=text, exit=1)
    assert re.search(rf"a\.md:{line}: is not what the snippet on line \d did", said), said


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (raises("ValueError", "[][1]", "IndexError: list index out of range"), "IndexError"),
        (raises("Exception", "raise ValueError(1)", "ValueError: 1"), "ValueError: 1"),
        (raises("ValueError", "print(1)", "1"), "was to raise ValueError and raised nothing"),
        (python("1 / 0"), "ZeroDivisionError"),
        (python("1 + 1"), "ends with a value of type int.*print it"),
        (RECORDS.replace("fragment", "page"), "ends with a value of type Player.*print it"),
    ],
)
def test_an_error_of_another_type_and_a_bare_value_fail(run, text, reason):
    assert re.search(reason, run(a=text, exit=1))


def test_an_error_on_purpose_is_compared_with_what_was_printed_before_it(run):
    code = "print('before')\nraise ValueError('a\\nb')"
    run(a=raises("ValueError", code, "before\nValueError: a\nb"))


def test_an_error_class_of_the_lesson_itself_can_be_expected(run):
    own = python("class Mine(Exception):\n    pass")
    run(a=own + "\n" + raises("Mine", "raise Mine('x')", "Mine: x"))


def test_only_a_marked_output_may_differ_on_another_torch(run, pytester):
    marked = f"<!--pytest.mark.pinned_torch-->\n\n{prints('print(1)', '2')}"
    constraints = pytester.path / "constraints.txt"
    constraints.write_text(f"torch=={torch.__version__.partition('+')[0]}\n")
    run(a=marked, exit=1)
    constraints.write_text("torch==0.1\n")
    run(a=marked)
    run(a=marked.replace("print(1)", "1 / 0"), exit=1)
    error = "<!--pytest.mark.pinned_torch-->\n\n" + raises("ValueError", "raise ValueError(1)", "2")
    run(a=error)
    run(a=error.replace("raise ValueError(1)", "print(1)"), exit=1)
    run(a=prints("print(1)", "2"), exit=1)


def test_a_player_is_compared_with_its_link_and_its_file(run, pytester):
    file = pytester.path / "figures/01-step.html"
    file.parent.mkdir()
    file.write_text(FRAGMENT)
    text = f"{RECORDS}\n{PLAYER}\n"
    run(a=text)
    file.write_text(FRAGMENT.replace("Step 1", "Step 2"))
    said = run("a.md", exit=1)
    assert "01-step.html:2: is not what the snippet on line 1 did" in said
    file.unlink()
    assert "01-step.html:1: is not what the snippet on line 1 did" in run("a.md", exit=1)


def test_what_is_both_is_a_drawing(run):
    both = RECORDS.replace("_repr_html_", "_repr_svg_").replace("fragment", "svg")
    both = both.replace("    alt", "    fragment = _repr_html_ = None\n    alt")
    run("--update-outputs", a=both)
    assert "figures/a-line-1.svg" in Path("a.md").read_text()


def test_a_new_figure_of_a_page_in_a_folder_goes_where_the_others_are(run, pytester):
    pages, figures = pytester.path / "kind", pytester.path / "figures"
    pages.mkdir()
    (pages / "a.md").write_text(RECORDS)
    figures.mkdir()
    run("--update-outputs", "kind/a.md")
    assert "(../figures/a-line-1.html)" in (pages / "a.md").read_text()
    assert [figure.name for figure in figures.iterdir()] == ["a-line-1.html"]
    run("kind/a.md")


# ---- plots

PLOTS = """\
```python
from matplotlib.figure import Figure
figure = Figure(figsize=(2, 1))
axes = figure.subplots()
axes.plot([0, 1, 2], [0.0, 1.0, 4.0])
figure
```
"""
PLOT = "![A \\[rising\\] curve.](figures/01-curve.svg)"


def test_a_plot_is_written_and_compared_and_its_text_alternative_is_the_lessons_own(run, pytester):
    text = f"{PLOTS}\n{PLOT}\n"
    run("--update-outputs", a=text)
    assert (pytester.path / "a.md").read_text() == text
    run("a.md")
    file = pytester.path / "figures/01-curve.svg"
    drawn = file.read_text()
    assert drawn.startswith("<svg ")
    file.write_text(drawn.replace("<path d=", "<path  d=", 1))
    said = run("a.md", exit=1)
    assert re.search(r"01-curve\.svg:\d+: is not what the snippet on line 1 did", said)
    run(a=text.replace("4.0", "4.5"), exit=1)
    run("--update-outputs", "a.md")
    assert file.read_text() != drawn


def test_a_plot_without_a_text_alternative_is_refused(run, pytester):
    run("--update-outputs", a=PLOTS)
    image = "![](figures/a-line-1.svg)"
    assert image in (pytester.path / "a.md").read_text()
    said = run("a.md", exit=1)
    message = "has no alternative text; write what it shows between the brackets"
    assert f"a.md:9: the image figures/a-line-1.svg {message}" in said
    run(a=(pytester.path / "a.md").read_text().replace("![]", "![A rising curve.]"))


@pytest.mark.parametrize("end", ["", "\nplt.show()", "\nplt.figure()"])
def test_a_figure_that_only_a_notebook_would_show_is_refused(run, end):
    text = python(f"from matplotlib import pyplot as plt\nplt.figure(){end}\nx = 1")
    assert "a.md:1: this snippet leaves a figure of pyplot open" in run(a=text, exit=1)


def test_no_figure_and_no_setting_of_matplotlib_is_left_to_others(run):
    draws = "import matplotlib\nfrom matplotlib import pyplot as plt\n"
    one = python(draws + "plt.rcParams['lines.linewidth'] = 7\nplt.figure()\n1 / 0").replace(
        "```python", "<!--pytest.mark.xfail(raises=ZeroDivisionError)-->\n\n```python"
    )
    looks = draws + "print(plt.get_fignums(), plt.rcParams['lines.linewidth'])"
    a = f"{one}\n{OUT}\n\n```text\nZeroDivisionError: division by zero\n```\n"
    run(a=f"{a}\n{prints(looks, '[] 7.0')}", b=prints(looks, "[] 1.5"))


def test_a_plot_is_what_it_was_when_its_snippet_ended(run, pytester):
    later = python("axes.plot([2, 0])")[:-4] + "axes = None\n```\n"
    run("--update-outputs", a=f"{PLOTS}\n{PLOT}\n")
    drawn = (pytester.path / "figures/01-curve.svg").read_text()
    text = f"{PLOTS}\n{PLOT}\n\n{later}"
    run("a.md::line-11", "a.md::line-1", a=text)
    assert (pytester.path / "figures/01-curve.svg").read_text() == drawn


# ---- one character of the real pages


@pytest.mark.parametrize(
    ("kind", "lesson"), [("output", "index"), ("error", "01-nodes"), ("figure", "00-first-look")]
)
def test_one_changed_character_of_the_course_fails_and_names_its_line(run, pytester, kind, lesson):
    shutil.copytree(ROOT / "course/figures", pytester.path / "figures")
    page = pytester.path / f"{lesson}.md"
    shutil.copy(ROOT / "course" / page.name, page)
    lines = page.read_text().splitlines()
    if kind == "figure":
        image = next(n for n, line in enumerate(lines) if line.startswith("!["))
        file = re.search(r"\]\((.*)\)", lines[image])[1]
        target, snippet = pytester.path / file, image
        lines = target.read_text().splitlines()
        changed = next(n for n, line in enumerate(lines) if "MulBackward0</text>" in line)
    else:
        mark = "mark.xfail" if kind == "error" else OUT
        snippet = next(n for n, line in enumerate(lines) if mark in line)
        changed = next(n for n in range(snippet, len(lines)) if lines[n] == "```text") + 1
        target = page
    fences = [n for n, line in enumerate(page.read_text().splitlines()) if line == "```python"]
    first = min if kind == "error" else max
    fence = first(n for n in fences if (n > snippet) == (kind == "error")) + 1
    test = f"{page.name}::line-{fence}"
    run(test)
    wrong = lines[changed].replace("Backward", "Bockward")
    lines[changed] = wrong if kind == "figure" else lines[changed][:-1] + "?"
    target.write_text("\n".join(lines) + "\n")
    assert f"{target.name}:{changed + 1}: is not what the snippet on line {fence} did" in run(
        test, exit=1
    )


# ---- what make update writes

FRESH = f"""\
# A lesson

{python("print('one')")}
Text.

<!--pytest.mark.xfail(raises=ValueError)-->

{python("int('x')")}
{python("print('`' * 3)")}
{DRAWS}
{RECORDS}
{prints("x = 1", "nobody printed this")}
The end, without a newline."""


def test_update_writes_every_kind_of_output_and_the_result_passes(run, pytester):
    said = run("--update-outputs", a=FRESH)
    assert "wrote" in said and "a.md" in said
    text = (pytester.path / "a.md").read_text()
    assert prints("print('one')", "one") in text
    assert prints("int('x')", "ValueError: invalid literal for int() with base 10: 'x'") in text
    assert f"{OUT}\n\n````text\n```\n````\n" in text
    assert re.search(
        r"^!\[Backward graph with 2 nodes\..*\]\(figures/a-line-\d+\.svg\)$", text, re.M
    )
    link = re.search(r"^\[One &lt;step>\.\]\((figures/a-line-\d+\.html)\)$", text, re.M)
    assert (pytester.path / link[1]).read_text() == FRAGMENT
    assert "nobody printed this" not in text
    assert text.endswith("The end, without a newline.")
    assert len(list((pytester.path / "figures").iterdir())) == 2
    run("a.md")


def test_update_twice_changes_nothing_and_says_so(run, pytester):
    run("--update-outputs", a=FRESH)
    files = [pytester.path / "a.md", *(pytester.path / "figures").iterdir()]
    before = {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in files}
    assert "nothing to write" in run("--update-outputs", "a.md")
    assert before == {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in before}


@pytest.mark.parametrize(
    ("shown", "name"), [(PLAYER, "01-step"), ("![a](figures/02-old.svg)", "02-old")]
)
def test_update_writes_a_player_under_the_name_that_the_page_has(run, pytester, shown, name):
    run("--update-outputs", a=f"{RECORDS}\n{shown}\n\nText.\n")
    link = PLAYER.replace("01-step", name)
    assert (pytester.path / "a.md").read_text() == f"{RECORDS}\n{link}\n\nText.\n"
    assert (pytester.path / f"figures/{name}.html").read_text() == FRAGMENT
    run("a.md")


def test_update_restores_wiped_outputs_exactly(run, pytester):
    page = (ROOT / "course/index.md").read_text()
    shutil.copytree(ROOT / "course/figures", pytester.path / "figures")
    wiped = re.sub(rf"{OUT}\n\n```text\n.*?```\n\n", "", page, flags=re.S)
    assert wiped != page
    run("--update-outputs", index=wiped)
    assert (pytester.path / "index.md").read_text() == page


def test_update_is_safe_with_xdist_also_where_the_snippets_of_a_page_are_spread(run, pytester):
    text = FRESH.replace(DRAWS, "")
    run("--update-outputs", a=text)
    alone = (pytester.path / "a.md").read_text()
    # In place of torch, which takes most of the time to load.
    (pytester.path / "torch.py").write_text("def __getattr__(name):\n    return lambda *_: None\n")
    run("--update-outputs", "-n", "2", "--dist", "load", own_process=True, a=text, b=text)
    assert (pytester.path / "a.md").read_text() == alone
    assert (pytester.path / "b.md").read_text() == alone.replace("figures/a-", "figures/b-")


def test_update_leaves_alone_what_fails_and_fails_itself(run, pytester):
    text = prints("1 / 0", "0") + "\n" + python("print(2)")
    run("--update-outputs", a=text, exit=1)
    assert (pytester.path / "a.md").read_text() == text


def test_update_leaves_alone_a_page_that_changed_meanwhile(run, pytester):
    edit = "from pathlib import Path\nPath('a.md').write_text('mine')\nprint(1)"
    said = run("--update-outputs", a=python(edit), exit=1)
    assert "a.md changed while it ran and was left alone" in said
    assert (pytester.path / "a.md").read_text() == "mine"


# ---- what is refused


def test_a_misformed_page_fails_with_file_and_line(run):
    said = run(a="text\n\n```pycon\n>>> 1\n```\n", exit=1)
    assert re.search(r"a\.md:3: a fence that nothing runs, ```pycon", said)


def test_a_page_that_pytest_codeblocks_cannot_read_is_an_error(run):
    assert "Syntax error?" in run(a="```python\n1\n", exit=2)
