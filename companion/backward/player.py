"""A Recording becomes a Player: HTML in which a reader steps through the backward pass.

The page is made of data, a drawing and a table; player.js makes the controls, and player.css the
looks. Without JavaScript, and on paper, the drawing and the table tell the steps.
"""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping
from contextlib import ExitStack
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any, cast

import torch

from companion.backward.grads_kept import grads_kept
from companion.backward.player_data import node_tags, player_data
from companion.backward.player_format import EngineOrder, PlayerData
from companion.backward.player_scenes import scenes_data, without_room
from companion.backward.player_table import table
from companion.backward.recording import DETAILED, Recording, record_backward
from companion.drawing.drawing import tagged
from companion.drawing.saved_page import light, packed
from companion.graph.not_a_tensor import refused
from companion.graph.reading import Graph
from companion.naming import callers_names, check_flags, check_names, counted, in_short

_HERE = Path(__file__).parent
_MOST = 5000  # Nodes: a page with more is slow


class Player:
    """A backward pass to step through. Make it with ``play``. It keeps no tensor alive.

    The last expression of a notebook cell shows it.

    Attributes:
        alt: what it shows, in a sentence.
        fragment: the data, the drawing and the table, for a page that brings player.js and
            player.css; without them it is a drawing and a table.
    """

    def __init__(self, alt: str, fragment: str) -> None:
        self.alt = alt
        self.fragment = fragment

    def __repr__(self) -> str:
        return f"<Player: {self.alt}>"

    @cached_property
    def html(self) -> str:
        """A page of its own, which loads nothing from anywhere."""
        names = [*_BLOCK_FILES, *_FILES] if _INNER in self.fragment else _FILES
        texts = {name: (_HERE / name).read_text("utf-8") for name in names}
        return _PAGE.format(
            title=html.escape(self.alt),
            css="".join(text for name, text in texts.items() if name.endswith(".css")),
            fragment=self.fragment,
            js="".join(text for name, text in texts.items() if name.endswith(".js")),
        )

    def _repr_html_(self) -> str:
        # In a frame, so that neither the notebook's styles nor a second player are in the way.
        page = html.escape(self.html)
        return f'<iframe title="{html.escape(self.alt)}" srcdoc="{page}" {_FRAME}></iframe>'

    def save(self, path: str | PathLike[str]) -> None:
        """Write the page to a file.

        Raises:
            ValueError: the name does not end in ``.html``. Nothing is written then.
        """
        path = Path(path)
        if path.suffix.lower() != ".html":
            raise ValueError(
                "a Player is a web page; give a name that ends in .html, not " + in_short(str(path))
            )
        path.write_text(self.html, encoding="utf-8")


def play(
    what: Any, *, names: Mapping[str, torch.Tensor] | None = None, times: bool = False
) -> Player:
    """Step through a backward pass: forward and back, Node by Node, with all numbers.

    Given a tensor, this runs a backward pass from it and keeps the graph, so that you can still
    call ``backward()``. The ``.grad`` of the leaves of the graph, of those that a custom Function
    gives gradients by a backward pass of its own, and of tensors with ``retain_grad()`` that a
    variable of yours refers to, is afterwards what it was; variables that begin with an underscore
    do not count. Your hooks run.

    To see the lines of your code beside the graph, run the forward pass under
    ``torch.autograd.set_detect_anomaly(True, check_nan=False)``, which makes torch note them.

    A graph of more than 150 Nodes is played block by block. A block is a module, if ``names`` come
    from ``companion.modules``, or what ``draw`` folds; each copy of what repeats is a block of its
    own. A bar for each step shows the norm of the gradient that came to it. A block opens into a
    player of what is in it, down to single Nodes.

    Args:
        what: a tensor with one real element that requires grad, or a ``Recording``.
        names: names for tensors, such as those of ``companion.modules``, from which the player also
            knows the modules. Without it the caller's variables name them.
        times: also tell how long each block of a large graph ran (``Step.time``). No two such
            players are equal.

    Returns:
        The player, with ``.html``, ``.alt`` and ``.save(path)``. Numbers are cut to 4 digits. It
        shows the order of the engine; what a second backward pass would do, where that can be told;
        and what a depth-first walk would compute, where gradients meet at an operation. The last
        calls the Nodes again: with retained graphs without custom Functions, without hooks that
        change something, with gradients of at most 1000 elements, and for at most 200 calls.

    Raises:
        TypeError: ``what`` is neither a tensor nor a Recording, ``names`` does not map strings to
            tensors, or ``times`` is neither True nor False.
        ValueError: its graph has more than 5000 Nodes; or a reentrant checkpoint, whose own
            backward pass would add to ``.grad`` of tensors that nobody sees; or ``names`` is given
            with a Recording, whose names were settled when it was made.
        RuntimeError: what ``backward`` raises; or a compiled module has donated buffers, as torch
            calls what its backward pass may overwrite, so that it runs only once.

    Examples:
        >>> x = torch.tensor(3.0, requires_grad=True)
        >>> print(play(x * x).alt)
        A player: the backward pass from MulBackward0 in 2 steps.
        >>> x.grad is None
        True
        >>> from companion import modules
        >>> model = torch.nn.Sequential(*(torch.nn.Linear(2, 2) for _ in range(40)))
        >>> with modules(model) as names:
        ...     loss = model(torch.ones(1, 2)).sum()
        >>> print(play(loss, names=names).alt)  # 40 layers and the sum
        A player: the backward pass from SumBackward0 in 41 steps.
    """
    check_flags(times=times)
    if names is not None:
        check_names(names)
    if isinstance(what, torch.Tensor):
        what = _record_and_give_back(what, names)
    elif not isinstance(what, Recording):
        raise TypeError(f"play shows a tensor or a Recording, got {refused(what)}")
    elif names is not None:
        raise ValueError(
            "a Recording has its names already; give them to record_backward(..., names=...)"
        )
    _check_size(what.graph)
    return _player(what, times)


def _check_size(graph: Graph) -> None:
    if len(graph) > _MOST:
        raise ValueError(
            f"the graph has {len(graph)} Nodes, and a player shows at most {_MOST}: play the "
            "output of a part of the model, or fewer steps of its loop; draw(...) folds graphs of "
            "any size"
        )


def _record_and_give_back(
    output: torch.Tensor, names: Mapping[str, torch.Tensor] | None
) -> Recording:
    """Record a pass, and put back the ``.grad`` of leaves and of the caller's tensors."""
    if not output.requires_grad:
        return record_backward(output, retain_graph=True)  # which raises
    graph = Graph.of(output, names={})
    _check_size(graph)
    if any(node.name == "CheckpointFunctionBackward" for node in graph.nodes):
        raise ValueError(
            "the graph has a reentrant checkpoint, whose backward pass adds to .grad of tensors "
            "that are not in this graph, and play could not give them back; use "
            "checkpoint(..., use_reentrant=False), or play record_backward(loss)"
        )
    tensors = [leaf.grad_fn.variable for leaf in graph.leaves]
    tensors += [tensor for tensor in callers_names().values() if tensor.retains_grad]
    with ExitStack() as after:
        for tensor in tensors:
            after.callback(setattr, tensor, "grad", tensor.grad)
            if tensor.grad is not None:  # or the pass would add to it in place
                tensor.grad = tensor.grad.detach().clone()
        noted = after.enter_context(grads_kept())
        for tensor in tensors:
            noted.note(tensor)
        for node in graph.nodes:
            if node.is_custom:
                after.enter_context(noted.during(node.grad_fn))
        try:
            return record_backward(output, retain_graph=True, names=names)
        except RuntimeError as error:
            if "donated buffers" in str(error):
                raise RuntimeError(_DONATED) from error
            raise


_DONATED = (
    "the backward pass of a compiled module reuses the memory of what it saved, so it runs once, "
    "and play would keep the graph for yours; play record_backward(loss), which is yours, or the "
    "module before torch.compile, or set torch._functorch.config.donated_buffer = False before "
    "the module is compiled"
)


def _player(recording: Recording, times: bool) -> Player:
    if len(recording.graph) > DETAILED:
        data, drawings = _blocks(recording, times)
        table_below = ""
    else:
        data, drawings = player_data(recording), _drawings(recording)
        table_below = _table(data)
    text = _script_text(data)
    key = hashlib.sha256((drawings + text).encode()).hexdigest()[:8]
    if "scenes" in data:
        text = _script_text(data | {"scenes": packed(data["scenes"])})
    alt = _alt(data)
    return Player(
        alt,
        f'<figure class="player" data-key="{key}" aria-label="{html.escape(alt)}">\n'
        '<div class="player-story" tabindex="0" role="group" aria-label="Every step">\n'
        f"{drawings}{table_below}</div>\n"
        f'<script type="application/json" class="player-data">{text}</script>\n</figure>\n',
    )


def _blocks(recording: Recording, times: bool) -> tuple[PlayerData, str]:
    """The data of a large recording, and its drawings and tables: the first scene, and the others.

    Scenes of one drawing stand below it. player_blocks.css shows the others where no script does.
    """
    data, (first, *others) = scenes_data(recording, times)
    inner = [_sized(light(without_room(drawing.svg)), "player-graph") for drawing in others]
    titles = [""]
    for scene in data["scenes"]:  # each after that which it is in
        titles.append(f"{titles[scene['outer'] or 0]} › {scene['title']}".removeprefix(" › "))
        caption = f"Every step inside {titles[-1]}"
        inner[scene["drawing"] - 1] += table(
            caption, scene["nodes"], scene["steps"], scene["error"]
        )
    sections = "".join(f"{_INNER}{text}</section>\n" for text in inner)
    return data, f"{_sized(first.svg, 'player-graph')}{_table(data)}{sections}"


def _alt(data: PlayerData) -> str:
    """What it shows, in a sentence; not the order of the steps, which a page may ask for."""
    steps = len(_engine_order(data)["steps"])
    return f"A player: the backward pass from {_names(data)[0]} in {counted(steps, 'step')}."


def _names(data: PlayerData) -> list[str]:
    return [node["name"] for node in data["nodes"]]


def _engine_order(data: PlayerData) -> EngineOrder:
    return cast(EngineOrder, data["modes"][0])


def _script_text(data: Mapping[str, Any]) -> str:
    """The data as the text of a ``script``."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    for start in ('{"name":', '{"node":'):  # lines, so that a change can be found
        text = text.replace(start, f"\n{start}")
    for character in "<>&":  # so that no text of a user's ends the script
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _drawings(recording: Recording) -> str:
    """The graph of the pass, and the one that it made, if there is one."""
    numbers = node_tags(recording.graph)
    ran = {step.node: f"step {step.index + 1}" for step in recording.steps}
    tags = {  # of every Node, since player.js writes its state there
        i: ", ".join(filter(None, (numbers.get(i), ran.get(i, "not run"))))
        for i in range(len(recording.graph))
    }
    drawings = _sized(tagged(recording.graph, tags).svg, "player-graph")
    if recording.second is not None and len(recording.second) <= DETAILED:
        made = {i: f"step {step.index + 1}" for step in recording.steps for i in step.made}
        drawings += _sized(tagged(recording.second, made).svg, "player-second")
    return drawings


def _table(data: PlayerData) -> str:
    engine = _engine_order(data)
    caption = "Every step, in the order of the engine"
    return table(caption, data["nodes"], engine["steps"], engine["error"])


def _sized(svg: str, name: str) -> str:
    size = svg.partition(' viewBox="')[2].partition('"')[0].split()  # for player.css
    look = f'class="drawing {name}" style="--width: {size[2]}; --height: {size[3]}"'
    return svg.replace('class="drawing"', look, 1)


_INNER = '<section class="player-inner">'
_FILES = ("player.css", "player_texts.js", "player_drawing.js", "player.js")
_BLOCK_FILES = ("player_blocks.css", "player_blocks.js")
_FRAME = 'style="width:100%;height:44rem;border:0"'
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; }}
body {{ margin: 0.5rem; font: 1rem/1.5 sans-serif; color: CanvasText; background: Canvas; }}
{css}</style>
</head>
<body>
<main>
{fragment}</main>
<script>
{js}</script>
</body>
</html>
"""
