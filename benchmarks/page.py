"""The page of what was measured: ``python -m benchmarks.page`` prints it.

Its words stand in benchmarks/measured.md, and what they say of numbers is taken from the tables.
The page holds all tables, so it can be made again from itself when its words have changed.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

PAGE = Path(__file__).parents[1] / "course/measured.md"
WORDS = Path(__file__).with_name("measured.md")
DRAWN = "Derivatives of sigmoid², batch 1"
# A heading, or the title of a fold, and below it a table with what is said of it.
TABLE = re.compile(
    r"^(?:### |<summary>)([^\n<]+)(?:</summary>)?\n\n(?:[^|#<\n].*\n|\n)*(\|(?:[^#<\n].*\n|\n)*)",
    re.M,
)


def page(measured: str) -> str:
    """The page for the tables that were measured, or for those of a page."""
    tables = {title: table.strip() for title, table in TABLE.findall(measured)}
    (when,) = re.findall(r"^Measured on .*", measured, re.M)
    written = tables | said(tables) | {"when": when}
    return re.sub("<<(.*?)>>", lambda gap: written[gap[1]], WORDS.read_text(encoding="utf-8"))


def said(tables: dict[str, str]) -> dict[str, str]:
    """What the page says of the tables, and what it draws."""
    ratios = {
        "Graph.of": column(tables["Reading a chain"], 1),
        "modules": [
            round(sum(numbers(row[1:3])), 2) for row in rows(tables["Noting modules"])
        ],  # in the block, and entering and leaving it
        "record_backward": column(tables["Recording a backward pass"], 3),
        "watch": column(tables["Watching a forward pass"], 2),
    }
    orders, own, *peers = (column(tables[DRAWN], place) for place in (0, 1, 2, 3, 6))
    names = ("nth_derivative", "nested torch.func.jvp", "jax jet, jitted")
    milliseconds = {"derivatives": own}
    for name, ratios_of_peer in zip(names, peers, strict=True):
        pairs = zip(ratios_of_peer, own, strict=False)  # one that stops early has fewer
        milliseconds[name] = [float(f"{ratio * ms:.3g}") for ratio, ms in pairs]
    taylor = [table for title, table in tables.items() if title.startswith("Derivatives of")]
    at_8 = [row[2] for table in taylor for row in rows(table) if row[0] == "8"]
    factors = re.findall(r"([\d.]+) \((?:`nth|nested)", "\n".join(taylor))
    return {
        "reading": span(ratios["Graph.of"]),
        "drawing": span(column(tables["From a tensor to an SVG"], 2), 2),
        "recording": span(ratios["record_backward"]),
        "watching": span(ratios["watch"]),
        "nested": span(numbers(at_8), 0),
        "factors": span([float(factor) for factor in factors]),
        "ratios": entries(ratios),
        "orders": str([int(order) for order in orders]),
        "milliseconds": entries(milliseconds),
    }


def rows(table: str) -> list[list[str]]:
    """The cells of a table below its head."""
    lines = [line for line in table.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def column(table: str, place: int) -> list[float]:
    return numbers([row[place] for row in rows(table)])


def numbers(cells: Sequence[str]) -> list[float]:
    """The numbers that cells begin with. What was not reached or not installed has none."""
    matches = (re.match(r"\d[\d,]*\.?\d*", cell) for cell in cells)
    return [float(match[0].replace(",", "")) for match in matches if match]


def span(numbers: list[float], digits: int = 1) -> str:
    low, high = (f"{number:.{digits}f}" for number in (min(numbers), max(numbers)))
    return low if low == high else f"{low} to {high}"


def entries(lists: dict[str, list[float]]) -> str:
    return "\n".join(f'    "{name}": {values},' for name, values in lists.items())


if __name__ == "__main__":
    print(page(PAGE.read_text(encoding="utf-8")), end="")
