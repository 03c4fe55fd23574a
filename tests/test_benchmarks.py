"""benchmarks.page: the page of what was measured says and draws what its tables hold."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def test_the_page_is_the_one_that_its_tables_make():
    made = subprocess.run(
        [sys.executable, "-X", "utf8", "-m", "benchmarks.page"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    )
    assert made.stdout.decode() == (ROOT / "course/measured.md").read_text(encoding="utf-8")
