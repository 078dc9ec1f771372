"""A converted program as a faster module, bit-equal to ``exported.module()``.

torch quantizes each value to int8 and dequantizes it: seven passes over memory, four of them into
new memory. Here one in-place function does both, and weights are dequantized once. The arithmetic
and its order are the same.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.fx import GraphModule, Node

from edgekit.compress.graph import operator_name

QUANTIZE, DEQUANTIZE = "quantize_per_tensor", "dequantize_per_tensor"
FOLDED = (DEQUANTIZE, "dequantize_per_channel", "dequantize_affine")


def fast_reference(exported: torch.export.ExportedProgram) -> torch.nn.Module:
    module = exported.module()
    assert isinstance(module, GraphModule)
    _fold_weights(module)
    _join_pairs(module)
    module.recompile()
    return module


def quantize_dequantize(
    value: torch.Tensor, scale: float, zero_point: int, low: int, high: int
) -> torch.Tensor:
    """Quantize and dequantize like torch's quantized_decomposed operators, in float32 throughout:
    it holds integers up to 2^24 exactly.
    """
    steps = value.float().mul(1.0 / scale).round_().add_(zero_point).clamp_(low, high)
    return steps.sub_(zero_point).mul_(scale)


def _fold_weights(module: GraphModule) -> None:
    for node in list(module.graph.nodes):
        if operator_name(node) not in FOLDED or not _is_constant(node):
            continue
        arguments, keywords = torch.fx.map_arg(
            (node.args, node.kwargs), lambda value: _attribute(module, str(value.target))
        )
        with torch.no_grad():
            module.register_buffer(f"_folded_{node.name}", node.target(*arguments, **keywords))
        with module.graph.inserting_before(node):
            _replace(node, module.graph.get_attr(f"_folded_{node.name}"))


def _is_constant(node: Node) -> bool:
    return all(value.op == "get_attr" for value in node.all_input_nodes)


def _attribute(module: GraphModule, name: str) -> Any:
    value: Any = module
    for part in name.split("."):
        value = getattr(value, part)
    return value


def _join_pairs(module: GraphModule) -> None:
    """Replace each quantize and its dequantizes by one ``quantize_dequantize``.

    Several readers share it unless an operator of the graph works in place.
    """
    shares = not any(_changes_its_input(node) for node in module.graph.nodes)
    for node in list(module.graph.nodes):
        if operator_name(node) != QUANTIZE or not _is_plain(node):
            continue
        readers = [user for user in list(node.users) if _reads(user, node)]
        joined = None
        for reader in readers:
            if joined is None or not shares:
                with module.graph.inserting_before(reader if joined else readers[0]):
                    joined = module.graph.call_function(quantize_dequantize, node.args[:5])
                joined.meta = dict(reader.meta)
            _replace(reader, joined)
        if not node.users:
            module.graph.erase_node(node)


def _is_plain(node: Node) -> bool:
    """Whether scale and zero point are numbers, not tensors."""
    return len(node.args) == 6 and not any(isinstance(value, Node) for value in node.args[1:])


def _reads(user: Node, node: Node) -> bool:
    """Whether ``user`` dequantizes ``node`` with the same parameters, to float32."""
    same = operator_name(user) == DEQUANTIZE and user.args == (node, *node.args[1:])
    return same and user.kwargs.get("out_dtype") in (None, torch.float32)


def _changes_its_input(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return bool(schema is not None and schema.is_mutable)


def _replace(node: Node, by: Node) -> None:
    node.replace_all_uses_with(by)
    node.graph.erase_node(node)
