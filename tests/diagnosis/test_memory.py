"""memory.py of diagnosis: which modules, names and lines saved the memory of a graph."""

import pytest
import torch
from hypothesis import given, settings
from torch import nn
from torch.autograd.graph import save_on_cpu, saved_tensors_hooks
from torch.utils.checkpoint import checkpoint

from companion import Graph, SavedMemory, SavedRow, modules, saved_memory, watch
from tests.programs import OPERATIONS, programs, run
from tests.slices import examples


def network():
    return nn.Sequential(nn.Linear(10, 50), nn.Tanh(), nn.Linear(50, 50), nn.Tanh())


def test_each_storage_counts_once_for_the_node_that_was_made_first():
    model, x = network(), torch.ones(100, 10)
    with modules(model) as names:
        loss = model(x).square().sum()
    rows = saved_memory(loss, names=names)
    assert [(row.module, row.name, row.nbytes, row.shared) for row in rows] == [
        ("1", "TanhBackward0.result", 20_000, 20_000),  # the next layer holds it as well
        ("3", "TanhBackward0.result", 20_000, 20_000),
        (None, "leaves", 10_000, 0),  # the second weight; the first is not needed for x
        ("0", "AddmmBackward0.mat1", 4_000, 0),
    ]
    assert rows.nbytes == Graph.of(loss).saved_nbytes == 54_000
    assert sum(row.share for row in rows) == pytest.approx(1)
    assert [row.count for row in rows] == [1, 1, 1, 1]


def test_by_module_by_name_and_by_line_the_sum_is_the_same():
    model, x = network(), torch.ones(100, 10)
    with modules(model) as names, watch() as watched:
        h = model(x)
        loss = h.square().sum()
    for by in ("module", "name", "line", ("line", "module"), None):
        rows = saved_memory(loss, by=by, names=names, watch=watched)
        assert rows.nbytes == 54_000
    by_name = saved_memory(loss, by="name", names=names, watch=watched)
    assert [(row.module, row.name, row.source) for row in by_name] == [
        (None, "TanhBackward0.result", None),
        (None, "leaves", None),
        (None, "AddmmBackward0.mat1", None),
    ]
    by_line = saved_memory(loss, by="line", watch=watched)
    assert [row.source and row.source.text for row in by_line] == ["model(x)", None]
    assert (by_line[0].name, by_line[0].count) == (None, 3)


@settings(deadline=None, max_examples=examples(100))
@given(programs(set(OPERATIONS) - {"checkpoint", "reentrant", "hooks"}))
def test_of_random_programs_the_rows_add_up_to_saved_nbytes(program):
    tensors = [torch.ones(4, requires_grad=True), torch.arange(4.0, requires_grad=True) * 1]
    output = run(program, tensors)[-1]
    rows = saved_memory(output)
    assert rows.unseen == 0
    assert sum(row.nbytes for row in rows) == Graph.of(output).saved_nbytes


def test_nothing_is_unpacked_and_what_was_saved_through_hooks_is_said():
    ran, x = [], torch.ones(5, requires_grad=True)
    with saved_tensors_hooks(lambda t: t, lambda t: ran.append("unpack") or t):
        y = x.exp()
    y = checkpoint(lambda t: ran.append("forward") or t.sin(), y, use_reentrant=False)
    with save_on_cpu():
        y = y.exp()
    loss = y.square().sum()
    ran.clear()
    rows = saved_memory(loss)
    assert ran == []
    assert (rows.unseen, rows.nbytes) == (3, y.nbytes)
    assert "and what 3 tensors saved through hooks take, which is not seen" in str(rows)


def test_what_was_freed_and_what_saved_nothing_give_no_rows():
    x = torch.ones(5, requires_grad=True)
    assert saved_memory((x + x).sum()) == ()
    loss = x.exp().sum()
    loss.backward()
    assert saved_memory(loss) == ()
    first, second = str(saved_memory(loss)).splitlines()
    assert first == "0 bytes in 0 storages"
    assert second == "a backward pass has freed what 1 Node had saved"


def test_what_is_left_of_a_graph_that_was_freed_in_part_is_told_with_what_was_freed():
    x = torch.ones(5, requires_grad=True)
    trunk = x.exp().sin()
    trunk.sum().backward()
    rows = saved_memory(trunk.cos().sum())
    assert (rows.nbytes, rows.freed) == (trunk.nbytes, 2)
    assert saved_memory(x.cos().sum()).freed == 0


def test_what_was_changed_in_place_is_still_kept():
    x = torch.ones(5, requires_grad=True)
    y = x.exp()
    z = y * 1
    y.add_(1)
    assert max(row.nbytes for row in saved_memory(z)) == x.nbytes


def test_the_table_is_short_and_says_what_it_leaves_out():
    x = torch.ones(5, requires_grad=True)
    names = (
        "exp sin cos tanh sigmoid sqrt log abs square erf expm1 sinh cosh asinh atan log1p rsqrt"
    )
    results = [getattr(x + i, name)() for i, name in enumerate(names.split())]
    results += [(x + 0.5).pow(3), torch.nn.functional.gelu(x * 1), torch.nn.functional.silu(x * 1)]
    results += [torch.nn.functional.softplus(x * 1), (x * 1).softmax(0), (x * 1).logsumexp(0)]
    rows = saved_memory(torch.cat([r.reshape(-1) for r in results]).sum())
    lines = str(rows).splitlines()
    assert len(rows) > 20
    left_out = sum(row.nbytes for row in rows[20:])
    assert lines[-1] == f"and {len(rows) - 20} more rows: {left_out} bytes"
    assert lines[1].split() == ["bytes", "share", "name"]
    assert "<pre>" in rows._repr_html_()


def test_what_cannot_be_told_is_refused():
    x = torch.ones(5, requires_grad=True)
    y = x.exp()
    with pytest.raises(ValueError, match="`with modules"):
        saved_memory(y, by="module")
    model = torch.nn.Linear(5, 1)
    with modules(model) as names:
        pass
    with pytest.raises(ValueError, match="no module is known that made a Node.*run the model in"):
        saved_memory(model(x), by="module", names=names)  # names were given, but it ran later
    with pytest.raises(ValueError, match="`with watch"):
        saved_memory(y, by="line")
    for by in ("size", (), ["name", "file"], 3, [["name"]], torch.ones(2).numpy()):
        with pytest.raises(ValueError, match="by must be"):
            saved_memory(y, by=by)
    with pytest.raises(ValueError, match="Graph.of"):
        saved_memory(Graph.of(y), names={"y": y})
    with pytest.raises(ValueError, match="has no graph"):
        saved_memory(y.detach())
    with pytest.raises(TypeError, match=r"got list; give one of its tensors"):
        saved_memory([y])
    with pytest.raises(TypeError, match="watch must be"):
        saved_memory(y, watch=[])
    row = saved_memory(Graph.of(y))[0]
    assert isinstance(row, SavedRow) and isinstance(saved_memory(y), SavedMemory)


@pytest.mark.parametrize("f", [torch.sin, lambda w: w.expand(10, 3).sin(), lambda w: w**2])
def test_where_leaves_alone_are_kept_the_table_has_one_row(f):
    kept = saved_memory(f(torch.ones(3, requires_grad=True)))
    assert len(kept) == 1 and "leaves" in str(kept) and repr(kept).endswith("in 1 row>")
