"""Everything that is measured, one after the other: ``python -m benchmarks``.

With ``--write`` the tables go into course/measured.md, below "The figures".
"""

import sys
from pathlib import Path

import torch

from benchmarks import graphs, taylor, watching

PAGE = Path(__file__).parents[1] / "course/measured.md"

torch.set_num_threads(1)
torch.manual_seed(0)
tables = f"{graphs.report()}\n\n{watching.report()}\n\n{taylor.report()}"
print(tables)
if "--write" in sys.argv:
    text, heading, _ = PAGE.read_text(encoding="utf-8").partition("## The figures\n")
    PAGE.write_text(f"{text}{heading}\n{tables}\n", encoding="utf-8")
