"""The companion of Inside Autograd: walk, draw and differentiate PyTorch's computation graphs."""

from companion.backward.player import Player, play
from companion.backward.program import Program, write_backward
from companion.backward.recording import Arrival, Recording, Step, record_backward
from companion.diagnosis.diagnosing import Diagnosis, diagnose
from companion.diagnosis.explaining import explain
from companion.diagnosis.memory import SavedMemory, SavedRow, saved_memory
from companion.drawing.drawing import Drawing, draw
from companion.findings import Finding
from companion.forward.recorder import Value
from companion.forward.watching import Cut, Mutation, Operation, Watch, watch
from companion.graph.keepers import Keeper, Keepers, who_keeps
from companion.graph.modules import modules
from companion.graph.nodes import Edge, GraphNode
from companion.graph.reading import Graph
from companion.graph.saved import SavedTensor
from companion.graph.text import walk_grad_fn
from companion.higher_order.nth_derivative import nth_derivative
from companion.higher_order.operators import laplacian, mixed
from companion.higher_order.own_rule import taylor_rule
from companion.higher_order.taylor import derivatives
from companion.source import Source

__version__ = "0.1.0"

__all__ = [
    "Arrival",
    "Cut",
    "Diagnosis",
    "Drawing",
    "Edge",
    "Finding",
    "Graph",
    "GraphNode",
    "Keeper",
    "Keepers",
    "Mutation",
    "Operation",
    "Player",
    "Program",
    "Recording",
    "SavedMemory",
    "SavedRow",
    "SavedTensor",
    "Source",
    "Step",
    "Value",
    "Watch",
    "derivatives",
    "diagnose",
    "draw",
    "explain",
    "laplacian",
    "mixed",
    "modules",
    "nth_derivative",
    "play",
    "record_backward",
    "saved_memory",
    "taylor_rule",
    "walk_grad_fn",
    "watch",
    "who_keeps",
    "write_backward",
]
