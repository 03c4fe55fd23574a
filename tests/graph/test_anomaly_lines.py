"""anomaly_lines.py: the line that anomaly mode noted for a Node."""

from types import SimpleNamespace

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


def test_the_line_of_a_library_stands_in_for_a_line_of_the_user_alone():
    library = '  File "/lib/site-packages/lib.py", line 3, in f\n    return x * 2\n'
    users = '  File "/home/model.py", line 7, in <module>\n    y = f(x)\n'

    def noted(*lines):
        return noted_source(SimpleNamespace(metadata={"traceback_": lines}))

    assert noted(library).text == "return x * 2"
    assert noted(users, library).text == "y = f(x)"
    assert noted(users, library).inside.text == "return x * 2"
