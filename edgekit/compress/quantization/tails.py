"""Operators whose operands have very different ranges, and operators behind the last weights.

A detector concatenates boxes (0 to 640) and scores (0 to 1), so both get the same step. Such
operators have no weights: in float they cost no bytes and hardly any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch.fx import Node

from edgekit.compress.graph import HEAVY, operator_name, operator_of, tensor_at
from edgekit.compress.quantization.observe import ObservedValues
from edgekit.compress.quantization.simulate import ANNOTATION, Simulation

# So few weights cost nothing in float: the fixed ones by which a head sums up a distribution.
LIGHT = 64
JOINING = {"cat", "add"}
# If the largest values of two parts differ by this factor, the smaller part loses three bits.
UNLIKE = 8.0


def tail(simulation: Simulation, light: int = 0) -> tuple[str, ...]:
    """The names of rounded operators between the outputs and the last layers with more than
    ``light`` weights; without those that a layer reads too.
    """
    after_layers: set[Node] = set()
    for node in reversed(simulation.graph.graph.nodes):
        ends = node.op == "call_function" and not _is_heavy(simulation, node, light)
        observes = node.op == "call_module"
        if (ends or observes) and node.users:
            inside = [user.op == "output" or user in after_layers for user in node.users]
            after_layers |= {node} if all(inside) else set()
    nodes = [node for node in simulation.graph.graph.nodes if node in after_layers]
    return tuple(operator_of(node) for node in nodes if _is_rounded(node))


def unlike_joins(simulation: Simulation, seen: Mapping[str, ObservedValues]) -> tuple[str, ...]:
    """Rounded concatenations and additions whose operands' largest values differ by more than
    UNLIKE.
    """
    return tuple(
        operator_of(node)
        for node in simulation.graph.graph.nodes
        if operator_name(node) in JOINING and _is_rounded(node) and _is_unlike(node, seen)
    )


def _is_rounded(node: Node) -> bool:
    """Whether the quantizer gave the operator its own steps, rather than those of its input."""
    specs = getattr(node.meta.get(ANNOTATION), "input_qspec_map", {}).values()
    return node.op == "call_function" and any(hasattr(spec, "quant_min") for spec in specs)


def _is_heavy(simulation: Simulation, node: Node, light: int) -> bool:
    if operator_name(node) not in HEAVY:
        return False
    weights = list(_weights(simulation, node))
    return not weights or sum(weights) > light


def _weights(simulation: Simulation, node: Node) -> Iterator[int]:
    for value in node.all_input_nodes[1:]:
        behind = value.all_input_nodes[0] if value.op == "call_module" else value
        if behind.op == "get_attr":
            yield tensor_at(simulation.graph, behind).numel()


def _is_unlike(node: Node, seen: Mapping[str, ObservedValues]) -> bool:
    sizes = [
        max(-seen[value.name].low, seen[value.name].high)
        for value in node.all_input_nodes
        if value.name in seen and seen[value.name].samples
    ]
    return len(sizes) > 1 and max(sizes) > UNLIKE * min(sizes)
