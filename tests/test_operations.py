"""Every operation in torch's own list of them goes through the companion: none crashes it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

WHOLE = bool(os.environ.get("OPERATIONS"))


@pytest.mark.parametrize(
    "part",
    [
        # Every 21st operation, with one sample of its inputs, and with two special points in it.
        ["21", "1", "one 0.0", "one inf"],
        pytest.param(
            ["1", "6"],
            marks=pytest.mark.skipif(not WHOLE, reason="takes minutes; make deep runs it"),
        ),
    ],
)
def test_what_backward_can_run_the_companion_can_read_draw_play_and_record(part):
    # In a process of its own: the list changes settings of torch, and a crash would end this one.
    command = [sys.executable, "-m", "tests.operations", *part]
    run = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1])
    # What the library below torch says of infinite matrices is no fault of ours.
    faults = [line for line in run.stdout.splitlines() if line and "oneMKL ERROR" not in line]
    assert (run.returncode, faults) == (0, []), run.stderr[-2000:]
