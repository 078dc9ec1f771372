"""Run the float and the int8 model side by side, node by node, and repair layer by layer.

Each layer gets its inputs from the int8 model, whose earlier layers are already repaired, and the
float model's output as the goal. One pass is enough, and every layer is repaired for the inputs
that it will get.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.fx import Node

from edgekit.compress.batches import concatenate
from edgekit.compress.graph import WEIGHTED, attribute_at, operator_name, tensor_at
from edgekit.compress.quantization.simulate import Rounding, Simulation
from edgekit.recipe.tensors import Inputs

# Limit of the largest layer's outputs for all inputs together.
MEMORY_BYTES = 400_000_000
BATCH = 8


@dataclass(frozen=True)
class Layer:
    """One layer with weights. Its lists have one entry for each batch, in the same order.

    ``inputs``: its inputs in int8. ``float_outputs``: its outputs in the float model. ``compute``
    returns its int8 output for one of ``inputs``, with its current weight and bias.
    """

    node: Node
    weight: torch.Tensor
    bias: torch.Tensor | None
    rounding: Rounding
    inputs: list[torch.Tensor]
    float_outputs: list[torch.Tensor]
    compute: Callable[[torch.Tensor], torch.Tensor]

    @property
    def channel_axis(self) -> int:
        return 1 if operator_name(self.node).startswith("conv") else -1


def walk(simulation: Simulation, data: Sequence[Inputs], repair: Callable[[Layer], None]) -> None:
    """Call ``repair`` for each layer whose weight is currently rounded, in order."""
    with torch.no_grad():
        _Walk(simulation, _fitting(simulation, data), repair).run()


def _fitting(simulation: Simulation, data: Sequence[Inputs]) -> list[Inputs]:
    """As many inputs, evenly spread, as fit in memory together; in batches if the graph can."""
    largest = max(
        (
            getattr(node.meta.get("val"), "numel", lambda: 0)() * 4
            for node in simulation.graph.graph.nodes
        ),
        default=0,
    )
    count = min(len(data), max(8, MEMORY_BYTES // max(1, largest)))
    step = len(data) / count
    chosen = [data[int(index * step)] for index in range(count)]
    if not simulation.batches(data):
        return chosen
    return [concatenate(chosen[start : start + BATCH]) for start in range(0, len(chosen), BATCH)]


Values = list[Any]


class _Walk:
    def __init__(
        self, simulation: Simulation, parts: list[Inputs], repair: Callable[[Layer], None]
    ) -> None:
        self.simulation, self.parts, self.repair = simulation, parts, repair
        self.floats: dict[Node, Values] = {}
        self.int8: dict[Node, Values] = {}
        # a repair edits weights that the float model reads too
        self.original = {
            node: tensor_at(simulation.graph, node).clone()
            for node in simulation.graph.graph.nodes
            if node.op == "get_attr"
            and isinstance(attribute_at(simulation.graph, node), torch.Tensor)
        }

    def run(self) -> None:
        nodes = list(self.simulation.graph.graph.nodes)
        last = {value: node for node in nodes for value in node.all_input_nodes}
        inputs = iter(zip(*self.parts, strict=True))
        for node in nodes:
            if node.op == "placeholder":
                self.floats[node] = self.int8[node] = list(next(inputs))
            elif node.op == "get_attr":
                value = attribute_at(self.simulation.graph, node)
                self.floats[node] = [self.original.get(node, value)] * len(self.parts)
                self.int8[node] = [value] * len(self.parts)
            elif node.op == "call_module":
                rounding = self.simulation.roundings[node.name]
                behind = node.all_input_nodes[0]
                self.floats[node] = self.floats[behind]
                self.int8[node] = [rounding(value) for value in self.int8[behind]]
            elif node.op == "call_function":
                self.floats[node] = self._computed(node, self.floats)
                self._repair(node)
                self.int8[node] = self._computed(node, self.int8)
            for value in node.all_input_nodes:
                if last[value] is node and value.op != "get_attr":
                    self.floats.pop(value, None)
                    self.int8.pop(value, None)

    def _computed(self, node: Node, values: dict[Node, Values]) -> Values:
        return [self._call(node, values, part) for part in range(len(self.parts))]

    def _call(self, node: Node, values: dict[Node, Values], part: int) -> Any:
        arguments, keywords = torch.fx.map_arg(
            (node.args, node.kwargs), lambda value: values[value][part]
        )
        return node.target(*arguments, **keywords)  # type: ignore[operator]

    def _repair(self, node: Node) -> None:
        if operator_name(node) not in WEIGHTED or len(node.args) < 2:
            return
        value, weight = node.args[0], node.args[1]
        if not isinstance(weight, Node) or weight.name not in self.simulation.roundings:
            return
        rounding = self.simulation.roundings[weight.name]
        behind = weight.all_input_nodes[0]
        if not rounding.on or rounding.steps is None or behind.op != "get_attr":
            return
        bias: Any = node.args[2] if len(node.args) > 2 else None
        has_own_bias = isinstance(bias, Node) and bias.op == "get_attr"
        tensor = tensor_at(self.simulation.graph, behind)

        def compute(given: torch.Tensor) -> torch.Tensor:
            rest = (
                [attribute_at(self.simulation.graph, bias), *node.args[3:]]
                if has_own_bias
                else node.args[2:]
            )
            result = node.target(given, rounding(tensor), *rest, **node.kwargs)  # type: ignore[operator]
            assert isinstance(result, torch.Tensor)
            return result

        assert isinstance(value, Node)
        self.repair(
            Layer(
                node=node,
                weight=tensor,
                bias=tensor_at(self.simulation.graph, bias) if has_own_bias else None,
                rounding=rounding,
                inputs=self.int8[value],
                float_outputs=self.floats[node],
                compute=compute,
            )
        )
        # the repaired weight, rounded
        self.int8[weight] = [rounding(tensor)] * len(self.parts)
