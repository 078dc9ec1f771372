"""What a program computes of its own weights alone, computed once and stored instead.

A standardized weight, a weight times a constant or a transposed one is the same in every inference.
Left in the graph a device computes it anew each time, no quantizer takes it for a weight, and
XNNPACK mistakes a weight that is used as it is and transposed too.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from edgekit.compress.graph import operator_name

if TYPE_CHECKING:
    import torch
    from torch.fx import Node

# A constant may be as large without regard to what it is made of, or else as many times larger.
SMALL_BYTES = 1 << 20
GROWTH = 4
# Views that cost nothing: what they are of is stored, they themselves stay.
FREE = {"expand", "detach", "alias", "lift_fresh_copy"}
# Say that they change something, or act, yet leave values as they are.
HARMLESS = {"detach", "_assert_tensor_metadata"}


@dataclass(frozen=True)
class _Known:
    """A value that no input changes, and the weights and buffers that it is made of."""

    value: Any
    sources: tuple[Node, ...]


def fold_constants(exported: torch.export.ExportedProgram) -> torch.export.ExportedProgram:
    """The same program, changed in place; untouched where nothing is computed of weights alone."""
    known = _known(exported)
    for node in reversed(list(known)):
        if node.op == "call_function" and _leaves(node, known) and not _is_stored(node, known):
            del known[node]
    computed = [node for node in known if node.op == "call_function"]
    last = [node for node in computed if _leaves(node, known)]
    if not last:
        return exported
    _store(exported, last, known)
    for node in reversed(computed):
        if not node.users:
            exported.graph.erase_node(node)
    _delete_unused(exported, {source for node in last for source in known[node].sources})
    exported.graph_module.recompile()
    return exported


def _known(exported: torch.export.ExportedProgram) -> dict[Node, _Known]:
    """The weights and constants, and the value of every operator that hangs on them alone."""
    import torch
    from executorch.exir.passes.constant_prop_pass import get_constant_placeholder_dict

    found = {
        node: _Known(tensor, (node,))
        for node, tensor in get_constant_placeholder_dict(exported).items()
        if type(tensor) in (torch.Tensor, torch.nn.Parameter) and not is_changed(node)
    }
    for node in exported.graph.nodes:
        if not is_pure(node) or any(given not in found for given in node.all_input_nodes):
            continue
        sources = tuple(dict.fromkeys(s for n in node.all_input_nodes for s in found[n].sources))
        if _bytes(node.meta.get("val")) > _most_bytes(sources):
            continue
        args, kwargs = torch.fx.node.map_arg(
            (node.args, node.kwargs), lambda given: found[given].value
        )
        with torch.no_grad():
            found[node] = _Known(node.target(*args, **kwargs), sources)
    return found


def is_pure(node: Node) -> bool:
    """Does it give the same each time, and change nothing? Not what rounds a quantized weight:
    the kernels do that.
    """
    import torch

    if node.op != "call_function" or is_changed(node):
        return False
    if node.target is operator.getitem:
        return True
    if not isinstance(node.target, torch._ops.OpOverload) or node.target.namespace != "aten":
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


def _leaves(node: Node, known: dict[Node, _Known]) -> bool:
    """Does something that depends on an input take it?"""
    return any(user not in known for user in node.users)


def _is_stored(node: Node, known: dict[Node, _Known]) -> bool:
    """May it become a constant? An output may not, nor what no weight is in, such as a range."""
    import torch

    users = [operator_name(user) for user in node.users if user not in known]
    if not isinstance(known[node].value, torch.Tensor) or not known[node].sources:
        return False
    return operator_name(node) not in FREE and "" not in users


def _store(
    exported: torch.export.ExportedProgram, nodes: list[Node], known: dict[Node, _Known]
) -> None:
    """Put a constant in the place of each, one for all that are equal: a loop's steps, say."""
    stored: list[tuple[Node, _Known]] = []
    for node in nodes:
        own = known[node]
        equal = (place for place, other in stored if _is_equal(own, other))
        place = next(equal, None) or _constant(exported, node, own)
        stored.append((place, own))
        node.replace_all_uses_with(place, propagate_meta=False)


def _is_equal(own: _Known, other: _Known) -> bool:
    import torch

    if own.sources != other.sources or own.value.dtype != other.value.dtype:
        return False
    return torch.equal(own.value, other.value)


def _constant(exported: torch.export.ExportedProgram, node: Node, known: _Known) -> Node:
    """A weight where a weight is in it, so that training finds it; else a buffer or a constant."""
    import torch
    from executorch.backends.transforms.utils import create_constant_placeholder

    first = min(known.sources, key=list(exported.graph.nodes).index)
    specs = exported.graph_signature.input_specs
    kind = next(spec.kind for spec in specs if getattr(spec.arg, "name", None) == first.name)
    tensor = known.value.clone(memory_format=torch.contiguous_format)
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
