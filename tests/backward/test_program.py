"""The program of a backward pass gives what the backward pass gives."""

import torch

from companion import write_backward


def test_two_paths_to_a_leaf_are_a_sum():
    x = torch.tensor(2.0, requires_grad=True)
    y = torch.tensor(3.0, requires_grad=True)
    product = x * y
    wave = torch.sin(x)
    loss = product + wave
    program = write_backward(loss)
    assert "x.grad = grad_x_1 + grad_x_2" in str(program)
    found = program.run()
    loss.backward()
    assert torch.equal(found["x"], x.grad)
    assert torch.equal(found["y"], y.grad)
