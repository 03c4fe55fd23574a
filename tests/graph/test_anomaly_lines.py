"""anomaly_lines.py: the line that anomaly mode noted for a Node."""

import torch

from companion.graph.anomaly_lines import noted_source


def test_a_node_has_the_line_that_made_it():
    x = torch.ones(2, requires_grad=True)
    with torch.autograd.set_detect_anomaly(True, check_nan=False):
        y = x.sin()
        z = torch.nn.functional.softmax(y, 0)
    assert noted_source(y.grad_fn).text == "y = x.sin()"
    assert noted_source(z.grad_fn).text == "z = torch.nn.functional.softmax(y, 0)"
    assert noted_source(x.cos().grad_fn) is None
