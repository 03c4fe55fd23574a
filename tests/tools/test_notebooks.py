"""Tests for tools.notebooks: what a lesson becomes, and that the committed notebooks are true."""

import base64
import copy
import html
import json
import re
from pathlib import Path
from unittest.mock import patch

import jupytext
import nbclient
import nbformat
import pytest

from tests.tools.kernels import Kernels
from tools.lessons import torch_is_pinned
from tools.notebooks import notebook, repository, storyboard, write_all

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
    """The cells that a lesson of this text becomes."""

    def cells(text: str, repository: str = "") -> list:
        lesson = tmp_path / "01-x.md"
        lesson.write_text(text)
        return json.loads(notebook(lesson, repository))["cells"]

    return cells


def source(cell: dict) -> str:
    return "".join(cell["source"])


# ---- the committed notebooks


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_the_committed_notebook_is_what_the_lesson_says(lesson):
    committed = (COURSE / "notebooks" / f"{lesson.stem}.ipynb").read_text(encoding="utf-8")
    made = notebook(lesson, repository(COURSE))
    assert made.splitlines() == committed.splitlines(), "run make notebooks"
    assert made == committed


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_jupytext_finds_the_same_code_in_the_lesson(lesson):
    def code(cells: list) -> list[str]:
        sources = [cell.source for cell in cells if cell.cell_type == "code"]
        return [re.sub("^# @title .*\n", "", source) for source in sources]

    made = nbformat.reads(notebook(lesson), as_version=4)
    assert code(made.cells) == code(jupytext.read(lesson).cells)


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


@pytest.mark.parametrize("lesson", LESSONS, ids=lambda lesson: lesson.stem)
def test_a_real_kernel_prints_and_draws_what_the_notebook_shows(lesson, kernels, tmp_path):
    shown = nbformat.read(COURSE / "notebooks" / f"{lesson.stem}.ipynb", as_version=4)
    if repository(COURSE):
        del shown.cells[0]  # installs the companion
    ran = copy.deepcopy(shown)
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
    for old, new in zip(shown.cells, ran.cells, strict=True):
        if old.cell_type == "code" and (
            pinned or "pinned_torch" not in old.metadata.get("tags", [])
        ):
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
            found.append((output.ename, output.evalue))
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
            found.append(("svg", base64.b64decode(encoded).decode()))
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


# ---- what a lesson becomes


def test_front_matter_and_download_link_are_for_the_page_alone(cells):
    text = "---\ntitle: x\n---\n\n# X\n\n[Download the notebook](notebooks/01-x.ipynb)\n\nText.\n"
    assert [source(cell) for cell in cells(text)] == ["# X\n\n\nText."]


def test_what_a_snippet_printed_is_the_output_of_its_cell(cells):
    text = f"```python\nprint(1)\n```\n\n{OUT}\n\n```text\n1\n```\n\nText.\n"
    code, after = cells(text)
    assert code["outputs"] == [{"name": "stdout", "output_type": "stream", "text": ["1\n"]}]
    assert code["execution_count"] == 1
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


def test_a_callout_is_a_quotation(cells):
    (cell,) = cells("a\n\n/// question | Predict\nWhich?\n\nNow.\n///\n\nb\n")
    assert source(cell) == "a\n\n> **Predict**\n>\n> Which?\n>\n> Now.\n\nb"


def test_a_callout_without_a_title_is_named_after_its_kind(cells):
    (cell,) = cells("/// note\n    type: x\n\nText.\n///\n")
    assert source(cell) == "> **Note**\n>\n> Text."


def test_a_folded_answer_stays_folded(cells):
    (cell,) = cells("/// details | Why `x < 1`?\nSo.\n///\n")
    assert source(cell) == (
        "<details>\n<summary>Why <code>x &lt; 1</code>?</summary>\n\nSo.\n\n</details>"
    )


def test_a_folded_answer_with_a_snippet_is_folded_around_it_too(cells):
    text = (
        f"/// details | Answer\nYes.\n\n```python\nprint(1)\n```\n\n{OUT}\n\n```text\n1\n```\n"
        "\nSee?\n///\n\nText.\n\n```python\nx = 1\n```\n"
    )
    before, code, after, last = cells(text)
    fold = "<details>\n<summary>Answer</summary>\n\n{}\n\n</details>"
    assert source(before) == fold.format("Yes.")
    assert source(code) == "# @title Answer\nprint(1)"
    assert code["metadata"] == {
        "cellView": "form",
        "jupyter": {"outputs_hidden": True, "source_hidden": True},
    }
    assert code["outputs"][0]["text"] == ["1\n"]
    assert source(after).split("\n\nText.")[0] == fold.format("See?")
    assert last["metadata"] == {}


def test_a_solution_that_is_a_snippet_alone_leaves_no_empty_fold(cells):
    (code,) = cells("/// details | Solution\n\n```python\nx = 1\n```\n///\n")
    assert source(code) == "# @title Solution\nx = 1"


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


def test_with_a_repository_the_first_cell_installs_the_companion(cells):
    first, second = cells("```python\nx = 1\n```\n", repository="someone/course")
    assert source(first) == "%pip install -q git+https://github.com/someone/course"
    assert (first["execution_count"], second["execution_count"]) == (1, 2)


# ---- what is written


@pytest.fixture
def course(tmp_path):
    (tmp_path / "course").mkdir()
    (tmp_path / "mkdocs.yml").write_text("extra:\n  repository: someone/course\n")
    (tmp_path / "course/01-x.md").write_text("# X\n")
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
