"""The companion of Inside Autograd: walk, draw and differentiate PyTorch's computation graphs."""

from companion.derivatives import nth_derivative
from companion.drawing import Drawing, draw
from companion.graph import Edge, Graph, GraphNode, SavedTensor
from companion.modules import modules
from companion.text import walk_grad_fn

__all__ = [
    "Drawing",
    "Edge",
    "Graph",
    "GraphNode",
    "SavedTensor",
    "draw",
    "modules",
    "nth_derivative",
    "walk_grad_fn",
]
