"""Outputs' ranges from few inputs, made wider for those that nobody has seen.

Some tens of calibration inputs hold few values of a small output, such as ten scores, and hardly
their extremes: another input's value is cut off at the edge of the range, and with it the answer.
Inner tensors have thousands of values an input, of which the few beyond the range change little.
The extremes of k values of a normal distribution grow with sqrt(2 ln k), so the range of what was
seen is stretched to that of ENOUGH inputs. Measured in docs/benchmarks.md.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

import torch
from torch.fx import Node

from edgekit.compress.graph import operator_name
from edgekit.compress.quantization.simulate import Point, Simulation

# From so many fitted inputs on (of 50 that calibrate) the extremes are taken as seen.
FEW = 40
ENOUGH = 1000
# Their results have an edge that no input passes.
BOUNDED = {"sigmoid", "softmax", "_softmax", "tanh", "hardtanh", "relu6", "clamp", "hardsigmoid"}
# Their results are values of their operand, or none of its own extremes.
PASSING = {
    "view", "reshape", "_unsafe_view", "flatten", "unflatten", "squeeze", "unsqueeze", "permute",
    "transpose", "t", "clone", "contiguous", "select", "slice", "cat", "getitem", "split",
    "split_with_sizes", "chunk", "stack", "unbind", "to", "_to_copy", "expand", "alias", "detach",
    "neg",
}  # fmt: skip


def give_headroom(simulation: Simulation, inputs: int) -> frozenset[str]:
    """Widen the outputs' steps in place, which so many inputs were seen for; give the points."""
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


def _stretch(seen: int, wanted: int) -> float:
    return math.sqrt(math.log(wanted) / math.log(seen))


def _output_points(simulation: Simulation) -> Iterator[Point]:
    """Where the outputs are rounded last; none of an output that is float."""
    (output,) = (node for node in simulation.graph.graph.nodes if node.op == "output")
    waiting: list[Node] = output.all_input_nodes
    known = set(waiting)
    while waiting:
        node = waiting.pop()
        if node.name in simulation.points:
            yield simulation.points[node.name]
        elif operator_name(node) in PASSING:
            fresh = [one for one in node.all_input_nodes if one not in known]
            known |= set(fresh)
            waiting += fresh
