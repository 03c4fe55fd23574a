"""The companion of Inside Autograd: walk, draw and differentiate PyTorch's computation graphs."""

from companion.calls import modules
from companion.drawing import Drawing, draw
from companion.graph import Edge, Graph, GraphNode, SavedTensor
from companion.nested import nth_derivative
from companion.player import Player, play
from companion.recording import Arrival, Recording, Source, Step, record_backward
from companion.taylor import derivatives
from companion.text import walk_grad_fn

__all__ = [
    "Arrival",
    "Drawing",
    "Edge",
    "Graph",
    "GraphNode",
    "Player",
    "Recording",
    "SavedTensor",
    "Source",
    "Step",
    "derivatives",
    "draw",
    "modules",
    "nth_derivative",
    "play",
    "record_backward",
    "walk_grad_fn",
]
