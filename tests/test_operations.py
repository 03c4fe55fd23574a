"""Operations go through the whole companion: none crashes it, and it says what backward does."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.cases import each
from tests.operations import faults, untold_at
from tests.slices import torchs_own

X = torch.tensor([[0.3, -1.2, 2.0], [0.7, 0.9, -0.4]], dtype=torch.float64)
# Of each what makes a Node of another kind: an input, an output, nothing or a tuple saved.
OPERATIONS = {
    "matmul": lambda x: x @ x.mT,
    "sqrt": lambda x: x.abs().sqrt(),
    "sort": lambda x: x.sort(1)[0],
    "in place": lambda x: (x * 2).exp_(),
    "several outputs": lambda x: x.split(2, 1)[1],
    "a list": lambda x: torch.cat([x, x]),
    "complex": lambda x: torch.fft.fft(x),
    "an index": lambda x: x[:, torch.tensor([0, 2])],
}


@each("name", OPERATIONS)
def test_what_backward_can_run_the_companion_can_read_draw_play_and_record(name):
    leaf = X.clone().requires_grad_()

    def compute(hide=lambda y: y):
        y = OPERATIONS[name](leaf)
        return hide(y.abs() if y.is_complex() else y).sum()

    assert [*faults(compute, [leaf])] == []
    assert [*untold_at(compute, [leaf], ["one 0.0", "one inf"])] == []


@torchs_own
@pytest.mark.parametrize(
    "part",
    [
        # Every 21st operation, with one sample of its inputs, and with two special points in it.
        ["21", "1", "one 0.0", "one inf"],
        pytest.param(
            ["1", "6"],
            marks=pytest.mark.skipif(
                not os.environ.get("OPERATIONS"), reason="takes minutes; make deep runs it"
            ),
        ),
    ],
)
def test_so_are_the_operations_in_torchs_own_list(part):
    # In a process of its own: the list changes settings of torch, and a crash would end this one.
    command = [sys.executable, "-m", "tests.operations", *part]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    # What the library below torch says of infinite matrices is no fault of ours.
    faults = [line for line in run.stdout.splitlines() if line and "oneMKL ERROR" not in line]
    assert (run.returncode, faults) == (0, []), run.stderr[-2000:]
