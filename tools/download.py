"""The course's folder as one file, to run, and for pip to install.

``python -m tools.download [FOLDER]`` writes it into a built site, which is ``site`` if it is not
named.
"""

import sys
import zipfile
from pathlib import Path

NAME = "inside-autograd"
HELD = """.ci .github .gitignore CHANGELOG.md CONTRIBUTING.md LICENSE MANIFEST.in Makefile README.md
benchmarks companion constraints.txt course mkdocs.yml pyproject.toml setup.py tests tools
""".split()
MADE = {"__pycache__", ".ipynb_checkpoints"}
LONG_AGO = (1980, 1, 1, 0, 0, 0)  # the first day that the format knows


def write(root: Path, to: Path) -> None:
    """Write ``inside-autograd.zip`` into a folder; the same files make the same bytes.

    Raises:
        FileNotFoundError: if a file or folder of the course is missing.
    """
    with zipfile.ZipFile(to / f"{NAME}.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for name in HELD:
            if not (root / name).exists():
                raise FileNotFoundError(f"{root} has no {name}, which belongs to the course")
            for file in [root / name, *sorted((root / name).rglob("*"))]:
                path = file.relative_to(root)
                if file.is_file() and MADE.isdisjoint(path.parts):
                    info = zipfile.ZipInfo(f"{NAME}/{path.as_posix()}", LONG_AGO)
                    info.compress_type, info.external_attr = zipfile.ZIP_DEFLATED, 0o644 << 16
                    archive.writestr(info, file.read_bytes())


if __name__ == "__main__":
    write(Path(), Path(sys.argv[1] if len(sys.argv) > 1 else "site"))
