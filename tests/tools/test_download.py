"""tools.download: the course's folder as one file."""

import os
import subprocess
import zipfile

import pytest

from tests.conftest import ROOT
from tools.download import HELD, NAME, write


def test_it_holds_what_a_clone_holds_and_nothing_that_was_made(tmp_path):
    """The hidden files too, which some tests read: ``make test`` passes in it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a clone")
    write(ROOT, tmp_path)
    with zipfile.ZipFile(tmp_path / f"{NAME}.zip") as archive:
        held = {name.removeprefix(f"{NAME}/") for name in archive.namelist()}
        assert archive.read(f"{NAME}/README.md") == (ROOT / "README.md").read_bytes()
    assert {*listed.stdout.splitlines()} <= held
    assert not [name for name in held if "__pycache__" in name or name.endswith(".egg-info")]


def test_the_same_files_make_the_same_bytes_and_a_missing_one_is_named(tmp_path):
    folder = tmp_path / "course"
    folder.mkdir()
    for name in HELD:
        (folder / name).touch()
    archives = []
    for written_at in (1_000_000_000, 1_700_000_000):
        os.utime(folder / "README.md", (written_at, written_at))
        write(folder, tmp_path)
        archives.append((tmp_path / f"{NAME}.zip").read_bytes())
    assert archives[0] == archives[1]
    (folder / "setup.py").unlink()
    with pytest.raises(FileNotFoundError, match="has no setup.py"):
        write(folder, tmp_path)
