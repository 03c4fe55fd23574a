"""What the Python files of torch raise or warn about gradients: explained, or listed as not."""

import ast
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from companion import explain
from tests.diagnosis.not_explained import NOT_EXPLAINED

# Folders whose messages nobody meets who differentiates in one process, in torch's own eager mode.
LEFT_OUT = {
    *("_dynamo", "_export", "_inductor", "_lazy", "compiler", "export", "fx", "jit", "onnx"),
    "_aot_autograd",  # of torch.compile
    *("_decomp", "_higher_order_ops", "_prims", "_refs", "_subclasses"),  # how torch is made
    *("_vendor", "contrib", "package", "profiler", "testing"),
    *("ao", "quantization"),  # of numbers that have no gradient
    "distributed",  # of several processes; the messages that users meet are in messages.py
}
ABOUT_GRADIENTS = re.compile(
    r"requires?[_ ]grad|autograd|backwards?\b|gradient|differentia|forward.AD|\bgrads?\b|hook|"
    r"reentrant|save_for|setup_context|jacobian|inf checks|unscale|static method|"
    r"(?<!the )(?<!a )checkpoint(?!s? (?:file|format|returned|from))",
    re.I,
)
CALLS = re.compile(r"^[ ]*(?:raise \w[\w.]*|(?:\w+\.)*warn\w*)\(", re.M)


KNOWN, NOT_KNOWN = 177, 77


def files() -> Iterator[Path]:
    root = Path(torch.__file__).parent
    yield from root.glob("*.py")
    for folder in root.iterdir():
        if folder.is_dir() and folder.name not in LEFT_OUT:
            yield from (file for file in folder.rglob("*.py") if LEFT_OUT.isdisjoint(file.parts))


def messages_in(source: str) -> Iterator[tuple[str, str]]:
    """The kind and the text of what is raised or warned of, with 0 for what differs each time."""
    for match in CALLS.finditer(source):
        for call in calls_in(statement_at(source, match.start())):
            for argument in call.args:
                yield ast.unparse(call.func).rpartition(".")[2], text_of(argument)


def statement_at(source: str, start: int) -> str:
    """The statement that begins there, if it says something of gradients."""
    end = start
    for _ in range(40):
        end = source.find("\n", end + 1)
        text = source[start : end if end >= 0 else len(source)]
        if text.count("(") <= text.count(")") or end < 0:
            return text if ABOUT_GRADIENTS.search(text) else ""
    return ""


def calls_in(statement: str) -> list[ast.Call]:
    try:
        tree = ast.parse(textwrap.dedent(statement))
    except SyntaxError:  # parentheses in a text: the statement was cut short
        return []
    found = [getattr(each, "exc", None) or getattr(each, "value", None) for each in tree.body]
    return [call for call in found if isinstance(call, ast.Call)]


def text_of(node: ast.expr) -> str:
    if isinstance(node, ast.Constant) and isinstance(node.value, str):
        return node.value
    if isinstance(node, ast.JoinedStr):
        return "".join(text_of(part) or "0" for part in node.values)
    if isinstance(node, ast.BinOp):
        return text_of(node.left) + text_of(node.right)
    return ""


def error_of(kind: str, text: str) -> Exception:
    return type(kind, (Exception,), {})(text)


@pytest.mark.skipif(
    not torch.__version__.startswith("2.13."), reason="other versions have other messages"
)
def test_what_torchs_sources_say_about_gradients_is_explained_or_listed():
    said = {each for file in files() for each in messages_in(file.read_text("utf-8"))}
    about = {(kind, text) for kind, text in said if ABOUT_GRADIENTS.search(text)}
    unknown = [text for kind, text in about if not explain(error_of(kind, text))]
    first_words = {" ".join(text.split()[:6]) for text in unknown}
    assert first_words == {line.strip() for line in NOT_EXPLAINED.strip().splitlines()}
    assert (len(about) - len(unknown), len(first_words)) == (KNOWN, NOT_KNOWN)
