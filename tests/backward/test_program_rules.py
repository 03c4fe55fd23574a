"""program_rules.py: each rule is written, and gives the bits that the Node gives."""

import re

import pytest
import torch
import torch.nn.functional as F

from companion import Graph, write_backward
from companion.backward import program_rules
from companion.backward.formulas import FORMULAS
from companion.backward.program_rules import RULES, written
from tests.backward.test_program import check, leaf
from tests.cases import each
from tests.programs import set_seed

# For each Node whose rule has its bits, an operation that makes it.
POSITIVE = ("LogBackward0", "Log1PBackward0", "RsqrtBackward0", "SqrtBackward0", "PowBackward1")
EXACT = {
    "AbsBackward0": lambda a, b: a.abs(),
    "AddBackward0": lambda a, b: torch.add(a, b, alpha=3),
    "AddmmBackward0": lambda a, b: torch.addmm(b, a, b, alpha=2, beta=3),
    "AliasBackward0": lambda a, b: torch.ops.aten.alias(a),
    "AtanBackward0": lambda a, b: a.atan(),
    "BmmBackward0": lambda a, b: torch.bmm(a.unsqueeze(0), b.unsqueeze(0)),
    "CatBackward0": lambda a, b: torch.cat([a, b], 1),
    "ClampBackward1": lambda a, b: a.clamp(-0.5, 0.5),
    "ClampMinBackward0": lambda a, b: torch.clamp_min(a, 0.1),
    "ClampMaxBackward0": lambda a, b: torch.clamp_max(a, 0.1),
    "CloneBackward0": lambda a, b: a.clone(),
    "CosBackward0": lambda a, b: a.cos(),
    "CoshBackward0": lambda a, b: a.cosh(),
    "CumsumBackward0": lambda a, b: a.cumsum(-1),
    "DivBackward0": lambda a, b: a / b,
    "DotBackward0": lambda a, b: a[0].dot(b[0]),
    "EmbeddingBackward0": lambda a, b: F.embedding(torch.tensor([1, 2, 1]), a),
    "ErfBackward0": lambda a, b: a.erf(),
    "ExpBackward0": lambda a, b: a.exp(),
    "ExpandBackward0": lambda a, b: a.expand(2, *a.shape),
    "Expm1Backward0": lambda a, b: a.expm1(),
    "FlipBackward0": lambda a, b: a.flip(-1),
    "GatherBackward0": lambda a, b: a.gather(0, torch.tensor([[0, 1, 1]])),
    "IndexBackward0": lambda a, b: a[torch.tensor([2, 0, 2])],
    "IndexSelectBackward0": lambda a, b: a.index_select(1, torch.tensor([2, 2])),
    "LeakyReluBackward0": lambda a, b: F.leaky_relu(a),
    "LinalgVectorNormBackward0": lambda a, b: torch.linalg.vector_norm(a),
    "Log1PBackward0": lambda a, b: a.log1p(),
    "LogBackward0": lambda a, b: a.log(),
    "MaxBackward1": lambda a, b: a.max(),
    "MaximumBackward0": lambda a, b: torch.maximum(a, b),
    "MeanBackward0": lambda a, b: a.mean(),
    "MeanBackward1": lambda a, b: a.mean((0, -1)),
    "MinBackward1": lambda a, b: a.min(),
    "MinimumBackward0": lambda a, b: torch.minimum(a, b),
    "MmBackward0": lambda a, b: a @ b,
    "MseLossBackward0": lambda a, b: F.mse_loss(a, torch.ones_like(a)),
    "MulBackward0": lambda a, b: a * b,
    "MvBackward0": lambda a, b: a.mv(b[0]),
    "NegBackward0": lambda a, b: -a,
    "PermuteBackward0": lambda a, b: a.permute(-1, 0),
    "PowBackward0": lambda a, b: a**3,
    "PowBackward1": lambda a, b: a**b,
    "PowBackward2": lambda a, b: 2**a,
    "ReciprocalBackward0": lambda a, b: a.reciprocal(),
    "ReluBackward0": lambda a, b: a.relu(),
    "ReshapeAliasBackward0": lambda a, b: torch.ops.aten._reshape_alias(a, (9,), (1,)),
    "RsqrtBackward0": lambda a, b: a.rsqrt(),
    "RsubBackward0": lambda a, b: torch.rsub(a, b, alpha=2),
    "RsubBackward1": lambda a, b: 1 - a,
    "SelectBackward0": lambda a, b: a[1],
    "SigmoidBackward0": lambda a, b: a.sigmoid(),
    "SinBackward0": lambda a, b: a.sin(),
    "SinhBackward0": lambda a, b: a.sinh(),
    "SliceBackward0": lambda a, b: a[:, 1:],
    "SqrtBackward0": lambda a, b: a.sqrt(),
    "SqueezeBackward0": lambda a, b: a.unsqueeze(0).squeeze(),
    "SqueezeBackward1": lambda a, b: a.unsqueeze(0).squeeze(0),
    "SqueezeBackward2": lambda a, b: a.unsqueeze(0).unsqueeze(0).squeeze((0, 1)),
    "StackBackward0": lambda a, b: torch.stack([a, b], 1),
    "StdBackward0": lambda a, b: a.std(),
    "SubBackward0": lambda a, b: torch.sub(a, b, alpha=2),
    "SumBackward0": lambda a, b: a.sum(),
    "SumBackward1": lambda a, b: a.sum(-1),
    "TBackward0": lambda a, b: a.t(),
    "TanBackward0": lambda a, b: a.tan(),
    "ToCopyBackward0": lambda a, b: a.to(torch.float16),
    "TransposeBackward0": lambda a, b: a.transpose(0, -1),
    "TrilBackward0": lambda a, b: a.tril(-1),
    "TriuBackward0": lambda a, b: a.triu(),
    "UnsafeViewBackward0": lambda a, b: torch.ops.aten._unsafe_view(a, (9,)),
    "UnsqueezeBackward0": lambda a, b: a.unsqueeze(-1),
    "VarBackward0": lambda a, b: a.var(correction=0),
    "ViewBackward0": lambda a, b: a.view(9),
    "WhereBackward0": lambda a, b: torch.where(b > 0, a, b),
}
# Of these the kernel rounds in another way than the expression, or may on some processor.
ROUNDED = {
    "LogSoftmaxBackward0": lambda a, b: a.log_softmax(-1),
    "SiluBackward0": lambda a, b: F.silu(a),
    "SoftmaxBackward0": lambda a, b: a.softmax(-1),
    "SoftplusBackward0": lambda a, b: F.softplus(a),
    "TanhBackward0": lambda a, b: a.tanh(),
}


def test_each_rule_of_the_tables_is_tried_here():
    assert {*EXACT, *ROUNDED} == {*RULES, *FORMULAS, "CatBackward0", "StackBackward0"}


@each("dtype", [torch.float32, torch.float64])
@each("name", [*EXACT, *ROUNDED])
def test_the_rule_of_a_node_is_written_and_has_its_bits(name, dtype):
    for seed in range(3):
        set_seed(seed)
        a, b = torch.randn(3, 3, dtype=dtype), torch.randn(3, 3, dtype=dtype)
        if name in POSITIVE:
            a = a.abs() + 0.1
        output = {**EXACT, **ROUNDED}[name](a.requires_grad_(), b.requires_grad_())
        graph = Graph.of(output, names={"a": a, "b": b})
        assert graph.nodes[0].name == name
        leaves = {node.label: node.grad_fn.variable for node in graph.leaves}
        text = check(output, leaves, torch.randn_like(output))
        if name in EXACT:
            assert "called as it is" not in text, text


def test_a_rule_that_rounds_in_another_way_is_named_and_the_node_is_called():
    x = torch.linspace(-3, 3, 99).requires_grad_()
    text = str(write_backward(F.softplus(x), torch.linspace(0, 1, 99)))
    assert re.search(r"its formula, grad \* .*, rounds in another way\n.*= node_0\(", text)


@pytest.mark.parametrize("operation", [lambda x: x.std(0), lambda x: x.var(correction=2)])
def test_an_operation_in_a_form_without_a_formula_is_left_to_the_node(operation):
    x = leaf(4, 3)
    assert "there is no formula for it here" in check(operation(x).sum(), {"x": x})


def test_a_part_of_a_concatenation_whose_beginning_is_not_known_is_left_to_the_node():
    x = leaf(2)
    assert "there is no formula for it here" in check(torch.cat([torch.ones(2), x]).sum(), {"x": x})


def test_where_another_torch_saves_something_else_the_node_is_called(monkeypatch):
    monkeypatch.setitem(program_rules._DERIVED, "ExpBackward0", lambda saved: saved["gone"])
    x = leaf(3)
    assert "there is no formula for it here" in check(x.exp().sum(), {"x": x})


def test_a_sum_along_a_dimension_is_undone_by_what_it_lost():
    x = leaf(3, 3)
    ones = torch.ones(3)
    assert "grad_x = grad_output.unsqueeze(0).expand((3, 3))" in str(write_backward(x.sum(0), ones))
    kept = x.sum(0, keepdim=True)
    text = str(write_backward(kept, torch.ones(1, 3)))
    assert "grad_x = grad_kept.expand((3, 3))" in text


def test_a_negative_number_has_brackets_where_a_power_would_bind_it_closer():
    show = {"grad": "g", "self": "-2.0", "exponent": "-3"}.get
    assert written("grad * self ** exponent", show, {"self": 0, "exponent": 0}) == (
        "g * (-2.0) ** -3"
    )
    assert written("self.T", show, {"self": 0}) == "(-2.0).T"
