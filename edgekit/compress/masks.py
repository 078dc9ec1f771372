"""Attention masks made small enough to be rounded.

A mask of -1e9 or finfo.min, added to scores before a softmax, takes the whole range of the sum's
256 steps, and the scores round to nothing. exp(-50) is below what float32 can add to 1: a mask
that is cut there hides as much. The cut is checked on the float outputs, and doubled where
the scores themselves reach further; a row that is masked as a whole would change, so its mask is
left alone.
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
# What a quantizer rounds the operands of.
ROUNDED = {"add", "mul", "cat"}
# Scores do not reach as far; masks start at -1e4.
HUGE = 1e3
CUTS = (50.0, 100.0, 200.0, 400.0, 800.0)
CHECKED = 4
TOLERANCE = 1e-6


def clamp_masks(graph: GraphModule, data: Sequence[Inputs]) -> set[str]:
    """Cut masks in place, as far as the float outputs for ``data`` stay what they are.

    Give the names of the operators before a softmax that cannot be rounded: an operand is still
    infinite.
    """
    before = [node for node in _before_softmax(graph) if operator_name(node) in ROUNDED]
    step = max(1, len(data) // CHECKED)
    some = list(data[::step][:CHECKED])
    if not before or not some:
        return set()
    with torch.no_grad():
        left: set[Node] = set()
        while True:
            lowest = _lowest(graph, before, some)
            mask = next((value for value in lowest if _is_mask(lowest[value], value, left)), None)
            if mask is None:
                break
            if not _cut(graph, mask, before, some):
                left.add(mask)
    endless = {value for value, low in lowest.items() if not math.isfinite(low)}
    return {node.name for node in before if endless & set(node.all_input_nodes)}


def _is_mask(low: float, value: Node, left: set[Node]) -> bool:
    return low <= -HUGE and value not in left


def _before_softmax(graph: GraphModule) -> list[Node]:
    """Every operator that a softmax's input comes from, back to those that multiply and sum up:
    a mask never goes through one.
    """
    waiting = [
        value
        for node in graph.graph.nodes
        if operator_name(node) in SOFTMAX
        for value in _scores(node)
    ]
    found: set[Node] = set()
    while waiting:
        node = waiting.pop()
        if node not in found and operator_name(node) not in {"", *SOFTMAX, *HEAVY}:
            found.add(node)
            waiting += node.all_input_nodes
    return [node for node in graph.graph.nodes if node in found]


def _scores(node: Node) -> Iterator[Node]:
    """What a softmax is taken of; of an attention in one operator, its mask."""
    attention = operator_name(node) == "scaled_dot_product_attention"
    value = node.args[3] if attention and len(node.args) > 3 else None
    value = node.kwargs.get("attn_mask", value) if attention else node.args[0]
    if isinstance(value, Node):
        yield value


def _lowest(graph: GraphModule, before: Iterable[Node], data: list[Inputs]) -> dict[Node, float]:
    """The lowest value of each operand, in the order in which they are computed."""
    wanted = {value for node in before for value in node.all_input_nodes}
    found = dict.fromkeys((node for node in graph.graph.nodes if node in wanted), 0.0)

    class Watching(Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if n in wanted and isinstance(result, torch.Tensor) and result.is_floating_point():
                found[n] = min(found[n], float(result.min()))
            return result

    for inputs in data:
        Watching(graph).run(*inputs)
    return found


def _cut(graph: GraphModule, mask: Node, before: list[Node], data: list[Inputs]) -> bool:
    """Clamp one mask, where operators before a softmax take it; False where no cut is harmless."""
    wanted = _outputs(graph, data)
    users = [node for node in before if mask in node.all_input_nodes]
    for cut in CUTS:
        clamped = _clamped(graph, mask, -cut)
        for user in users:
            user.replace_input_with(mask, clamped)
        graph.recompile()
        if _same(_outputs(graph, data), wanted):
            return True
        for user in users:
            user.replace_input_with(clamped, mask)
        graph.graph.erase_node(clamped)
        graph.recompile()
    return False


def _clamped(graph: GraphModule, mask: Node, low: float) -> Node:
    """A constant is clamped here and now, what is computed when it is computed."""
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


def _same(now: list[torch.Tensor], then: list[torch.Tensor]) -> bool:
    return all(_equal(a, b) for a, b in zip(now, then, strict=True))


def _equal(now: torch.Tensor, then: torch.Tensor) -> bool:
    if not then.is_floating_point():
        return torch.equal(now, then)
    finite = then[torch.isfinite(then)]
    largest = float(finite.abs().max()) if len(finite) else 0.0
    return torch.allclose(now, then, rtol=0, atol=TOLERANCE * largest, equal_nan=True)
