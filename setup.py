"""A wheel holds what is in the tree: setuptools alone would add what an earlier build left.

An editable install is a line in a ``.pth`` file with this folder, which mypy and editors follow as
well.
"""

import shutil

from setuptools import setup

shutil.rmtree("build/lib", ignore_errors=True)
setup(options={"editable_wheel": {"mode": "compat"}})
