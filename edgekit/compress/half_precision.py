"""An exported graph that computes in half precision (float16) wherever that is right.

The types are chosen operator by operator, as torch.autocast does, on a graph whose values are
known:

- Layers with weights and matrix products are computed in half precision, with their weights.
- Operators of their results are, too, where the runtime has kernels for it, or where they only move
  values.
- All others stay float32: normalizations, whose sums of squares need its range, and functions
  that the runtime has no kernel for. So do operators with values that float16 cannot hold.

Inputs and outputs of the graph keep their types, so that the artifact is used like any other:
conversions at both ends are part of the program, and cost less than 1 % of an inference.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch.fx import GraphModule, Interpreter, Node

from edgekit.compress.graph import HEAVY, float_nodes, operator_name, tensor_at
from edgekit.recipe.tensors import Inputs

# float16 ends at 65504, and has less than ten bits below 6e-5. A half and four times of that leave
# room for inputs that were not seen.
HIGHEST, LOWEST = 2.0**15, 2.0**-12
# The least normal float16: smaller numbers lose bits.
LEAST_NUMBER = 2.0**-14
# Operators that only move values.
MOVES = {
    "alias", "amax", "amin", "cat", "chunk", "clone", "constant_pad_nd", "contiguous", "detach",
    "dropout", "expand", "flatten", "flip", "getitem", "index", "index_select", "masked_fill",
    "movedim", "narrow", "pad", "permute", "pixel_shuffle", "pixel_unshuffle", "repeat", "reshape",
    "roll", "select", "slice", "split", "split_with_sizes", "squeeze", "stack", "t", "transpose",
    "unbind", "unflatten", "unsqueeze", "upsample_nearest2d", "view", "where",
}  # fmt: skip
# Operators of two tensors. A number in place of one would be converted in every inference.
BINARY = {"add", "sub", "mul", "div"}
DEQUANTIZE = "dequantize_"


def to_half(
    graph: GraphModule,
    data: Sequence[Inputs],
    computed: frozenset[str],
    float_layers: Iterable[str] = (),
) -> int:
    """Convert the graph in place, and return how many operators compute in half precision.

    ``data``: inputs that show which values are in the range of float16. ``computed``: the operators
    that the runtime computes in half precision. ``float_layers``: as in a plan; they stay float32.
    """
    _without_writes(graph)
    _spell_out(graph)
    conversion = _Conversion(graph, _magnitudes(graph, data), computed)
    fixed = float_nodes(graph.graph, frozenset(float_layers))
    for node in list(graph.graph.nodes):
        if node.op == "call_function":
            conversion.convert(node, node.name not in fixed)
        elif node.op == "output":
            conversion.restore_types(node)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    _delete_unused(graph)
    graph.recompile()
    return conversion.count


def _without_writes(graph: GraphModule) -> None:
    """Replace operators that change their input in place, such as relu_, by those that do not.

    An input and an output of one operator could not have different types otherwise.
    """
    order = {node: place for place, node in enumerate(graph.graph.nodes)}
    for node in graph.graph.nodes:
        target = _without_write(node)
        if target is None:
            continue
        changed: Any = node.args[0]
        for user in list(changed.users):
            if order[user] > order[node]:
                user.replace_input_with(changed, node)
        node.target = target


def _without_write(node: Node) -> Any:
    """The operator that returns what this one writes; None if there is none, or it writes none."""
    if not _changes_its_input(node) or not isinstance(node.target, torch._ops.OpOverload):
        return None
    space, _, name = node.target._schema.name.partition("::")
    packet = getattr(getattr(torch.ops, space), name.removesuffix("_"), None)
    overload = node.target._overloadname
    return getattr(packet, overload, None) if name.endswith("_") else None


def _spell_out(graph: GraphModule) -> None:
    """Write silu and hardsigmoid as what lowering makes of them, which would be in float32."""
    aten = torch.ops.aten
    for node in list(graph.graph.nodes):
        if operator_name(node) not in ("silu", "hardsigmoid"):
            continue
        x: Any = node.args[0]
        with graph.graph.inserting_before(node):
            call = graph.graph.call_function
            if operator_name(node) == "silu":
                parts = [call(aten.sigmoid.default, (x,))]
                parts.append(call(aten.mul.Tensor, (x, parts[0])))
            else:
                parts = [call(aten.mul.Tensor, (x, 1 / 6))]
                parts.append(call(aten.add.Tensor, (parts[0], 0.5)))
                parts.append(call(aten.clamp.default, (parts[1], 0.0, 1.0)))
        for part in parts:
            part.meta = dict(node.meta)
        node.replace_all_uses_with(parts[-1], propagate_meta=False)
        graph.graph.erase_node(node)


def _magnitudes(graph: GraphModule, data: Sequence[Inputs]) -> dict[Node, float]:
    """The largest finite magnitude of each float value, for any of the data."""
    found: dict[Node, float] = {}

    class Watching(Interpreter):
        def run_node(self, n: Node) -> Any:
            result = super().run_node(n)
            if isinstance(result, torch.Tensor) and result.dtype == torch.float32:
                finite = result[torch.isfinite(result)]
                largest = float(finite.abs().max()) if len(finite) else 0.0
                found[n] = max(found.get(n, 0.0), largest)
            elif isinstance(result, (tuple, list)):
                found[n] = 1.0  # of its parts, the users are checked
            return result

    with torch.no_grad():
        for inputs in data:
            Watching(graph).run(*inputs)
    return found


class _Conversion:
    """``half``: the values that are in half precision now. ``count``: operators that compute."""

    def __init__(
        self, graph: GraphModule, magnitudes: dict[Node, float], computed: frozenset[str]
    ) -> None:
        self.graph, self.magnitudes, self.computed = graph, magnitudes, computed
        self.half: set[Node] = set()
        self.count = 0
        self._converted: dict[Node, Node] = {}

    def convert(self, node: Node, may: bool) -> None:
        floats = [value for value in node.all_input_nodes if value in self.magnitudes]
        name = operator_name(node) or getattr(node.target, "__name__", "")
        wants = name in self.computed if name in HEAVY else not self.half.isdisjoint(floats)
        half = may and wants and (name in self.computed or name in MOVES)
        half = half and self._fits(node, floats) and not _is_integer_arithmetic(node)
        if _changes_its_input(node) or name == "getitem":  # it shares the type of that
            half = floats[:1] != [] and floats[0] in self.half
        if half and node in self.magnitudes:
            self.half.add(node)
            self.count += name in self.computed
        for value in floats:
            if (value in self.half) != half and not _is_same(node, value):
                node.replace_input_with(value, self._other(value))
        if half and name in BINARY and isinstance(node.args[1], (int, float)):
            self._store_number(node, node.args[1])

    def _store_number(self, node: Node, number: float) -> None:
        name = f"_half_number_{node.name}"
        self.graph.register_buffer(name, torch.tensor(number, dtype=torch.float16))
        with self.graph.graph.inserting_before(node):
            stored = self.graph.graph.get_attr(name)
        stored.meta = {"nn_module_stack": node.meta.get("nn_module_stack")}
        node.args = (node.args[0], stored, *node.args[2:])

    def restore_types(self, output: Node) -> None:
        for value in output.all_input_nodes:
            if value in self.half:
                output.replace_input_with(value, self._other(value))

    def _fits(self, node: Node, floats: list[Node]) -> bool:
        """Whether all values and numbers are within the range of float16. Infinity is, zero is. A
        smaller number, such as 1e-8 in a denominator, would become zero.
        """
        if not floats:
            return False
        numbers = [abs(one) for one in _numbers(node) if math.isfinite(one)]
        sizes = [self.magnitudes[value] for value in (*floats, node) if value in self.magnitudes]
        seen = [size for size in sizes if size > 0]
        smallest = min((number for number in numbers if number > 0), default=1.0)
        return (
            max([*sizes, *numbers]) <= HIGHEST
            and min(seen, default=1.0) >= LOWEST
            and smallest >= LEAST_NUMBER
        )

    def _other(self, value: Node) -> Node:
        """The value in the other of the two types; made once."""
        if value not in self._converted:
            dtype = torch.float32 if value in self.half else torch.float16
            self._converted[value] = self._in(value, dtype)
        return self._converted[value]

    def _in(self, value: Node, dtype: torch.dtype) -> Node:
        graph = self.graph.graph
        if value.op == "get_attr":
            name = f"_half_{str(value.target).replace('.', '_')}"
            self.graph.register_buffer(name, tensor_at(self.graph, value).detach().to(dtype))
            with graph.inserting_after(value):
                made = graph.get_attr(name)
        else:
            copy = torch.ops.aten._to_copy.default
            with graph.inserting_after(value):
                made = graph.call_function(copy, (value,), {"dtype": dtype})
        made.meta = {"nn_module_stack": value.meta.get("nn_module_stack")}
        return made


def _is_integer_arithmetic(node: Node) -> bool:
    """Whether the delegate computes it in integers: a layer with int8 weights, or an operator of
    int8 values whose result is rounded again.
    """
    name = operator_name(node)
    inputs = [operator_name(value) for value in node.all_input_nodes]
    rounded = [one.startswith(DEQUANTIZE) for one in inputs]
    return any(rounded[1:2]) if name in HEAVY else all(rounded)


def _changes_its_input(node: Node) -> bool:
    schema = getattr(node.target, "_schema", None)
    return schema is not None and bool(schema.is_mutable)


def _is_same(node: Node, value: Node) -> bool:
    """Whether ``value`` is what the node changes in place, or takes a part of."""
    first = node.args[0] if node.args else None
    return value is first and (_changes_its_input(node) or node.target is operator.getitem)


def _numbers(node: Node) -> list[float]:
    """The numbers that an operator computes with. Whole ones of a move are places and sizes."""
    numbers: list[float] = []
    kinds = float if operator_name(node) in MOVES else (int, float)

    def note(argument: Any) -> None:
        if isinstance(argument, kinds):
            numbers.append(float(argument))

    torch.fx.node.map_aggregate((node.args, node.kwargs), note)
    return numbers


def _delete_unused(graph: GraphModule) -> None:
    """Delete the tensors of the graph itself that no node reads any more."""
    used = {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}
    for name, _ in (*graph.named_parameters(), *graph.named_buffers()):
        if name not in used:
            module, _, last = name.rpartition(".")
            delattr(graph.get_submodule(module), last)
