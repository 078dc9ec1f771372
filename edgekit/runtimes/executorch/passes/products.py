"""Replaces matrix products with a weight by linear layers.

XNNPACK and its quantizer support only ``linear``. ``x @ weight.t()`` would stay outside the
delegate and in float. Inside the forward of an nn.Linear, the lowering would treat the whole
forward as ``linear``, whatever else it computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.compress.graph import operator_name
from edgekit.runtimes.executorch.passes.fold import is_changed, is_pure
from edgekit.runtimes.executorch.passes.rewrite import call_like, put_in_place

if TYPE_CHECKING:
    import torch
    from torch.fx import Node

PRODUCTS = {"matmul", "mm"}
TRANSPOSES = {"t", "transpose", "permute"}
LINEAR = "torch.nn.modules.linear.Linear"
OTHER = "torch.nn.modules.module.Module"


@dataclass(frozen=True)
class _Product:
    """``x @ weight``, plus an optional ``bias``; ``last`` is the node with the result."""

    x: Node
    weight: Node
    bias: Node | None
    last: Node


def products_as_linear(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Replace products in place. A weight may then need transposing, which fold_constants does."""
    fixed = _fixed(exported)
    for node in list(exported.graph.nodes):
        if (product := _product(node, fixed)) is not None:
            _replace(node, product)
    exported.graph_module.recompile()
    return exported


def hide_modules(graph: torch.fx.Graph) -> None:
    """Hide the nn.Linear module of all operators but ``linear``.

    If such a module computes anything else (torch.vmap, a replaced forward, a hook), the lowering
    keeps its product and loses the rest, such as its bias.
    """
    for node in graph.nodes:
        stack = node.meta.get("nn_module_stack")
        if stack and operator_name(node) != "linear":
            key, (name, kind) = list(stack.items())[-1]
            if kind == LINEAR:
                node.meta["nn_module_stack"] = stack | {key: (name, OTHER)}


def _fixed(exported: torch.export.ExportedProgram) -> set[Node]:
    """Weights, constants, and nodes that depend only on these."""
    from executorch.exir.passes.constant_prop_pass import get_constant_placeholder_dict

    fixed = {node for node in get_constant_placeholder_dict(exported) if not is_changed(node)}
    for node in exported.graph.nodes:
        if is_pure(node) and node.all_input_nodes and fixed.issuperset(node.all_input_nodes):
            fixed.add(node)
    return fixed


def _product(node: Node, fixed: set[Node]) -> _Product | None:
    """The product of an activation with two or more dimensions and a two-dimensional weight."""
    arguments: tuple[Any, ...] = node.args
    if operator_name(node) == "addmm" and not node.kwargs:
        bias, x, weight = arguments
    elif operator_name(node) in PRODUCTS:
        bias, (x, weight) = None, arguments
    else:
        return None
    one, other = x.meta["val"], weight.meta["val"]
    matrices = one.dim() >= 2 and other.dim() == 2 and other.is_floating_point()
    if not matrices or weight not in fixed or x in fixed:
        return None
    if bias is not None:
        return _Product(x, weight, bias, node) if _is_bias(bias, weight, fixed) else None
    return _Product(x, weight, *(_addition(node, weight, fixed) or (None, node)))


def _is_bias(value: Node, weight: Node, fixed: set[Node]) -> bool:
    return value in fixed and value.meta["val"].shape == weight.meta["val"].shape[1:]


def _addition(node: Node, weight: Node, fixed: set[Node]) -> tuple[Node, Node] | None:
    """The bias and its addition, if that is the only user of the product."""
    user = next(iter(node.users), node)
    if len(node.users) != 1 or str(user.target) != "aten.add.Tensor" or user.kwargs:
        return None
    others = [value for value in user.all_input_nodes if value is not node]
    return (others[0], user) if others and _is_bias(others[0], weight, fixed) else None


def _replace(node: Node, product: _Product) -> None:
    import torch

    aten, weight, last = torch.ops.aten, product.weight, product.last
    bias = [] if product.bias is None else [product.bias]
    with node.graph.inserting_before(last):
        is_turned = _is_transposed(weight)
        rows = weight.all_input_nodes[0] if is_turned else call_like(node, aten.t.default, weight)
        linear = call_like(node, aten.linear.default, product.x, rows, *bias)
    put_in_place(last, linear)
    for old in (node, weight):
        if old is not last and old.op == "call_function" and not old.users:
            old.graph.erase_node(old)


def _is_transposed(weight: Node) -> bool:
    """Whether the weight is the transpose of another matrix."""
    if operator_name(weight) not in TRANSPOSES:
        return False
    value, source = weight.meta["val"], weight.all_input_nodes[0].meta["val"]
    return bool(value.stride() == source.stride()[::-1])
