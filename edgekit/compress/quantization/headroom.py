"""Wider ranges for outputs that were calibrated on few inputs.

Some tens of calibration inputs give few values of a small output, such as ten scores, and rarely
their extremes. A larger value of another input is clipped, which can change the answer. Inner
tensors have thousands of values for each input; the few beyond the range change little.
The extremes of k values of a normal distribution grow with sqrt(2 ln k), so the observed range is
stretched to that of ENOUGH inputs. Measured in docs/benchmarks.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.fx import Node

from edgekit.compress.graph import operator_name
from edgekit.compress.quantization.simulate import Point, Simulation

# With so many fitted inputs (of 50 for calibration) or more, the observed extremes are used.
FEW = 40
ENOUGH = 1000
# Operators whose results are bounded for any input.
BOUNDED = {"sigmoid", "softmax", "_softmax", "tanh", "hardtanh", "relu6", "clamp", "hardsigmoid"}
# Operators that pass on values of their operand.
PASSING = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute",
    "transpose", "t", "clone", "contiguous", "select", "slice", "cat", "getitem", "split",
    "split_with_sizes", "chunk", "stack", "unbind", "to", "_to_copy", "expand", "alias", "detach",
    "neg",
}  # fmt: skip


def give_headroom(simulation: Simulation, inputs: int) -> frozenset[str]:
    """Widen the steps of the outputs in place; return the changed points. ``inputs``: the number
    of inputs that they were observed on.
    """
    if inputs >= FEW:
        return frozenset()
    changed: set[str] = set()
    for point in _output_points(simulation):
        maker = simulation.node(point.name).all_input_nodes[0]
        steps = simulation.roundings[point.name].steps
        value = maker.meta.get("val")
        if (
            steps is not None
            and point.name not in changed
            and isinstance(value, torch.Tensor)
            and operator_name(maker) not in BOUNDED
        ):
            factor = _stretch(max(2, inputs * value.numel()), ENOUGH * value.numel())
            simulation.set_steps(point.group, replace(steps, scale=steps.scale * factor))
            changed |= {shared.name for shared in simulation.groups[point.group]}
    return frozenset(changed)


def _stretch(observed: int, wanted: int) -> float:
    return math.sqrt(math.log(wanted) / math.log(observed))


def _output_points(simulation: Simulation) -> Iterator[Point]:
    """The points where the outputs are rounded last; a float output has none."""
    (output,) = (node for node in simulation.graph.graph.nodes if node.op == "output")
    waiting: list[Node] = output.all_input_nodes
    visited = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name in simulation.points:
            yield simulation.points[node.name]
        elif operator_name(node) in PASSING:
            unvisited = [one for one in node.all_input_nodes if one not in visited]
            visited |= set(unvisited)
            waiting += unvisited
