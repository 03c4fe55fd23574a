"""tools.pages, through Markdown alone and through a tiny site. The whole site: test_site.py."""

import os
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import pytest
from markdown import markdown

from tests.cases import each
from tools.parts import SCRIPTED

ROOT = Path(__file__).parents[2]
SVG = """<svg width="232pt" height="90pt"
 viewBox="0.00 0.00 232.00 90.00" xmlns="http://www.w3.org/2000/svg">
<g class="graph"><polygon fill="white" stroke="none" points="0,0"/>
<g class="node leaf"><title>x, (2, 3) &lt;float32&gt;</title><path fill="none" stroke="black" d=""/>
<text x="1" y="1">a &amp; b</text></g>
</g>
</svg>
"""
DATA = r'{"title": "only data \u003c/script\u003e"}'
FRAGMENT = f"""<figure class="player" aria-label="Steps">
<script type="application/json" class="player-data">{DATA}</script>
<p>Step 1</p>
<table><tr><td>x &amp; y</td></tr></table>
{SVG}</figure>
"""
FOLD = '<details markdown="1">\n<summary>Answer</summary>\n\n'
LINK = "[Two steps: a < b, `x_y` and \\*.](figures/01-p.html)"
CSS = "figure.player { color: only-style }\n"
JS = """const html = "<script>x</script><!-- </SCRIPT>" // only script
const read = text => text.replace(/</g, "").length < 1 && !text
"""


@pytest.fixture(autouse=True)
def course(tmp_path, monkeypatch):
    """A course with a drawing and a player, found from the working directory as in a build."""
    (tmp_path / "course/figures").mkdir(parents=True)
    (tmp_path / "course/figures/01-x.svg").write_text(SVG)
    (tmp_path / "course/figures/01-p.html").write_text(FRAGMENT)
    (tmp_path / "companion/backward").mkdir(parents=True)
    (tmp_path / "companion/backward/player.css").write_text(CSS)
    (tmp_path / "companion/backward/player.js").write_text(JS)
    monkeypatch.chdir(tmp_path)
    return tmp_path / "course"


def page(text: str, **options: str) -> str:
    """The page of a text, without the line that says whether scripts run."""
    configs = {"tools.pages": options}
    html = markdown(text, extensions=["md_in_html", "tools.pages"], extension_configs=configs)
    return html.replace(SCRIPTED, "")


def tree(html: str) -> Element:
    """The page as a parser sees it, which is not how the extension made it."""
    return fromstring(re.sub(' xmlns="[^"]*"', "", f"<body>{html}</body>"))


def test_a_figure_becomes_part_of_the_page():
    body = tree(page("![One leaf.](figures/01-x.svg)"))
    assert body.find(".//img") is None
    assert body.find(".//svg").get("viewBox") == "0.00 0.00 232.00 90.00"
    assert body.find(".//svg//text").text == "a & b"
    assert body.find(".//svg//title").text == "x, (2, 3) <float32>"


def test_the_search_knows_each_message_of_an_entry_as_a_heading_and_whoever_reads_does_not():
    text = '## Seen\n\n<a id="freed"></a>Code: `freed`. Also said as `one`, `two`.\n\nOther.\n'
    body = tree(markdown(text, extensions=["attr_list", "tools.pages"]))
    said = body.find("div[@class='said']")
    assert "".join(said.itertext()) == "Code: freed. Also said as one, two."
    found = [(h.get("id"), h.get("role"), h.find("code").text) for h in said.findall("div/h6")]
    assert found == [("freed-2", "none", "one"), ("freed-3", "none", "two")]
    assert body.find("p").text == "Other."


def test_the_search_leaves_out_the_table_that_leads_to_the_entries_of_its_own_page():
    rows = "| {} | It is |\n|---|---|\n| `a` | [A](#a) |\n\n"
    text = rows.format("On this page") + rows.format("Comes as")
    body = tree(markdown(text, extensions=["tables", "tools.pages"]))
    found = [table.get("data-search-exclude") for table in body.findall("table")]
    assert found == ["", None]


def test_a_drawing_is_an_image_with_the_alt_text_as_its_name():
    svg = tree(page("![One leaf.](figures/01-x.svg)")).find(".//svg")
    assert svg.get("class") == "drawing"
    assert svg.get("role") == "img"
    assert svg.get("aria-label") == "One leaf."


@each("alt", ['a "b" c', "a < b > c", "a & b", 'x" onload="alert(1)'])
def test_an_alt_text_stays_text(alt):
    svg = tree(page(f"![{alt}](figures/01-x.svg)")).find(".//svg")
    assert svg.get("aria-label") == alt
    assert svg.get("onload") is None


def test_code_in_an_alt_text_is_not_escaped_twice():
    svg = tree(page(r"![`a < b` and a\_c](figures/01-x.svg)")).find(".//svg")
    assert svg.get("aria-label") == "a < b and a_c"


def test_the_box_of_a_drawing_can_be_scrolled_with_the_keyboard():
    box = tree(page("![One leaf.](figures/01-x.svg)")).find(".//svg/..")
    assert box.get("tabindex") == "0"
    assert box.get("role") == "group"
    assert box.get("aria-label")


def test_the_style_sheet_knows_the_width_of_a_drawing():
    svg = tree(page("![One leaf.](figures/01-x.svg)")).find(".//svg")
    assert svg.get("style") == "--width: 232.00"


def test_two_drawings_on_a_page_share_no_ids(course):
    (course / "figures/01-y.svg").write_text(SVG.replace("a &amp; b", "y"))
    text = "![x](figures/01-x.svg)\n\n![y](figures/01-y.svg)\n\nand ![x](figures/01-x.svg) again"
    body = tree(page(text))
    assert [text.text for text in body.findall(".//svg//text")] == ["a & b", "y", "a & b"]
    assert body.findall(".//*[@id]") == []


def test_a_figure_with_ids_is_refused(course):
    (course / "figures/01-x.svg").write_text(SVG.replace("<path", '<path id="edge1"'))
    with pytest.raises(ValueError, match=r"01-x\.svg has id attributes"):
        page("![One leaf.](figures/01-x.svg)")


def test_a_missing_figure_is_an_error_that_names_the_image():
    with pytest.raises(FileNotFoundError, match=r"!\[Two\]\(figures/02-y\.svg\).*make update"):
        page("![Two](figures/02-y.svg)")


def test_a_figure_is_found_from_a_page_in_a_folder():
    assert tree(page("![One leaf.](../figures/01-x.svg)")).find(".//svg") is not None


def test_the_folder_of_the_course_is_an_option(course):
    course.rename("lessons")
    assert tree(page("![x](figures/01-x.svg)", docs="lessons")).find(".//svg") is not None


def test_another_image_stays_an_image():
    assert tree(page("![logo](assets/logo.svg)")).find(".//img").get("src") == "assets/logo.svg"


class Reader(HTMLParser):
    """Collects the elements in a page and the texts in them, as a browser would read them."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.found: list[tuple[str, str]] = []
        self.feed(html)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        self.tags.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open:
            self.found.append((self.open[-1], data))

    def texts(self, tag: str) -> list[str]:
        return [text for name, text in self.found if name == tag and text.strip()]


def test_a_player_takes_the_place_of_its_link_as_it_is():
    html = page(f"Before.\n\n{LINK}\n\nAfter.")
    before, after = html.split(FRAGMENT)
    assert before.startswith("<p>Before.</p>\n") and "<p>After.</p>" in after
    assert "figures/01-p.html" not in html
    assert Reader(html).texts("p") == ["Before.", "Step 1", "After."]


def test_players_share_one_style_sheet_above_and_one_script_below_them(course):
    (course / "figures/01-q.html").write_text(FRAGMENT.replace("Step 1", "Step 2"))
    read = Reader(page(f"# Title\n\n{LINK}\n\nText.\n\n[q](../figures/01-q.html)\n\nText."))
    assert read.texts("style") == ["\n" + CSS]
    tags = [tag for tag in read.tags if tag in {"h1", "style", "figure", "script"}]
    # The title is first, since MkDocs looks for it there. A player's own script is its data.
    assert tags == ["h1", "style", "figure", "script", "figure", "script", "script"]
    assert read.texts("script")[:-1] == [DATA, DATA]
    assert "only script" in read.texts("script")[-1]


def test_what_would_end_the_script_stays_in_it():
    read = Reader(page(LINK))
    kept = r"\x3Cscript>x\x3C/script>\x3C!-- \x3C/SCRIPT>"
    assert read.texts("script")[-1] == "\n" + JS.replace("<script>x</script><!-- </SCRIPT>", kept)
    assert read.open == []


def test_a_page_without_a_player_has_no_style_sheet_and_no_script():
    html = page("![x](figures/01-x.svg)\n\n[a](b.html)")
    assert "<style" not in html and "<script" not in html


def test_a_link_in_a_sentence_stays_a_link():
    for text in (f"See {LINK}", f"{LINK} and", f"{LINK} {LINK}", f"- {LINK}", f"{LINK}![a](b.png)"):
        html = page(text)
        assert 'href="figures/01-p.html"' in html and "<figure" not in html


def test_a_player_in_a_fold_is_part_of_it():
    html = page(f"{FOLD}{LINK}\n\n</details>\n\nText.")
    assert FRAGMENT in html.split("</details>")[0]
    assert Reader(html).texts("p") == ["Step 1", "Text."]


def test_a_missing_player_is_an_error_that_names_it():
    with pytest.raises(FileNotFoundError, match=r"player figures/02-q\.html.*make update"):
        page("[Two](figures/02-q.html)")


def test_a_player_with_ids_is_refused(course):
    (course / "figures/01-p.html").write_text(FRAGMENT.replace("<td>", '<td id="x">'))
    with pytest.raises(ValueError, match=r"01-p\.html has id attributes"):
        page(LINK)


def test_the_folder_of_the_players_style_sheet_and_script_is_an_option(tmp_path):
    (tmp_path / "companion/backward").rename(tmp_path / "parts")
    assert CSS in page(LINK, player="parts")


NOTEBOOK = "[Download the notebook](notebooks/01-x.ipynb)"


def test_below_the_title_is_a_bar_with_minutes_a_download_and_the_controls_of_the_page():
    bar = tree(page(f"{'word ' * 300}\n\n{NOTEBOOK}\n\n**1.** Why?")).find("div")
    assert bar.get("class") == "lesson-bar"
    assert bar.get("data-lesson") == "01-x"
    assert bar.find("span").text == "2 min to read · 1 min of exercises"
    (link,) = bar.findall("a")
    assert link.attrib == {"class": "md-button", "download": "", "href": "notebooks/01-x.ipynb"}
    (box,) = bar.findall("label/input")
    assert box.attrib == {"type": "checkbox", "data-everything": ""}
    (button,) = bar.findall("button")
    assert button.attrib == {"type": "button", "data-forget": ""}


def test_without_a_repository_there_is_no_link_to_colab():
    assert "colab" not in page(NOTEBOOK, repository="")


def test_with_a_repository_a_button_opens_the_notebook_in_colab():
    _, colab = tree(page(NOTEBOOK, repository="someone/course")).findall("div/a")
    assert colab.get("href") == (
        "https://colab.research.google.com/github/someone/course/blob/main/course/"
        "notebooks/01-x.ipynb"
    )
    assert colab.get("class") == "md-button"
    assert colab.get("download") is None


def test_a_link_to_a_notebook_in_a_sentence_stays_a_link():
    assert "md-button" not in page("Get [the notebook](notebooks/01-x.ipynb), and run it.")


def test_links_in_a_box_of_buttons_are_buttons_and_the_first_stands_out():
    text = '<div class="buttons" markdown="1">\n\n- [A](a.md)\n- [B](b.md)\n\n</div>'
    html = markdown(text, extensions=["md_in_html", "tools.pages"])
    links = [link.get("class") for link in tree(html).findall(".//a")]
    assert links == ["md-button md-button--primary", "md-button"]


def test_other_links_stay_links():
    assert tree(page("[Start](index.md)")).find(".//a").attrib == {"href": "index.md"}


FENCES = ["pymdownx.highlight", "pymdownx.superfences"]
RUNS = """
```python
1
```
"""
FAILS = f"""
<!--pytest.mark.xfail(raises=RuntimeError)-->
{RUNS}
"""
OUTPUT = """
<!--pytest-codeblocks:expected-output-->

```text
out
```
"""


@each(
    ("lesson", "errors"),
    [
        (RUNS + OUTPUT, [False]),
        (FAILS + OUTPUT, [True]),
        (FAILS + OUTPUT + FAILS + OUTPUT, [True, True]),
        (FAILS + OUTPUT + RUNS + OUTPUT, [True, False]),
        (FAILS + RUNS + OUTPUT, [False]),
        (f"{FOLD}{FAILS}{OUTPUT}\n</details>\n", [True]),
    ],
)
def test_the_output_of_a_snippet_that_fails_on_purpose_is_marked(lesson, errors):
    html = markdown(
        lesson,
        extensions=[*FENCES, "md_in_html", "tools.pages"],
        extension_configs={"pymdownx.highlight": {"pygments_lang_class": True}},
    )
    assert ["error" in found for found in re.findall('class="language-text(.*?)"', html)] == errors


def test_what_to_do_and_what_not_to_do_are_marked_where_a_paragraph_begins_with_them():
    text = "**Do this:** a\n\n**Not this:** b\n\nSay **Do this:**"
    html = markdown(text, extensions=["tools.pages"])
    assert html.count('<p class="do-this">') == html.count('<p class="not-this">') == 1
    assert html.endswith("<p>Say <strong>Do this:</strong></p>")


def test_an_anchor_below_a_heading_gives_the_heading_its_id():
    html = markdown(
        '## A message\n\n<a id="freed"></a>Code: `freed`.\n\n## Another\n',
        extensions=["attr_list", "toc", "tools.pages"],
    )
    assert re.findall('id="(.*?)">(.*?)<', html) == [("freed", "A message"), ("another", "Another")]
    assert "<p>Code: <code>freed</code>.</p>" in html


@each(
    ("link", "to"),
    [("../02-new.md", "../02-new/"), ("../02-new.md#a", "../02-new/#a"), ("../index.md", "../")]
    + [("../some-index.md", "../some-index/"), ("new/index.md", "new/")],
)
def test_a_page_that_has_moved_sends_its_readers_on(link, to):
    body = tree(page(f"# Old\n\n> **Moved.** This page is now [New]({link}).\n"))
    refresh = body.find(".//meta")
    assert refresh.attrib == {"http-equiv": "refresh", "content": f"0; url={to}"}
    assert body.find(".//a").get("href") == link


def test_another_quotation_sends_nobody_anywhere():
    assert "<meta" not in page("> **Note.** See [New](../02-new.md).\n\n**Moved.** [x](../x.md)")


def build(config: str) -> subprocess.CompletedProcess[str]:
    """Build the site in the working directory, with the real tools."""
    Path("mkdocs.yml").write_text(config)
    return subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )


CONFIG = """
site_name: Tiny
docs_dir: course
theme: {name: material, font: false}
extra: {repository: &repository "someone/course"}
markdown_extensions:
  - tools.pages: {repository: *repository}
"""


def test_mkdocs_builds_a_page_with_a_drawing_a_player_and_its_notebook(course):
    (course / "notebooks").mkdir()
    (course / "notebooks/01-x.ipynb").write_text("{}")
    (course / "index.md").write_text("# Start\n")
    text = f"# X\n\n[Get](notebooks/01-x.ipynb)\n\n![x](figures/01-x.svg)\n\n{LINK}\n"
    (course / "01-x.md").write_text(text)
    done = build(CONFIG)
    assert done.returncode == 0, done.stderr
    html = Path("site/01-x/index.html").read_text()
    assert '<svg aria-label="x"' in html
    assert 'href="../notebooks/01-x.ipynb"' in html
    assert "/someone/course/blob/main/course/notebooks/01-x.ipynb" in html
    assert FRAGMENT in html and CSS in html
    found = Path("site/search/search_index.json").read_text()
    assert "Step 1" in found
    assert not re.search("only (data|script)|only-style", found)


def test_mkdocs_stops_at_a_missing_figure_and_says_on_which_page(course):
    (course / "index.md").write_text("# Start\n\n![x](figures/nowhere.svg)\n")
    done = build(CONFIG)
    assert done.returncode != 0
    assert "index.md" in done.stderr
    assert "figures/nowhere.svg" in done.stderr
