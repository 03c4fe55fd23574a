"""The data of a player, object by object: player_data.py and player_steps.py make it as Python
dicts, player.js reads it as JSON. Whoever changes an object here changes both sides.

A Node is an index in ``PlayerData["nodes"]``. A value (``Shown``) is text for the reader, as
``show`` makes it, such as ``"[1, 2.5]"`` or ``"None"``.
"""

from __future__ import annotations

from typing import Literal, NotRequired, TypedDict

Shown = str


class PlayerData(TypedDict):
    """All that player.js gets."""

    nodes: list[NodeData]
    lines: list[str | None]  # of the user's code, in the order in which they ran; None: not known
    modes: list[EngineOrder | SecondPass | DepthFirst]  # what can be played; the engine's is first
    # Of a large graph: what its blocks open into. In the page they are packed into one text.
    scenes: NotRequired[list[SceneData]]


class SceneData(TypedDict):
    """The inside of a block. A Node is here an index in "nodes".

    The scenes are numbered from 1; the whole pass is scene 0, with the "nodes" of the player and
    the steps of its only mode.
    """

    title: str
    outer: int | None  # the scene that the block is in
    drawing: int  # which of the drawings; several scenes may have the same
    nodes: list[NodeData]
    steps: list[SceneStep]
    error: str | None  # how the pass ended early, if it did in this scene


class NodeData(TypedDict):
    """A Node of the graph."""

    name: str  # which no other Node has
    leaf: bool
    slots: int  # how many next_functions it has
    line: int | None  # index in PlayerData["lines"]; None for a leaf
    value: Shown | None  # what the forward pass computed there
    made: int | None  # it was the first, second, ... operation of the forward pass; None for a leaf
    waits: int | None  # how many gradients are to come to it; None if the pass does not need it
    opens: NotRequired[int | None]  # in a scene: the number of the scene that the block opens into
    outside: NotRequired[bool]  # in a scene: whether it only sends to the scene, or gets from it


# ---- a step


class StepData(TypedDict):
    """One run of a Node."""

    node: int
    came: list[CameData]
    given: list[Shown]  # what the Node was given, by input
    passed: list[PassedData]
    grad: list[Shown] | None  # the .grad of a leaf before and after
    ready: list[int]  # Nodes that are ready from now on
    waiting: dict[str, int]  # for how many gradients Nodes wait from now on; keys of JSON are text
    freed: list[str]  # the names of the saved tensors that the engine freed
    made: list[tuple[int, str]]  # index in the second graph, and name, of each Node that it made


class EngineStep(StepData):
    """A step of the engine."""

    changed: bool  # whether a hook changed what came
    raised: bool  # whether the Node raised; then it gave nothing on


class SceneStep(EngineStep):
    """A stretch of the engine's steps in one box of a scene."""

    norm: float | str | None  # of the gradients that came; text if not finite; None if not known
    sentences: list[str]  # about it


class Held(TypedDict):
    held: NotRequired[Shown]  # what the buffer of an operation held from an earlier run


class WalkStep(StepData, Held):
    """A step of the depth-first walk."""


# "from" is the Node that the gradient came from, along a slot; None to begin with. "input" is the
# input of the Node that it came to.
CameData = TypedDict(
    "CameData", {"from": int | None, "slot": int | None, "input": int, "value": Shown}
)


class PassedData(TypedDict):
    """What a Node passed on along a slot."""

    slot: int
    to: int
    input: int  # of the Node that it leads to
    value: Shown
    # How the Node computed it; None if that is not known. A block has no rule.
    rule: NotRequired[str | None]
    filled: NotRequired[str | None]  # the rule with numbers in it
    before: NotRequired[Shown]  # what the buffer held that it came to; not on the depth-first walk
    after: NotRequired[Shown]  # and what it held then


# ---- a mode


class EngineOrder(TypedDict):
    """What happened."""

    title: str
    about: str
    steps: list[EngineStep] | list[SceneStep]
    questions: list[QuestionData]
    error: str | None  # how the pass ended early


class SecondPass(TypedDict):
    """What another pass would do: the steps of the first, but for what is said here."""

    title: str
    about: str
    grads: dict[int, list[Shown]]  # by index of the step, instead of its "grad"
    stop: NotRequired[int]  # the index of the step that raises
    last: NotRequired[EngineStep]  # and the step
    error: NotRequired[str]


class DepthFirst(TypedDict):
    """What a walk would do that follows each gradient at once."""

    title: str
    about: str
    free: Literal[True]  # it has no queue and counts nothing
    steps: list[WalkStep]


class QuestionData(TypedDict):
    """Which Node runs next?"""

    before: int  # the index of the step that gives the answer
    options: list[int]  # Nodes; that one is right which the step runs
