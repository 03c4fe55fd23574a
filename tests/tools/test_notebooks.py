"""Tests for tools.notebooks: what a lesson becomes, and that the committed notebooks are true."""

import base64
import html
import json
import re
import sys
import tomllib
import types
from functools import partial
from pathlib import Path
from unittest.mock import patch

import jupytext
import nbclient
import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager

from tests.cases import each
from tests.slices import every
from tests.tools.kernels import Kernels
from tools.lessons import TOO_DEEP, torch_is_pinned
from tools.notebooks import AFTER_PREDICT, BOX, notebook, repository, storyboard, write_all

ROOT = Path(__file__).parents[2]
COURSE = ROOT / "course"
LESSONS = sorted(COURSE.glob("[0-9]*.md"))
PLAYER = """<figure class="player">
<script type="application/json" class="player-data">{"title": "\\u003cb\\u003e"}</script>
<p>Step 1</p>
<svg class="drawing" role="img" aria-label="A &lt;b> &quot;q&quot;." xmlns="http://www.w3.org/2000/svg">
<text>é</text>
</svg>
<table><tr><td>x</td></tr></table>
<svg class="drawing" xmlns="http://www.w3.org/2000/svg"></svg>
</figure>
"""
OUT = "<!--pytest-codeblocks:expected-output-->"


@pytest.fixture
def cells(tmp_path):
    """The cells that a lesson of this text becomes, below the first two."""

    def cells(text: str) -> list:
        return book(tmp_path, text)[2:]

    return cells


def book(folder: Path, text: str, repository: str = "") -> list:
    lesson = folder / "01-x.md"
    lesson.write_text(f"---\ntitle: 1. Title\n---\n\n# Title\n\n{text}")
    return json.loads(notebook(lesson, repository))["cells"]


def source(cell: dict) -> str:
    return "".join(cell["source"])


# ---- the committed notebooks


@each("lesson", LESSONS)
def test_the_committed_notebook_is_what_the_lesson_says(lesson):
    committed = (COURSE / "notebooks" / f"{lesson.stem}.ipynb").read_text(encoding="utf-8")
    made = notebook(lesson, repository(COURSE))
    assert made.splitlines() == committed.splitlines(), "run make notebooks"
    assert made == committed


@pytest.mark.parametrize("lesson", every(11, LESSONS), ids=lambda lesson: lesson.stem)
def test_jupytext_finds_the_same_code_in_the_lesson(lesson):
    made = nbformat.reads(notebook(lesson), as_version=4)
    found = []
    for cell in made.cells[2:]:
        if cell.cell_type == "code":
            found.append(re.sub("^# @title .*\n", "", cell.source))
        else:
            folds = "".join(re.findall("^<details>$.*?^</details>$", cell.source, re.S | re.M))
            found += re.findall(r"^```python.*?\n(.*?)\n?```$", folds, re.S | re.M)
    expected = [cell.source for cell in jupytext.read(lesson).cells if cell.cell_type == "code"]
    assert found == expected


def test_every_notebook_has_a_lesson_and_every_lesson_a_notebook():
    notebooks = [notebook.stem for notebook in sorted((COURSE / "notebooks").iterdir())]
    assert notebooks == [lesson.stem for lesson in LESSONS]


def test_a_notebook_is_the_same_bytes_each_time():
    assert notebook(LESSONS[0]).encode() == notebook(LESSONS[0]).encode()


@pytest.fixture(scope="module")
def kernels():
    kernels = Kernels()
    with patch("jupyter_client.provisioning.local_provisioner.launch_kernel", kernels.launch):
        yield
    kernels.end()


# Of which the first two have a player, drawings, plots and errors.
@pytest.mark.parametrize("lesson", every(11, LESSONS), ids=lambda lesson: lesson.stem)
def test_a_real_kernel_prints_and_draws_what_the_notebook_shows(lesson, kernels, tmp_path):
    made = notebook(lesson, repository(COURSE), covered=False)
    shown = nbformat.reads(made, as_version=4)
    ran = nbformat.read(COURSE / "notebooks" / f"{lesson.stem}.ipynb", as_version=4)
    for cell in ran.cells:
        cell.outputs = []
    patience = {"startup_timeout": 600, "iopub_timeout": 600}  # seconds
    client = nbclient.NotebookClient(
        ran, coalesce_streams=True, shutdown_kernel="immediate", **patience
    )
    client.execute(cwd=str(tmp_path))
    links = re.findall(r"^\[.*\]\((figures/.*\.html)\)$", lesson.read_text("utf-8"), re.M)
    players = [(COURSE / link).read_text("utf-8") for link in links]
    pinned = torch_is_pinned(ROOT)
    code = ([cell for cell in book.cells if cell.cell_type == "code"] for book in (shown, ran))
    for old, new in zip(*code, strict=True):
        assert old.source == new.source
        if pinned or "pinned_torch" not in old.metadata.get("tags", []):
            # Another torch may warn of what it will change.
            found = [fact for fact in facts(new, players) if pinned or fact[0] != "stderr"]
            assert found == facts(old, players), source(old)


def facts(cell: nbformat.NotebookNode, players: list[str]) -> list[tuple[str, str]]:
    """What a cell printed, raised and drew, and which of the players it showed, or what else."""
    found = []
    for output in cell.outputs:
        if output.output_type == "stream":
            found.append((output.name, output.text))
        elif output.output_type == "error":
            found.append((output.ename, output.evalue.removesuffix(TOO_DEEP)))
        elif "image/png" in output.data:  # of a figure of matplotlib
            found.append(("plot", ""))
        elif "image/svg+xml" in output.data:
            found.append(("svg", output.data["image/svg+xml"]))
        elif frame := re.search('<iframe[^>]* srcdoc="([^"]*)"', output.data["text/html"]):
            page = html.unescape(frame[1])
            found.append(("player", next((p for p in players if p in page), page)))
        elif output.data["text/html"].startswith("<figure"):
            still = output.data["text/html"]
            found.append(("player", next((p for p in players if storyboard(p) == still), still)))
        else:
            encoded = re.search(r"base64,([^\"]*)", output.data["text/html"])[1]
            svg = base64.b64decode(encoded).decode()
            found.append(("plot", "") if svg.startswith('<svg class="plot"') else ("svg", svg))
    return found


def test_a_kernel_must_show_the_player_that_is_committed():
    def showed(shown: str) -> list[tuple[str, str]]:
        output = nbformat.v4.new_output("display_data", {"text/html": shown, "text/plain": "A."})
        return facts(nbformat.v4.new_code_cell(outputs=[output]), players)

    players = [PLAYER.replace("Step 1", "Step 0"), PLAYER]
    committed = [("player", PLAYER)]
    frame = f'<iframe title="A." srcdoc="{html.escape(f"<html>{PLAYER}</html>")}"></iframe>'
    assert showed(storyboard(PLAYER)) == committed
    assert showed(frame) == committed
    assert showed(frame.replace("Step 1", "Step 2")) != committed
    assert showed(frame.replace("title", "other")) != committed  # in the data alone
    assert showed("<iframe></iframe>" + storyboard(PLAYER)) != committed


def test_a_kernel_must_show_one_picture_for_a_plot(tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/x.svg").write_text('<svg class="plot"></svg>')
    (tmp_path / "01-x.md").write_text(
        f"---\ntitle: x\n---\n\n{python('figure')}\n![A.](figures/x.svg)\n"
    )
    shown = nbformat.reads(notebook(tmp_path / "01-x.md"), as_version=4).cells[-1]
    png = nbformat.v4.new_output("execute_result", {"image/png": "x", "text/plain": "<Figure>"})
    cell = nbformat.v4.new_code_cell(outputs=[png])
    assert facts(cell, []) == facts(shown, []) == [("plot", "")]
    cell.outputs *= 2
    assert facts(cell, []) != facts(shown, [])


# ---- what a lesson becomes


def test_front_matter_and_download_link_are_for_the_page_alone(cells):
    text = "[Download the notebook](notebooks/01-x.ipynb)\n\nText.\n"
    assert [source(cell) for cell in cells(text)] == ["Text."]


def test_what_a_snippet_printed_is_the_output_of_its_cell(cells):
    text = f"```python\nprint(1)\n```\n\n{OUT}\n\n```text\n1\n```\n\nText.\n"
    code, after = cells(text)
    assert code["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["1\n"]}]
    assert source(after) == "Text."


def test_an_output_with_ticks_in_it_is_taken_whole(cells):
    text = f"```python\nprint('`' * 3)\n```\n\n{OUT}\n\n````text\n```\n````\n\nText.\n"
    code, after = cells(text)
    assert code["outputs"][0]["text"] == ["```\n"]
    assert source(after) == "Text."


def test_an_error_on_purpose_is_an_error_and_does_not_stop_a_run(cells):
    text = (
        "Try.\n\n<!--pytest.mark.xfail(raises=ValueError)-->\n\n"
        "```python\nprint('before')\nint('x')\n```\n\n"
        f"{OUT}\n\n```text\nbefore\nValueError: no int\n```\n\n```python\nx = 1\n```\n"
    )
    before, code, after = cells(text)
    assert source(before) == "Try."
    assert code["metadata"]["tags"] == ["raises-exception"]
    stream, error = code["outputs"]
    assert stream["text"] == ["before\n"]
    assert (error["ename"], error["evalue"]) == ("ValueError", "no int")
    assert after["metadata"] == {}


def test_a_cell_whose_output_holds_for_one_torch_is_tagged(cells):
    (code,) = cells("<!--pytest.mark.pinned_torch-->\n\n```python\nx = 1\n```\n")
    assert code["metadata"] == {"tags": ["pinned_torch"]}


def test_a_drawing_is_an_image_that_needs_no_trust(cells, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/x.svg").write_text("<svg>é</svg>")
    text = '```python\ndraw(y)\n```\n\n![A &lt;b&gt; \\[0\\] "q"](figures/x.svg)\n\nText.\n'
    code, after = cells(text)
    (output,) = code["outputs"]
    shown = "".join(output["data"]["text/html"])
    encoded = base64.b64encode("<svg>é</svg>".encode()).decode()
    alt = "A &lt;b&gt; [0] &quot;q&quot;"
    assert shown == f'<img alt="{alt}" src="data:image/svg+xml;base64,{encoded}">'
    assert source(after) == "Text."


def test_a_player_is_its_storyboard_in_which_nothing_runs(cells, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/x.html").write_text(PLAYER)
    code, after = cells("```python\nplay(y)\n```\n\n[A &lt;b> \\[0\\].](figures/x.html)\n\nText.\n")
    (output,) = code["outputs"]
    first, second = re.findall("<svg.*?</svg>", PLAYER, re.S)
    images = [base64.b64encode(svg.encode()).decode() for svg in (first, second)]
    alts = ["A &lt;b&gt; &quot;q&quot;.", ""]
    address = "data:image/svg+xml;base64,"
    a, b = (f'<img alt="{alts[n]}" src="{address}{images[n]}">' for n in (0, 1))
    assert "".join(output["data"]["text/html"]) == (
        '<figure class="player">\n<p>Step 1</p>\n'
        f"{a}\n<table><tr><td>x</td></tr></table>\n{b}\n</figure>\n"
    )
    assert output["data"]["text/plain"] == ["A <b> [0]."]
    assert source(after) == "Text."


def test_a_callout_stays_a_quotation_and_a_predict_is_a_box(cells):
    (cell,) = cells("> **Note.** So.\n\n> **Predict.** Which?\n>\n> - A. [one](glossary.md)\n\nb\n")
    assert source(cell) == (
        "> **Note.** So.\n\n"
        f"{BOX}\n\n"
        "**Predict.** Which?\n\n- A. [one](../glossary.md)\n\n</div>\n\nb"
    )


def test_the_box_of_a_predict_leaves_the_colour_of_its_text_to_the_theme(cells):
    """A box of JupyterLab's own kinds has a colour that is hard to read in its dark theme."""
    (cell,) = cells("> **Predict.** Which?\n")
    assert not re.search(r"alert-(info|success|warning|danger)|[\s;\"]color:", source(cell))


def test_what_the_notebooks_import_is_installed_with_jupyterlab():
    """By the extra `lab`, with what matplotlib needs: without it a notebook ends at once."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = [*project["dependencies"], *project["optional-dependencies"]["lab"]]
    names = {re.match(r"[\w-]+", need)[0] for need in needed} | {"companion", "numpy"}
    books = [json.loads(book.read_bytes()) for book in (COURSE / "notebooks").glob("*.ipynb")]
    cells = [cell for book in books for cell in book["cells"] if cell["cell_type"] == "code"]
    code = "\n".join(map(source, cells))
    imported = set(re.findall(r"^\s*(?:import|from) (\w+)", code, re.M))
    assert "matplotlib" in imported
    assert imported <= names | sys.stdlib_module_names


PREDICT = f"""> **Predict.** Which?

```python
print(1)
```

{OUT}

```text
1
```

![A.](figures/x.svg)

One, because.

```py
shown
```

"""
EXPLAINED = "One, because.\n\n```py\nshown\n```"


@pytest.mark.parametrize(
    ("below", "rest"),
    [
        ("", ""),
        ("### Next\n\nText.\n", "### Next\n\nText."),
        ("> **Note.** So.\n\nText.\n", "> **Note.** So.\n\nText."),
        ("{FOLD}\nText.\n", "<details>\n<summary>Answer</summary>\n\nYes.\n\n</details>\n\nText."),
        ("```python\nx = 1\n```\n\nText.\n", None),
    ],
)
def test_after_a_predict_the_output_is_left_out_and_the_text_on_it_folded(
    cells, tmp_path, below, rest
):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/x.svg").write_text("<svg></svg>")
    asked, code, explained, *after = cells(PREDICT + below.replace("{FOLD}", fold("Yes.")))
    assert source(asked).endswith("</div>")
    assert (source(code), code["outputs"]) == ("print(1)", [])
    summary = f"<summary>{AFTER_PREDICT}</summary>"
    folded = f"<details>\n{summary}\n\n{EXPLAINED}\n\n</details>"
    assert source(explained).startswith(folded)
    if rest is None:
        assert [source(cell) for cell in after] == ["x = 1", "Text."]
    else:
        assert source(explained).removeprefix(folded).strip() == rest
        assert after == []


def test_only_the_cell_below_a_predict_is_without_its_output(cells):
    after = f"```python\nprint(2)\n```\n\n{OUT}\n\n```text\n2\n```\n"
    text = PREDICT.replace("![A.](figures/x.svg)", "")
    *_, code = cells(text + after)
    assert code["outputs"][0]["text"] == ["2\n"]
    *_, code = cells("> **Predict.** Which?\n\n### Next\n\n" + after)
    assert code["outputs"][0]["text"] == ["2\n"]
    assert cells("> **Predict.** Which?\n\n```python\nx = 1\n```\n")[1:][0]["outputs"] == []


def python(code: str) -> str:
    return f"```python\n{code}\n```\n"


def fold(text: str, title: str = "Answer") -> str:
    return f'<details markdown="1">\n<summary>{title}</summary>\n\n{text}\n\n</details>\n'


def test_what_stands_below_a_fold_is_markdown_again(cells, tmp_path):
    """Right below the end of a fold a heading would be a part of its HTML, and shown as ``##``."""
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/x.svg").write_text("<svg></svg>")
    *_, explained = cells(PREDICT + "## Next\n")
    assert source(explained).endswith("\n</details>\n\n## Next")


def test_a_fold_stays_folded(cells):
    (cell,) = cells(fold("So.", "Why <code>x &lt; 1</code>?"))
    assert source(cell) == (
        "<details>\n<summary>Why <code>x &lt; 1</code>?</summary>\n\nSo.\n\n</details>"
    )


RUNS = f"Yes.\n\n```python\nn = 1\nprint(n)\n```\n\n{OUT}\n\n```text\n1\n```\n\nSee?"


def test_a_snippet_in_a_fold_is_text_in_it(cells):
    (cell,) = cells(fold(RUNS))
    assert source(cell) == (
        "<details>\n<summary>Answer</summary>\n\nYes.\n\n"
        "```python\nn = 1\nprint(n)\n```\n\nIt prints:\n\n```text\n1\n```\n\nSee?\n\n</details>"
    )


def test_a_figure_in_a_fold_is_an_image_in_it(cells, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures/x.svg").write_text("<svg></svg>")
    (cell,) = cells(fold("```python\ndraw(y)\n```\n\n![A.](figures/x.svg)"))
    encoded = base64.b64encode(b"<svg></svg>").decode()
    image = f'<img alt="A." src="data:image/svg+xml;base64,{encoded}">'
    assert f"```python\ndraw(y)\n```\n\n{image}\n\n</details>" in source(cell)


def test_what_a_later_cell_needs_is_a_hidden_cell_with_the_fold_around_it(cells):
    text = f"{fold(RUNS, 'Why <code>n &lt; 2</code>?')}\nText.\n\n```python\nn + 1\n```\n"
    before, code, after, last = cells(text)
    folded = "<details>\n<summary>Why <code>n &lt; 2</code>?</summary>\n\n{}\n\n</details>"
    assert source(before) == folded.format("Yes.")
    assert source(code) == "# @title Why n < 2?\nn = 1\nprint(n)"
    assert code["metadata"] == {
        "cellView": "form",
        "jupyter": {"outputs_hidden": True, "source_hidden": True},
    }
    assert code["outputs"][0]["text"] == ["1\n"]
    assert source(after) == folded.format("See?") + "\n\nText."
    assert last["metadata"] == {}


@pytest.mark.parametrize(
    ("in_fold", "later", "runs"),
    [
        ("n = 1", "print(n)", True),
        ("import n", "print(n)", True),
        ("def n(): pass", "print(n)", True),
        ("for n in []: pass", "n += 1", True),
        ("n = 1", "n = n + 1", True),
        ("n = 1", "def f(): return n", True),
        ("n = 1", "[n for i in []]", True),
        ("def f():\n    global n\n    n = 1", "print(n)", True),
        ("m = 1", "print(n)", False),
        ("n = 1", "n = 2\nprint(n)", False),
        ("n = 1", "for n in []: print(n)", False),
        ("n = 1", "def f(n): return n", False),
        ("n = 1", "[n for n in []]", False),
        ("def f():\n    n = 1", "print(n)", False),
        ("class A:\n    n = 1", "print(n)", False),
        ("n = 1", "class n: pass\nprint(n)", False),
        ("n = 1", "class A:\n    n = 2\nprint(n)", True),
    ],
)
def test_what_a_cell_needs_are_the_names_it_reads_before_it_binds_them(cells, in_fold, later, runs):
    made = cells(f"{fold(python(in_fold))}\n{python(later)}")
    assert (made[0]["cell_type"] == "code") == runs


def test_what_only_a_fold_needs_is_text_and_what_a_hidden_cell_needs_is_not(cells):
    one, two = fold(python("n = 1")), fold(python("m = n"))
    assert [cell["cell_type"] for cell in cells(f"{one}\n{two}")] == ["markdown"]
    made = cells(f"{one}\n{two}\n{python('m')}")
    assert [cell["cell_type"] for cell in made] == ["code"] * 3


def test_a_name_that_a_cell_in_between_binds_is_not_needed_from_a_fold(cells):
    text = f"{fold(python('n = 1'))}\n{python('n = 2')}\n{python('n')}"
    assert [cell["cell_type"] for cell in cells(text)] == ["markdown", "code", "code"]


def test_a_solution_that_is_a_hidden_cell_alone_leaves_no_empty_fold(cells):
    code, _ = cells(f"{fold(python('x = 1'), 'Solution')}\n{python('x')}")
    assert source(code) == "# @title Solution\nx = 1"


def test_formulas_and_code_stay_as_they_are(cells):
    text = "So $x_1 < y*z*$, `f[0](x.grad)`, and\n\n$$a[0](b)$$"
    (cell,) = cells(text)
    assert source(cell) == text


def test_links_lead_to_notebooks_or_out_of_their_folder(cells):
    text = (
        "[a](02-y.md) [b](02-y.md#part) [c](glossary.md#node) [d](https://x.org) "
        "[e](#here) [f](assets/a.css)\n"
    )
    (cell,) = cells(text)
    assert source(cell) == (
        "[a](02-y.ipynb) [b](02-y.ipynb) [c](../glossary.md#node) [d](https://x.org) "
        "[e](#here) [f](../assets/a.css)"
    )


def test_shown_code_stays_text(cells):
    text = '```py title="a.py"\nx\n```\n\n```console\nmake\n```\n'
    assert [cell["cell_type"] for cell in cells(text)] == ["markdown"]


def test_the_first_cells_say_what_it_is_and_how_to_get_the_companion(tmp_path):
    title, code = book(tmp_path, "")
    assert source(title).startswith("# 1. Title\n\n") and "`make lab`" in source(title)
    assert source(code).startswith("%xmode Minimal\ntry:\n    from companion import Graph\n")


def test_without_front_matter_the_title_is_the_heading(tmp_path):
    (tmp_path / "01-x.md").write_text("# X\n\nText.\n")
    title, _, text = json.loads(notebook(tmp_path / "01-x.md"))["cells"]
    assert source(title).startswith("# X\n") and source(text) == "Text."


def test_where_a_lesson_has_plots_they_are_drawn_in_its_notebook(tmp_path):
    _, code, *_ = book(tmp_path, python("from matplotlib.figure import Figure"))
    assert source(code).splitlines()[1] == "%matplotlib inline"
    _, code, *_ = book(tmp_path, python("x = 1"))
    assert "matplotlib" not in source(code)


def test_with_a_repository_the_first_cells_install_the_companion(tmp_path):
    title, code = book(tmp_path, "", repository="someone/course")
    install = "pip install -q git+https://github.com/someone/course"
    assert install.replace(" -q", "") in source(title) and "make lab" not in source(title)
    assert f"except ImportError:\n    %{install}" in source(code)


@pytest.mark.parametrize("repository", ["", "someone/course"])
@pytest.mark.parametrize("found", [None, types.ModuleType("companion")])  # none, and a stranger's
def test_where_the_companion_is_missing_the_first_cell_acts(tmp_path, repository, found):
    """It runs here as IPython runs it, but that nothing is installed."""
    code = TransformerManager().transform_cell(source(book(tmp_path, "", repository)[1]))
    ran = []

    class Shell:
        def run_line_magic(self, *line: str) -> None:
            ran.append(line)

    def imported(name: str, *_: object) -> types.ModuleType:
        if found is None:
            raise ModuleNotFoundError(name)
        return found

    builtins = {"__import__": imported, "ImportError": ImportError}
    builtins["ModuleNotFoundError"] = ModuleNotFoundError
    run = partial(exec, code, {"get_ipython": Shell, "__builtins__": builtins})
    if repository:
        run()
        assert ran[1:] == [("pip", "install -q git+https://github.com/someone/course")]
    else:
        with pytest.raises(ModuleNotFoundError, match="companion is missing, or .*make lab"):
            run()
    assert ran[0] == ("xmode", "Minimal")


# ---- what is written


@pytest.fixture
def course(tmp_path):
    (tmp_path / "course").mkdir()
    (tmp_path / "mkdocs.yml").write_text("extra:\n  repository: someone/course\n")
    (tmp_path / "course/01-x.md").write_text("---\ntitle: 1. X\n---\n\n# X\n")
    (tmp_path / "course/index.md").write_text("# Start\n")
    return tmp_path / "course"


def test_each_lesson_is_written_and_the_repository_comes_from_the_site(course):
    assert write_all(course) == [course / "notebooks/01-x.ipynb"]
    assert "git+https://github.com/someone/course" in (course / "notebooks/01-x.ipynb").read_text()


def test_what_is_up_to_date_is_not_written_again(course):
    write_all(course)
    assert write_all(course) == []


def test_a_notebook_that_no_lesson_made_is_left_alone(course):
    (course / "notebooks").mkdir()
    (course / "notebooks/mine.ipynb").write_text("mine")
    assert write_all(course) == [course / "notebooks/01-x.ipynb"]
    assert (course / "notebooks/mine.ipynb").read_text() == "mine"
