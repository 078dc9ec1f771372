"""An exported model as a graph: a node's layer, its weight, and what follows it."""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

# Functions of one tensor, element by element. Their input needs no steps for what they cut off.
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
    """The module's name in the recipe's model: '' for the model itself, None if unknown."""
    names = [value[0] for value in (node.meta.get("nn_module_stack") or {}).values()]
    return str(names[-1]) if names else None


def operator_of(node: Node) -> str:
    """An operator's name in a plan: ``head:cat`` for the node ``cat`` of the forward of module
    ``head``, ``:cat`` for one of the model's own forward.
    """
    return f"{module_of(node) or ''}:{node.name}"


def containers(graph: torch.fx.Graph) -> frozenset[str]:
    """Modules that contain others, the model itself included."""
    names = {""}
    for node in graph.nodes:
        stack = (node.meta.get("nn_module_stack") or {}).values()
        names.update(str(value[0]) for value in list(stack)[:-1])
    return frozenset(names)


def layer_of(node: Node, holding: frozenset[str]) -> str:
    """The layer that a node belongs to: its module, or the operator itself if the module contains
    others (``holding``, from ``containers``).
    """
    module = module_of(node) or ""
    return operator_of(node) if module in holding else module


def operator_names(graph: torch.fx.Graph) -> list[str]:
    return [operator_of(node) for node in graph.nodes if node.op == "call_function"]


def is_elementwise(node: Node) -> bool:
    return operator_name(node) in ELEMENTWISE and len(node.all_input_nodes) == 1


def attribute_at(graph: GraphModule, node: Node) -> Any:
    """The attribute that a get_attr node names."""
    value: Any = graph
    for part in str(node.target).split("."):
        value = getattr(value, part)
    return value


def tensor_at(graph: GraphModule, node: Node) -> torch.Tensor:
    """The parameter or buffer that a get_attr node names."""
    value = attribute_at(graph, node)
    assert isinstance(value, torch.Tensor)
    return value


def groups_of(node: Node) -> int:
    """The groups of a convolution; 1 for any other layer."""
    if not operator_name(node).startswith("conv"):
        return 1
    groups: Any = node.args[6] if len(node.args) > 6 else node.kwargs.get("groups", 1)
    return int(groups)


def float_nodes(graph: torch.fx.Graph, layers: frozenset[str]) -> set[str]:
    """Names of the nodes of these layers and of the element-wise operators that follow them.

    An activation in int8 would need the layer's output in int8.
    """
    names: set[str] = set()
    for node in graph.nodes:
        if node.op != "call_function":
            continue
        source = node.all_input_nodes[0] if node.all_input_nodes else None
        follows = source is not None and source.name in names
        alone = source is not None and len(source.users) == 1
        normalizes = operator_name(node) in ("batch_norm", "_native_batch_norm_legit_no_training")
        if in_layers(node, layers) or (follows and alone and (is_elementwise(node) or normalizes)):
            names.add(node.name)
    return names


def in_layers(node: Node, layers: frozenset[str]) -> bool:
    """Whether the node is one of these operators or inside one of these modules."""
    return any(within(operator_of(node), layer) for layer in layers)


def within(name: str, module: str) -> bool:
    """Whether ``name``, a module or an operator, is ``module`` or inside it."""
    return name == module or (bool(module) and name.startswith((f"{module}.", f"{module}:")))
