"""The steps of a player without JavaScript, as a table; with it, a button shows the same."""

from __future__ import annotations

import html
from collections.abc import Iterator, Sequence
from typing import cast

from companion.backward.player_format import EngineStep, NodeData, SceneStep


def table(
    caption: str,
    nodes: Sequence[NodeData],
    steps: Sequence[EngineStep] | Sequence[SceneStep],
    error: str | None,
) -> str:
    """A table of steps, a row each.

    Args:
        caption: what they are the steps of.
        nodes: the Nodes that they speak of.
        steps: the steps.
        error: how the pass ended early, if it did.
    """
    names = [node["name"] for node in nodes]
    rows = [_row(names, number, step, error) for number, step in enumerate(steps, start=1)]
    if error and not any(step["raised"] for step in steps):
        rows.append(f'<tr><td colspan="6">{html.escape(error)}</td></tr>\n')
    head = "".join(f'<th scope="col">{text}</th>' for text in _HEAD)
    return (
        f'<table class="player-table">\n<caption>{html.escape(caption)}</caption>\n'
        f"<thead><tr>{head}</tr></thead>\n<tbody>\n{''.join(rows)}</tbody>\n</table>\n"
    )


_HEAD = ("Step", "Node", "What came", "What it was given", "What it sent", "Then")


def _row(names: Sequence[str], number: int, step: EngineStep, error: str | None) -> str:
    came = [
        f"{c['value']} " + ("to begin with" if c["from"] is None else f"from {names[c['from']]}")
        for c in step["came"]
    ]
    passed = [f"{p['value']} to {names[p['to']]}" for p in step["passed"]]
    cells = [
        names[step["node"]],
        "; ".join(came),
        ", ".join(step["given"]),
        "; ".join(passed),
        "; ".join(_outcomes(names, step, error)),
    ]
    row = "".join(f"<td>{html.escape(text)}</td>" for text in cells)
    return f'<tr><th scope="row">{number}</th>{row}</tr>\n'


def _outcomes(names: Sequence[str], step: EngineStep, error: str | None) -> Iterator[str]:
    """What else is to be said of a step."""
    for i in step["ready"]:
        yield f"{names[i]} is ready"
    for node, count in step["waiting"].items():
        if count:
            yield f"{names[int(node)]} waits for {count} more"
    yield from cast(SceneStep, step).get("sentences", ())
    if step["grad"]:
        yield ".grad was {} and is {}".format(*step["grad"])
    if step["freed"]:
        yield f"freed: {', '.join(step['freed'])}"
    if step["made"]:
        yield f"made: {', '.join(name for _, name in step['made'])}"
    if step["changed"]:
        yield "a hook changed what came"
    if step["raised"]:
        yield f"raised {error}"
