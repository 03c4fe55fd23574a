"""export.py: what networkx gets, and what can be made of it."""

import io
import json
import sys

import networkx
import pytest
import torch

from companion import Graph, modules


def test_networkx_gets_every_node_and_edge():
    first, second = torch.arange(4.0, requires_grad=True).split(2)
    graph = Graph.of(first + second)
    other = graph.to_networkx()
    assert dict(other.nodes[0]) == {
        "name": "AddBackward0",
        "label": "AddBackward0",
        "is_leaf": False,
        "shape": "(2,)",
        "dtype": "float32",
        "module": "",
    }
    assert dict(other.nodes[2])["is_leaf"] is True
    assert list(other.edges(keys=True, data=True)) == [
        (0, 1, 0, {"slot": 0, "input_nr": 0}),
        (0, 1, 1, {"slot": 1, "input_nr": 1}),
        (1, 2, 0, {"slot": 0, "input_nr": 0}),
    ]


@pytest.mark.parametrize("layout", [torch.jagged, torch.strided])
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors:UserWarning")
def test_what_networkx_gets_can_be_written_for_other_programs(layout):
    nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)], layout=layout)
    model = torch.nn.Sequential(torch.nn.Linear(2, 2), torch.nn.Tanh())
    with modules(model) as named:
        output = model(torch.ones(2)).to(torch.bfloat16)
    other = Graph.of(output, nested.requires_grad_() * 2, names=named).to_networkx()
    data = json.loads(json.dumps(networkx.node_link_data(other)))
    assert [node["module"] for node in data["nodes"] if node["name"] == "TanhBackward0"] == ["1"]
    assert [node["shape"] for node in data["nodes"] if node["label"] == "0.weight"] == ["(2, 2)"]
    assert {(edge["source"], edge["key"]) for edge in data["edges"]} == {
        (source, slot) for source, _, slot in other.edges(keys=True)
    }
    written = io.BytesIO()
    networkx.write_graphml(other, written)
    written.seek(0)
    assert dict(networkx.read_graphml(written, int).nodes(data=True)) == dict(
        other.nodes(data=True)
    )


def test_a_name_that_no_file_in_xml_can_have_is_written_with_escapes():
    x = torch.ones(2, requires_grad=True)
    other = Graph.of(x.exp(), names={"a\x00b\ud800\n": x}).to_networkx()
    for write, read in (
        (networkx.write_graphml, networkx.read_graphml),
        (networkx.write_gexf, networkx.read_gexf),
    ):
        written = io.BytesIO()
        write(other, written)
        written.seek(0)
        labels = [data["label"] for _, data in read(written).nodes(data=True)]
        assert labels == ["ExpBackward0", r"a\x00b\ud800\n"]


def test_networkx_that_is_missing_is_asked_for_by_name(monkeypatch):
    monkeypatch.setitem(sys.modules, "networkx", None)
    with pytest.raises(ModuleNotFoundError, match="pip install networkx"):
        Graph.of(torch.ones(2, requires_grad=True)).to_networkx()
