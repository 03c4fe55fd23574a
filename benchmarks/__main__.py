"""Everything that is measured, one after the other: ``python -m benchmarks``.

With ``--write`` the page course/measured.md is written from it.
"""

import sys

import torch

from benchmarks import graphs, operators, page, taylor, watching

torch.set_num_threads(1)
torch.manual_seed(0)
measured = "\n\n".join(room.report() for room in (graphs, watching, taylor, operators))
print(measured)
if "--write" in sys.argv:
    page.PAGE.write_text(page.page(measured), encoding="utf-8")
