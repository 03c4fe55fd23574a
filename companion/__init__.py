"""The companion of Inside Autograd: walk, draw and differentiate PyTorch's computation graphs."""

from companion.calls import modules
from companion.diagnosis import Diagnosis, diagnose
from companion.drawing import Drawing, draw
from companion.explaining import explain
from companion.findings import Finding
from companion.graph import Edge, Graph, GraphNode
from companion.nested import nth_derivative
from companion.notes import Value
from companion.player import Player, play
from companion.recording import Arrival, Recording, Step, record_backward
from companion.saved import SavedTensor
from companion.source import Source
from companion.taylor import derivatives
from companion.text import walk_grad_fn
from companion.watching import Cut, Mutation, Operation, Watch, watch

__all__ = [
    "Arrival",
    "Cut",
    "Diagnosis",
    "Drawing",
    "Edge",
    "Finding",
    "Graph",
    "GraphNode",
    "Mutation",
    "Operation",
    "Player",
    "Recording",
    "SavedTensor",
    "Source",
    "Step",
    "Value",
    "Watch",
    "derivatives",
    "diagnose",
    "draw",
    "explain",
    "modules",
    "nth_derivative",
    "play",
    "record_backward",
    "walk_grad_fn",
    "watch",
]
