"""An exported model as a graph: which layer a node is of, its weight, and what follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

# Functions of one tensor, element by element: what they cut off or squeeze needs no steps.
ELEMENTWISE = {
    "relu", "relu6", "leaky_relu", "hardtanh", "hardswish", "hardsigmoid", "sigmoid", "tanh",
    "silu", "gelu", "elu", "celu", "selu", "mish", "softplus", "clamp", "clamp_min", "prelu",
}  # fmt: skip
# Layers whose weight has one row for each output channel.
WEIGHTED = {"conv1d", "conv2d", "conv3d", "linear"}
# Operators that multiply and accumulate.
HEAVY = WEIGHTED | {
    "conv_transpose1d", "conv_transpose2d", "conv_transpose3d", "convolution", "matmul", "bmm",
    "einsum", "addmm", "scaled_dot_product_attention", "lstm", "gru", "embedding",
}  # fmt: skip


def operator_name(node: Node) -> str:
    """``conv2d`` of ``aten.conv2d.default``, in-place forms by the plain name; '' for no call."""
    if node.op != "call_function":
        return ""
    packet: Any = getattr(node.target, "overloadpacket", node.target)
    return str(getattr(packet, "__name__", packet)).split(".")[-1].removesuffix("_")


def module_of(node: Node) -> str | None:
    """The module's name in the recipe's model, '' the model itself, None where unknown."""
    names = [value[0] for value in (node.meta.get("nn_module_stack") or {}).values()]
    return str(names[-1]) if names else None


def operator_of(node: Node) -> str:
    """An operator's name in a plan: ``head:cat`` for the node ``cat`` of the forward of module
    ``head``, ``:cat`` for one of the model's own forward.
    """
    return f"{module_of(node) or ''}:{node.name}"


def containers(graph: torch.fx.Graph) -> frozenset[str]:
    """Modules that hold others; the model itself is one."""
    found = {""}
    for node in graph.nodes:
        stack = (node.meta.get("nn_module_stack") or {}).values()
        found.update(str(value[0]) for value in list(stack)[:-1])
    return frozenset(found)


def layer_of(node: Node, holding: frozenset[str]) -> str:
    """The layer that a node belongs to: its module, or the operator itself where the module only
    holds others (``holding``, from ``containers``).
    """
    module = module_of(node) or ""
    return operator_of(node) if module in holding else module


def operator_names(graph: torch.fx.Graph) -> list[str]:
    return [operator_of(node) for node in graph.nodes if node.op == "call_function"]


def is_elementwise(node: Node) -> bool:
    return operator_name(node) in ELEMENTWISE and len(node.all_input_nodes) == 1


def attribute_at(graph: GraphModule, node: Node) -> Any:
    """What a get_attr node names."""
    found: Any = graph
    for part in str(node.target).split("."):
        found = getattr(found, part)
    return found


def tensor_at(graph: GraphModule, node: Node) -> torch.Tensor:
    """The parameter or buffer that a get_attr node names."""
    found = attribute_at(graph, node)
    assert isinstance(found, torch.Tensor)
    return found


def groups_of(node: Node) -> int:
    """Of a convolution; 1 for any other layer."""
    if not operator_name(node).startswith("conv"):
        return 1
    groups: Any = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    return int(groups)


def float_nodes(graph: torch.fx.Graph, layers: frozenset[str]) -> set[str]:
    """Names of the nodes of these layers, with what follows each of them element by element.

    An activation alone in int8 would need its input in int8, and with it the layer's output.
    """
    found: set[str] = set()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        behind = node.all_input_nodes[0] if node.all_input_nodes else None
        follows = behind is not None and behind.name in found
        alone = behind is not None and len(behind.users) == 1
        normalizes = operator_name(node) in ("batch_norm", "_native_batch_norm_legit_no_training")
        if in_layers(node, layers) or (follows and alone and (is_elementwise(node) or normalizes)):
            found.add(node.name)
    return found


def in_layers(node: Node, layers: frozenset[str]) -> bool:
    """Is the node one of these operators, of one of these modules, or of one inside them?"""
    return any(within(operator_of(node), layer) for layer in layers)


def within(name: str, module: str) -> bool:
    """Is a module or an operator this one, or inside it?"""
    return name == module or (bool(module) and name.startswith((f"{module}.", f"{module}:")))
