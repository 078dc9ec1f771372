"""Attention masks clamped to values that int8 can represent beside the scores.

A mask of -1e9 or finfo.min, added to scores before a softmax, takes the whole range of the sum's
256 steps: all scores round to zero. float32 cannot add exp(-50) to 1, so a mask clamped to -50
hides as much. The clamp is checked on the float outputs, and doubled where scores are larger. A
mask that covers a whole row is not clamped: that row's outputs would change.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node
from torch.utils import _pytree as pytree

from edgekit.compress.graph import HEAVY, operator_name, tensor_at
from edgekit.recipe.tensors import Inputs

SOFTMAX = {"softmax", "_softmax", "_safe_softmax", "log_softmax", "scaled_dot_product_attention"}
# A quantizer rounds the operands of these.
ROUNDED = {"add", "mul", "cat"}
# Scores are smaller; masks start at -1e4.
HUGE = 1e3
CUTS = (50.0, 100.0, 200.0, 400.0, 800.0)
CHECKED = 4
TOLERANCE = 1e-6


def clamp_masks(graph: GraphModule, data: Sequence[Inputs]) -> set[str]:
    """Clamp masks in place where the float outputs for ``data`` do not change.

    Return the names of the operators before a softmax that cannot be rounded, because an operand
    is still infinite.
    """
    operators = [
        node for node in _operators_before_softmax(graph) if operator_name(node) in ROUNDED
    ]
    step = max(1, len(data) // CHECKED)
    checked = list(data[::step][:CHECKED])
    if not operators or not checked:
        return set()
    with torch.no_grad():
        unclamped: set[Node] = set()
        while True:
            lowest = _lowest(graph, operators, checked)
            mask = next(
                (value for value in lowest if _is_mask(lowest[value], value, unclamped)), None
            )
            if mask is None:
                break
            if not _clamp(graph, mask, operators, checked):
                unclamped.add(mask)
    infinite = {value for value, low in lowest.items() if not math.isfinite(low)}
    return {node.name for node in operators if infinite & set(node.all_input_nodes)}


def _is_mask(low: float, value: Node, unclamped: set[Node]) -> bool:
    return low <= -HUGE and value not in unclamped


def _operators_before_softmax(graph: GraphModule) -> list[Node]:
    """All operators between a softmax's input and the last matrix product before it. A mask never
    passes through a matrix product.
    """
    waiting = [
        value
        for node in graph.graph.nodes
        if operator_name(node) in SOFTMAX
        for value in _scores(node)
    ]
    operators: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in operators and operator_name(node) not in {"", *SOFTMAX, *HEAVY}:
            operators.add(node)
            waiting += node.all_input_nodes
    return [node for node in graph.graph.nodes if node in operators]


def _scores(node: Node) -> Iterator[Node]:
    """The input of a softmax; for a fused attention operator, its mask."""
    attention = operator_name(node) == "scaled_dot_product_attention"
    value = node.args[3] if attention and len(node.args) > 3 else None
    value = node.kwargs.get("attn_mask", value) if attention else node.args[0]
    if isinstance(value, Node):
        yield value


def _lowest(graph: GraphModule, operators: Iterable[Node], data: list[Inputs]) -> dict[Node, float]:
    """The lowest value of each operand, in the order of computation."""
    wanted = {value for node in operators for value in node.all_input_nodes}
    lowest = dict.fromkeys((node for node in graph.graph.nodes if node in wanted), 0.0)

    class Watching(Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if n in wanted and isinstance(result, torch.Tensor) and result.is_floating_point():
                lowest[n] = min(lowest[n], float(result.min()))
            return result

    for inputs in data:
        Watching(graph).run(*inputs)
    return lowest


def _clamp(graph: GraphModule, mask: Node, operators: list[Node], data: list[Inputs]) -> bool:
    """Clamp one mask where ``operators`` read it; False if every clamp changes the outputs."""
    expected = _outputs(graph, data)
    users = [node for node in operators if mask in node.all_input_nodes]
    for cut in CUTS:
        clamped = _clamped(graph, mask, -cut)
        for user in users:
            user.replace_input_with(mask, clamped)
        graph.recompile()
        if _same(_outputs(graph, data), expected):
            return True
        for user in users:
            user.replace_input_with(clamped, mask)
        graph.graph.erase_node(clamped)
        graph.recompile()
    return False


def _clamped(graph: GraphModule, mask: Node, low: float) -> Node:
    """A node with the clamped mask: a constant is clamped now, a computed mask at run time."""
    with graph.graph.inserting_after(mask):
        if mask.op == "get_attr":
            name = f"_clamped_{str(mask.target).replace('.', '_')}"
            graph.register_buffer(name, tensor_at(graph, mask).clamp(min=low))
            clamped = graph.graph.create_node("get_attr", name)
        else:
            clamp = torch.ops.aten.clamp.default
            clamped = graph.graph.create_node("call_function", clamp, (mask, low))
    clamped.meta = {key: mask.meta[key] for key in ("val", "nn_module_stack") if key in mask.meta}
    return clamped


def _outputs(graph: GraphModule, data: list[Inputs]) -> list[torch.Tensor]:
    return [leaf for inputs in data for leaf in pytree.tree_leaves(graph(*inputs))]


def _same(actual: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return all(_equal(a, b) for a, b in zip(actual, expected, strict=True))


def _equal(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    if not expected.is_floating_point():
        return torch.equal(actual, expected)
    finite = expected[torch.isfinite(expected)]
    largest = float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(actual, expected, rtol=0, atol=TOLERANCE * largest, equal_nan=True)
