"""Operators that round values of unlike size by one step, and those behind the last weights.

A detector's boxes (0 to 640) and scores (0 to 1) in one concatenation have one step for both. Such
operators have no weights: float, they cost no bytes and hardly any time.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from torch.fx import Node

from edgekit.compress.graph import HEAVY, operator_name, operator_of, tensor_at
from edgekit.compress.quantization.observe import Seen
from edgekit.compress.quantization.simulate import ANNOTATION, Simulation

# As many weights cost nothing in float: the fixed ones by which a head sums up a distribution.
LIGHT = 64
JOINING = {"cat", "add"}
# From this factor between the largest values of two parts on, the smaller loses three bits.
UNLIKE = 8.0


def tail(simulation: Simulation, light: int = 0) -> tuple[str, ...]:
    """Rounded operators between the last layers of more than ``light`` weights and the outputs,
    by name; without those that a layer takes too.
    """
    found: set[Node] = set()
    for node in reversed(simulation.graph.graph.nodes):
        ends = node.op == "call_function" and not _is_heavy(simulation, node, light)
        observes = node.op == "call_module"
        if (ends or observes) and node.users:
            inside = [user.op == "output" or user in found for user in node.users]
            found |= {node} if all(inside) else set()
    nodes = [node for node in simulation.graph.graph.nodes if node in found]
    return tuple(operator_of(node) for node in nodes if _is_rounded(node))


def unlike_joins(simulation: Simulation, seen: Mapping[str, Seen]) -> tuple[str, ...]:
    """Rounded concatenations and additions of values whose largest differ by a factor of UNLIKE."""
    return tuple(
        operator_of(node)
        for node in simulation.graph.graph.nodes
        if operator_name(node) in JOINING and _is_rounded(node) and _is_unlike(node, seen)
    )


def _is_rounded(node: Node) -> bool:
    """Has a quantizer given the operator steps of its own, rather than those of its input?"""
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


def _is_unlike(node: Node, seen: Mapping[str, Seen]) -> bool:
    sizes = [
        max(-seen[value.name].low, seen[value.name].high)
        for value in node.all_input_nodes
        if value.name in seen and seen[value.name].samples
    ]
    return len(sizes) > 1 and max(sizes) > UNLIKE * min(sizes)
