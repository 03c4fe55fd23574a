"""The scenes of a large Recording as a player shows them, in the objects of player_format.py.

A step of a scene is a stretch of the engine's steps in one box: of a Node its step, of a block all
of it, and what came to it from other boxes and what it sent to them.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import groupby
from math import hypot, isfinite

import torch

from companion.backward.blocks import Scene, scenes
from companion.backward.copies import Tensor
from companion.backward.hooks import saved_values
from companion.backward.player_data import error_message
from companion.backward.player_format import (
    CameData,
    EngineOrder,
    NodeData,
    PassedData,
    PlayerData,
    SceneData,
    SceneStep,
)
from companion.backward.player_steps import engine_step, gradient_buffers
from companion.backward.recording import Recording, Step
from companion.drawing.boxes import Box
from companion.drawing.dot import dot_of
from companion.drawing.drawing import Drawing
from companion.drawing.numbers import Numbers
from companion.drawing.words import alt_of
from companion.graph.nodes import Edge
from companion.naming import counted, one_line

# Gradients by the Node that they come to, and by the number of its input.
_Sums = dict[tuple[int, int], list[Tensor | None]]
_Pairs = Mapping[tuple[int, int], tuple[str, str]]


class SceneView:
    """A scene, with a number for each of its boxes.

    Attributes:
        boxes: the boxes by number. Of a leaf that is drawn at each use only the first has one.
        names: what they are called, each in another way.
        owner: by Node, the number of its box.
    """

    def __init__(self, recording: Recording, scene: Scene) -> None:
        self.recording, self.scene = recording, scene
        folded = scene.folded
        self.boxes = [box for box in folded.boxes if not box.is_further_use]
        self.owner: dict[int, int] = {}
        for number, box in enumerate(self.boxes):
            for i in (*box.nodes, *box.leaves):
                self.owner.setdefault(i, number)
        names = [_box_name(scene, box) for box in self.boxes]
        counts, so_far = Counter(names), Counter[str]()
        self.tags = list[str]()
        for name in names:
            so_far[name] += 1
            self.tags.append(f"#{so_far[name]}" if counts[name] > 1 else "")
        pairs = zip(names, self.tags, strict=True)
        self.names = [f"{name} {tag}".strip() for name, tag in pairs]
        self.arrows = {  # of blocks, by the box that they lead to
            number: {
                self.owner[a.target.nodes[0]]: k
                for k, a in enumerate(folded.arrows(box))
                if a.target
            }
            for number, box in enumerate(self.boxes)
            if box.is_block
        }

    # ---- the data

    def data(self, buffers: _Pairs, number_of: Mapping[Scene, int], times: bool) -> SceneData:
        """All that a player shows of the scene.

        Args:
            buffers: by Node and slot, as ``gradient_buffers`` gives it.
            number_of: the numbers of all scenes.
            times: whether to tell how long each box ran.
        """
        scene = self.scene
        waits = self._waits()
        steps = list(self._steps(buffers, waits, times))
        error = error_message(self.recording)
        nodes: list[NodeData] = [
            {
                "name": name,
                "leaf": not box.is_block and scene.folded.node(box).is_leaf,
                "slots": 1 if box.is_block else len(scene.folded.slots[box.nodes[0]]),
                "line": None,
                "value": None,
                "made": None,
                "waits": waits.get(number),
                "opens": number_of[scene.scene_of[box]] if box in scene.scene_of else None,
                "outside": not scene.is_inside(box),
            }
            for number, (box, name) in enumerate(zip(self.boxes, self.names, strict=True))
        ]
        return {
            "title": one_line(_title(scene), 60),
            "outer": None if scene.outer is None else number_of[scene.outer],
            "drawing": -1,  # not known yet
            "nodes": nodes,
            "steps": steps,
            "error": error if any(step["raised"] for step in steps) else None,
        }

    def _waits(self) -> dict[int, int]:
        """For each box that the pass runs, how many gradients other boxes of the scene send it."""
        planned = self.recording.planned
        waits = {
            self.owner[i]: 0 for i in sorted(planned) if i in self.scene.nodes and i in self.owner
        }
        for i in planned:
            if i in self.scene.nodes:
                for edge in self._crossing(self.recording.graph.slots(i)):
                    if edge.target in planned and edge.target in self.scene.nodes:
                        waits[self.owner[edge.target]] += 1
        return waits

    def _crossing(self, edges: Iterable[Edge | None]) -> Iterator[Edge]:
        """The edges that lead from one box to another."""
        for edge in edges:
            if (
                edge
                and edge.target in self.owner
                and self.owner[edge.target] != self.owner[edge.source]
            ):
                yield edge

    def _steps(self, buffers: _Pairs, waits: Mapping[int, int], times: bool) -> Iterator[SceneStep]:
        left = dict(waits)
        inside = (step for step in self.recording.steps if step.node in self.scene.nodes)
        for number, group in groupby(inside, lambda step: self.owner[step.node]):
            steps = list(group)
            sent = [
                edge
                for step in steps
                if step.grad_inputs is not None
                for edge in self._crossing(self.recording.graph.slots(step.node))
            ]
            waiting = dict[int, int]()
            for edge in sent:
                to = self.owner[edge.target]
                if to in left:
                    left[to] -= 1
                    waiting[to] = left[to]
            data = self._step(number, steps, sent, buffers)
            data["ready"] = [to for to, count in waiting.items() if count == 0]
            data["waiting"] = {str(to): count for to, count in waiting.items()}
            if times and all(step.time is not None for step in steps):
                data["sentences"].append(
                    f"It took {sum(step.time or 0 for step in steps) * 1000:.3g} ms."
                )
            yield data

    def _step(
        self, number: int, steps: Sequence[Step], sent: Sequence[Edge], buffers: _Pairs
    ) -> SceneStep:
        box = self.boxes[number]
        norm = self._norm_of_what_came(number, steps)
        if box.is_block:
            return self._block_step(number, steps, sent, norm)
        data = engine_step(self.recording, self._with_saved(steps[0]), buffers)
        for came in data["came"]:
            if came["from"] is not None:
                came["from"] = self.owner.get(came["from"])
        passed = list[PassedData]()
        for gradient in data["passed"]:
            if gradient["to"] in self.owner:
                gradient["to"] = self.owner[gradient["to"]]
                passed.append(gradient)
                if self.boxes[gradient["to"]].is_block:
                    gradient.pop("before", None)
                    gradient.pop("after", None)
        return {
            **data,
            "node": number,
            "passed": passed,
            "norm": _finite(norm),
            "sentences": [f"The norm of what came is {_written(norm)}."],
        }

    def _with_saved(self, step: Step) -> Step:
        """A step with what its Node still has saved, which was not copied of a large graph."""
        fn = self.recording.graph.nodes[step.node].grad_fn
        return replace(step, saved=saved_values(fn)) if step.saved is None else step

    def _block_step(
        self, number: int, steps: Sequence[Step], sent: Sequence[Edge], norm: float | None
    ) -> SceneStep:
        """A step of a block."""
        came: dict[int | None, _Sums] = {}
        for step in steps:
            for arrival in step.arrivals:
                source = self.owner.get(arrival.edge.source) if arrival.edge else None
                if source != number:
                    entry = step.node, arrival.input_nr
                    came.setdefault(source, {}).setdefault(entry, []).append(arrival.value)
        by_node = {step.node: step for step in steps}
        passed: dict[int, _Sums] = {}
        for edge in sent:
            gradients = by_node[edge.source].grad_inputs or ()
            entry = edge.target, edge.input_nr
            to = passed.setdefault(self.owner[edge.target], {})
            to.setdefault(entry, []).append(gradients[edge.slot])
        arrows = self.arrows[number]
        came_data: list[CameData] = [
            {"from": source, "slot": 0, "input": 0, "value": _in_words(_norm(sums))}
            for source, sums in came.items()
        ]
        passed_data: list[PassedData] = [
            {
                "slot": arrows.get(to, len(arrows)),
                "to": to,
                "input": 0,
                "value": _in_words(_norm(sums)),
            }
            for to, sums in passed.items()
        ]
        return {
            "node": number,
            "came": came_data,
            "given": [_in_words(norm)],
            "passed": passed_data,
            "grad": None,
            "ready": [],
            "waiting": {},
            "freed": [],
            "made": [],
            "changed": False,
            "raised": any(step.grad_inputs is None for step in steps),
            "norm": _finite(norm),
            "sentences": list(self._about_block(steps)),
        }

    def _about_block(self, steps: Sequence[Step]) -> Iterator[str]:
        first, last = steps[0].index + 1, steps[-1].index + 1
        which = f"step {first}" if first == last else f"steps {first} to {last}"
        yield f"It ran {counted(len(steps), 'Node')}: {which} of {len(self.recording)} of the pass."
        leaves = [step for step in steps if self.recording.graph.nodes[step.node].is_leaf]
        if leaves:
            each = [norm_of(gradient) for step in leaves for gradient in step.grad_outputs]
            its = counted(len(leaves), "leaf", "leaves")
            yield f"Gradients of norm {_written(_together(each))} were added to .grad of its {its}."
        freed = sum(len(step.freed) for step in steps)
        if freed:
            yield f"Then {counted(freed, 'saved tensor')} had been freed."

    def _norm_of_what_came(self, number: int, steps: Sequence[Step]) -> float | None:
        """The norm of the gradients that came from other boxes, summed where they met."""
        sums: _Sums = {}
        for step in steps:
            for arrival in step.arrivals:
                if arrival.edge is None or self.owner.get(arrival.edge.source) != number:
                    sums.setdefault((step.node, arrival.input_nr), []).append(arrival.value)
        return _norm(sums)

    # ---- the drawing

    def dot(self, states: Mapping[int, str]) -> str:
        """The drawing. Box ``k`` has the class ``n{k}``, and its arrow ``j`` has ``e{k}-{j}``.

        Equal drawings of different scenes are equal to the byte.

        Args:
            states: by number of a box the line of text in it that a script replaces.
        """
        folded = self.scene.folded
        tags = {
            box.nodes[0]: " ".join(filter(None, (tag, states.get(number, _ROOM))))
            for number, (box, tag) in enumerate(zip(self.boxes, self.tags, strict=True))
        }
        arrows = Counter[int]()  # of blocks, which all go by the same class at first

        def renamed(match: re.Match[str]) -> str:
            kind, number, slot = match[1], self.owner[int(match[2])], match[3]
            if kind == "n":
                return f"n{number}"
            if number in self.arrows:
                slot = arrows[number]
                arrows[number] += 1
            return f"e{number}-{slot}"

        return _CLASSES.sub(
            lambda classes: _NUMBER.sub(renamed, classes[0]), dot_of(folded, {}, Numbers(), tags)
        )


_CLASSES = re.compile(r'[ \[]class="[^"]*"')
_NUMBER = re.compile(r"\b([ne])(\d+)(?:-(\d+))?(?=\")")
_ROOM = "done, norm 0.0000e+00"  # as wide as the state of a box and its norm may be
_ROOM_IN_A_BOX = re.compile(r"done, norm 0[^<]*</text>")  # which is cut where a box ends


def without_room(svg: str) -> str:
    """The drawing without the words that kept room for states, which are no norms."""
    return _ROOM_IN_A_BOX.sub("</text>", svg)


def _box_name(scene: Scene, box: Box) -> str:
    """What a box is called, perhaps the same as another."""
    if box.is_outside:
        return f"outside, {box.kind}"
    if not box.is_block:
        node = scene.folded.node(box)
        label = "" if node.label == node.name else one_line(node.label, 60)
        return (
            (label or node.name) if node.is_leaf else node.name + (f" ({label})" if label else "")
        )
    if box.call:
        return one_line(box.call.path or box.call.kind, 60)
    return f"{counted(len(box.nodes), 'node')} from {scene.folded.node(box).name}"


def _title(scene: Scene) -> str:
    if scene.block is None or scene.outer is None:
        return "The whole pass"
    return _box_name(scene.outer, scene.block)


def scenes_data(recording: Recording, times: bool) -> tuple[PlayerData, list[Drawing]]:
    """All that a player shows of a large recording, and the drawings of its scenes.

    Args:
        recording: the recording.
        times: whether to tell how long each box ran.
    """
    all_scenes = scenes(recording.graph)
    number_of = {scene: number for number, scene in enumerate(all_scenes)}
    buffers = gradient_buffers(recording)
    drawings, number_of_dot = list[Drawing](), dict[str, int]()
    found = list[SceneData]()
    for scene in all_scenes:
        view = SceneView(recording, scene)
        data = view.data(buffers, number_of, times)
        is_first = scene.outer is None
        norms = {step["node"]: step["norm"] for step in data["steps"]} if is_first else {}
        dot = view.dot({number: f"ran, norm {_shown(norm)}" for number, norm in norms.items()})
        data["drawing"] = number_of_dot.setdefault(dot, len(drawings))
        if data["drawing"] == len(drawings):
            alt = alt_of(scene.folded, {}, Numbers()) if is_first else f"Inside {data['title']}"
            drawings.append(Drawing(dot, alt))
        found.append(data)
    whole, *insides = found
    order: EngineOrder = {
        "title": "Block by block",
        "about": "What PyTorch did.",
        "steps": whole["steps"],
        "questions": [],
        "error": error_message(recording),
    }
    data_of_all: PlayerData = {
        "nodes": whole["nodes"],
        "lines": [None],
        "modes": [order],
        "scenes": insides,
    }
    return data_of_all, drawings


# ---- norms


def norm_of(*gradients: Tensor | None) -> float | None:
    """The 2-norm of the sum of some gradients, in double precision; None where it cannot be had."""
    total: Tensor | None = None
    try:
        with torch.no_grad():
            for gradient in gradients:
                if gradient is not None:
                    wide = torch.complex128 if gradient.is_complex() else torch.float64
                    value = gradient.to(wide)
                    total = value if total is None else total + value
            if total is None:
                return 0.0
            if total.layout is torch.sparse_coo:
                total = total.coalesce().values()
            return float(torch.linalg.vector_norm(total))
    except (RuntimeError, TypeError, ValueError):  # of a class or a layout that can do little
        return None


def _together(norms: Iterable[float | None]) -> float | None:
    """The norm of several tensors taken together."""
    known = list(norms)
    return None if None in known else hypot(*(norm for norm in known if norm is not None))


def _norm(sums: _Sums) -> float | None:
    """The norm of gradients, each summed with those that come to the same place."""
    return _together(norm_of(*values) for values in sums.values())


def _in_words(norm: float | None) -> str:
    return f"norm {_written(norm)}"


def _written(norm: float | None) -> str:
    return "unknown" if norm is None else f"{norm:.3g}"


def _shown(norm: float | str | None) -> str:
    return _written(norm) if norm is None or isinstance(norm, float) else norm


def _finite(norm: float | None) -> float | str | None:
    """A number for JSON, which has no NaN and no infinity."""
    return norm if norm is None or isfinite(norm) else str(norm)
