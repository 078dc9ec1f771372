"""Constant folding: what a program computes from no input is computed once and stored.

A standardized, scaled or transposed weight is the same in every inference, and so is a tensor of
ones. Unfolded, a device computes it each time, no quantizer or partitioner recognizes it as a
weight, and XNNPACK computes wrong results for a weight that is used both plain and transposed.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.compress.graph import operator_name

if TYPE_CHECKING:
    import torch
    from torch.fx import Node

# A constant may have SMALL_BYTES, or GROWTH times the bytes of its sources if that is more.
SMALL_BYTES = 1 << 20
GROWTH = 4
# Views that cost nothing: their source is stored, and they stay in the graph.
FREE = {"expand", "detach", "alias", "lift_fresh_copy"}
# Declared as mutating or impure, but do not change values.
HARMLESS = {"detach", "_assert_tensor_metadata"}
# Take shape and type of their first tensor, but not its values.
LIKE = {"full_like", "ones_like", "zeros_like", "new_full", "new_ones", "new_zeros"}
# Return memory as it was found.
UNSET = {"empty", "empty_like", "empty_strided", "empty_permuted", "new_empty", "new_empty_strided"}


@dataclass(frozen=True)
class _Constant:
    """A value that no input changes. ``sources``: weights and buffers that it is computed from."""

    value: Any
    sources: tuple[Node, ...]


def fold_constants(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """Fold constants in place; without any, the program is unchanged."""
    constants = _constants(exported)
    for node in reversed(list(constants)):
        if (
            node.op == "call_function"
            and _leaves(node, constants)
            and not _is_stored(node, constants)
        ):
            del constants[node]
    computed = [node for node in constants if node.op == "call_function"]
    last = [node for node in computed if _leaves(node, constants)]
    if not last:
        return exported
    _store(exported, last, constants)
    for node in reversed(computed):
        if not node.users:
            exported.graph.erase_node(node)
    _delete_unused(exported, {source for node in last for source in constants[node].sources})
    exported.graph_module.recompile()
    return exported


def _constants(exported: torch.export.ExportedProgram) -> dict[Node, _Constant]:
    """The weights and constants, and the value of every operator that depends on no input."""
    import torch
    from executorch.exir.passes.constant_prop_pass import get_constant_placeholder_dict

    constants = {
        node: _Constant(tensor, (node,))
        for node, tensor in get_constant_placeholder_dict(exported).items()
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and not is_changed(node)
    }
    for node in exported.graph.nodes:
        read = [] if operator_name(node) in LIKE else node.all_input_nodes
        if not is_pure(node) or any(source not in constants for source in read):
            continue
        sources = tuple(dict.fromkeys(s for n in read for s in constants[n].sources))
        if _bytes(node.meta.get("val")) > _most_bytes(sources):
            continue
        args, kwargs = torch.fx.node.map_arg(
            (node.args, node.kwargs),
            lambda source: constants[source].value if source in constants else _like(source),
        )
        with torch.no_grad():
            constants[node] = _Constant(node.target(*args, **kwargs), sources)
    return constants


def _like(node: Node) -> torch.Tensor:
    """Any tensor of a node's shape and type."""
    import torch

    value = node.meta["val"]
    return torch.empty(value.shape, dtype=value.dtype)


def is_pure(node: Node) -> bool:
    """Whether a node always returns the same value and changes nothing. Excludes operators that
    dequantize weights, which the kernels compute.
    """
    import torch

    if node.op != "call_function" or is_changed(node):
        return False
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
        return False
    if operator_name(node) in UNSET:
        return False
    return operator_name(node) in HARMLESS or not node.is_impure()


def is_changed(node: Node) -> bool:
    return any(_changes(user) for user in node.users)


def _changes(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and schema.is_mutable and operator_name(node) not in HARMLESS


def _most_bytes(sources: tuple[Node, ...]) -> int:
    return max(SMALL_BYTES, GROWTH * sum(_bytes(source.meta["val"]) for source in sources))


def _bytes(value: Any) -> int:
    if isinstance(value, list | tuple):
        return sum(map(_bytes, value))
    return value.numel() * value.element_size() if hasattr(value, "numel") else 0


def _leaves(node: Node, constants: dict[Node, _Constant]) -> bool:
    """Whether an operator that depends on an input reads it."""
    return any(user not in constants for user in node.users)


def _is_stored(node: Node, constants: dict[Node, _Constant]) -> bool:
    """Whether it may become a constant: not if it is an output."""
    import torch

    users = [operator_name(user) for user in node.users if user not in constants]
    if not isinstance(constants[node].value, torch.Tensor):
        return False
    return operator_name(node) not in FREE and "" not in users


def _store(
    exported: torch.export.ExportedProgram, nodes: list[Node], constants: dict[Node, _Constant]
) -> None:
    """Replace each node by a constant; equal ones, such as the steps of a loop, share it."""
    stored: list[tuple[Node, _Constant]] = []
    for node in nodes:
        constant = constants[node]
        equal = (place for place, other in stored if _is_equal(constant, other))
        place = next(equal, None) or _create_placeholder(exported, node, constant)
        stored.append((place, constant))
        node.replace_all_uses_with(place, propagate_meta=False)


def _is_equal(one: _Constant, other: _Constant) -> bool:
    import torch

    if one.sources != other.sources or one.value.dtype != other.value.dtype:
        return False
    return torch.equal(one.value, other.value)


def _create_placeholder(
    exported: torch.export.ExportedProgram, node: Node, constant: _Constant
) -> Node:
    """A parameter, buffer or constant, like its first source, so that training finds weights; a
    constant without any.
    """
    import torch
    from executorch.backends.transforms.utils import create_constant_placeholder
    from torch.export.graph_signature import InputKind

    specs = {spec.arg.name: spec for spec in exported.graph_signature.input_specs}
    places = [node for node in exported.graph.nodes if node.name in specs]
    inputs = (node for node in places if specs[node.name].kind is InputKind.USER_INPUT)
    first = min(constant.sources, key=places.index) if constant.sources else next(inputs)
    kind = specs[first.name].kind if constant.sources else InputKind.CONSTANT_TENSOR
    tensor = constant.value.clone(memory_format=torch.contiguous_format)
    with exported.graph.inserting_before(first):
        place: Node = create_constant_placeholder(
            exported, exported.graph, f"folded_{node.name}", kind, tensor, True
        )
    return place


def _delete_unused(exported: torch.export.ExportedProgram, sources: set[Node]) -> None:
    from executorch.backends.transforms.utils import delete_constant_placeholder

    for source in sources:
        if not source.users:
            delete_constant_placeholder(exported, source)
