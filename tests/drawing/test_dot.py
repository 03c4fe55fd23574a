"""dot.py: the picture language, any label as text, the scissors of a cut."""

import re
from xml.etree.ElementTree import Element, fromstring

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from companion import Graph, draw, modules, record_backward, watch
from companion.drawing.drawing import tagged
from companion.graph.text import indented
from tests.cases import each
from tests.drawing.pictures import SVG, boxes, pills, the_pass
from tests.programs import Double

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


def marks(element: Element) -> list[str]:
    return [child.tag.removeprefix(SVG) for child in element]


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
    assert sorted(labels) == [[], [], ["[0]"], ["[1]", "input_nr", "1"]]


def test_arrows_run_along_next_functions():
    x = torch.ones(2, requires_grad=True)
    dot = draw(x.exp().sum()).dot
    assert re.findall(r"(\d+) -> (\d+)", dot) == [("0", "1"), ("1", "2")]
    assert "arrowhead" not in dot and "dir=" not in dot


def test_each_operation_of_a_large_tree_stands_between_the_two_below_it():
    results = [torch.ones(1, requires_grad=True) for _ in range(64)]
    while len(results) > 1:
        results = [a * b for a, b in zip(results[::2], results[1::2], strict=True)]
    graph = Graph.of(results[0])
    groups = fromstring(tagged(graph, {}).svg).iter(f"{SVG}g")
    texts = {
        group.get("class").split()[-1]: group.find(f"{SVG}text")
        for group in groups
        if group.get("class", "").startswith("node ")
    }
    across = [float(texts[f"n{node.index}"].get("x")) for node in graph.nodes]
    for node in graph.nodes:
        below = [across[edge.target] for edge in graph.slots(node.index)]
        assert not below or min(below) <= across[node.index] <= max(below)


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


def test_what_was_saved_is_unpacked_once_for_the_boxes_and_the_words():
    unpacked = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t, lambda t: unpacked.append(t) or t):
        y = torch.ones(2, requires_grad=True).exp()
    drawing = draw(y, saved=True)
    assert "saved: result" in drawing.dot and "saved result" in drawing.alt
    assert len(unpacked) == 1


def test_a_box_is_about_twenty_characters_wide_and_hover_has_the_rest():
    x = torch.ones(2, requires_grad=True)
    drawing = draw(x.exp(), names={"encoder.layers.11.attention.weight": x})
    _, lines, hover = boxes(drawing.svg)[1]
    assert lines[:2] == ["leaf …layers.11.", "attention.weight"]
    assert "encoder.layers.11.attention.weight" in hover


def test_a_long_class_name_breaks_before_backward():
    logits = torch.zeros(1, 2, requires_grad=True)
    loss = torch.nn.functional.binary_cross_entropy_with_logits(logits, torch.ones(1, 2))
    lines = boxes(draw(loss).svg)[0][1]
    assert lines == ["root", "BinaryCrossEntropyW…", "Backward0"]


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


def test_shapes_stand_at_the_arrows_and_in_the_words():
    x = torch.ones(2, 3, requires_grad=True)
    left, right = (x * 2).split(1)
    drawing = draw(left.sum() + right, shapes=True)
    labels = re.findall(r'-> \d+ \[label=" *(.*?) *"', drawing.dot)
    assert labels[:4] == ["[0] ()", "[1] input_nr 1 (1, 3)", "(1, 3)", "(2, 3)"]
    assert "leads to MulBackward0 along (2, 3)." in drawing.alt
    numbers = draw(record_backward(left.sum() * 1), shapes=True)
    assert "(1, 3) [[1, 1, 1]]" in pills(numbers.svg)
    assert draw(x * 2).dot == draw(x * 2, shapes=False).dot


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


@settings(deadline=None, max_examples=40)
@given(st.text(min_size=1, max_size=60))
def test_a_random_name_is_drawn_as_text(name):
    x = torch.ones(2, requires_grad=True)
    svg = draw(x, names={name: x}).svg
    assert set(marks_of_all(svg)) == set(marks_of_all(draw(x).svg))
    shown = boxes(svg)[0][1][1:]
    assert shown[0].startswith("leaf") and max(map(len, shown)) <= 20


def test_a_custom_function_with_a_nasty_name_is_drawn_as_text():
    evil = type('</svg>"&<b>', (Double,), {})
    x = torch.ones(2, requires_grad=True)
    assert boxes(draw(evil.apply(x)).svg)[0][1][-1] == '</svg>"&<b>Backward'


def test_a_hover_text_in_angle_brackets_is_no_html():
    inner = type("<Inner", (torch.nn.Module,), {"forward": lambda _, h: h.sin().cos().exp()})()
    model = torch.nn.Sequential()
    model.add_module("inner>", inner)
    with modules(model) as names:
        y = model(torch.ones(2, requires_grad=True))
    (block,) = boxes(draw(y, names=names, max_nodes=1).svg)
    assert block[2].startswith("<Inner, ") and block[2].endswith("; made in inner>")


@each("name", ["A\nB", "\x01x", "\uffffx", "x" * 10_000])
def test_the_name_of_a_custom_function_is_one_line_of_text_everywhere(name):
    x = torch.ones(2, requires_grad=True)
    y = type(name, (Double,), {}).apply(x)
    drawing = draw(y)
    fromstring(drawing.svg)
    assert "\n" not in drawing.alt and len(drawing.alt) < 200
    shown = list(indented(Graph.of(y), 50))
    assert len(shown) == 2 and shown[0].isprintable() and len(shown[0]) <= 200


# ---- scissors


def scissors_of(dot: str) -> list[tuple[str, str, str]]:
    """From which box, with which label, to which text."""
    boxes = dict(
        re.findall(r'^\t+(\w+) \[label="?(.*?)"? (?:class|margin|style|tooltip)', dot, re.M)
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
        ("root\\nAddBackward0", "[1] ✂ item", "h.max().item()"),
        ("MulBackward0", "[0] ✂ detach", "h.detach()"),
    ]
    assert "None" not in drawing.dot  # both stubs became scissors
    line = watched.cuts[0].source.line
    cut = f"test_dot.py:{line}: `h.detach()`: "
    assert f"Cut at {cut}detach() gives the value without" in drawing.alt
    assert f"<title>{cut}detached: detach() gives" in drawing.svg  # the file, not where it lies
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
    assert drawing.alt.startswith("Output (2,) without grad_fn. Cut at test_dot.py:")
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
    assert scissors_of(drawing.dot) == [("root\\nAddmmBackward0", "[1] ✂ detach", "x.detach()")]


def test_a_long_shape_does_not_cut_the_dtype():
    x = torch.ones(512, 512, 3, 3, requires_grad=True)
    (leaf,) = [lines for kind, lines, _ in boxes(draw(x.sum()).svg) if kind == "leaf"]
    assert leaf[1:] == ["(512, 512, 3, 3)", "float32"]
