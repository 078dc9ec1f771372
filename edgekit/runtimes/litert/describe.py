"""The content of a .tflite as a Program: operators, layers, and what the delegate takes.

Which operators the delegate takes is decided when the file is loaded. So the runner loads it, runs
once and tells: its profile has an event for each operator outside.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from itertools import groupby

from edgekit.program import Call, Kind, Operator, Program, Quantization, TensorSpec
from edgekit.runner.client import ProfileRow, RunReport
from edgekit.runtimes.litert.flatbuffer import Graph, Node
from edgekit.runtimes.litert.native import LIBRARY

XNNPACK = "XNNPACK"
# Operators that only change a tensor's type or layout.
HOUSEKEEPING = ("DEQUANTIZE", "EXPAND_DIMS", "QUANTIZE", "RESHAPE", "SQUEEZE", "TRANSPOSE")
QUANTIZED = ("int8", "uint8", "int16", "int4")

# The number of the delegate's first graph. runtimes/litert/native/engine.cpp has it too.
FIRST_DELEGATE = 1 << 20

# The layer of a node by the converter's name for it.
Scopes = Mapping[str, str]


def describe(graph: Graph, report: RunReport, scopes: Scopes) -> Program:
    """``report``: of one run with a profile. ``scopes``: empty for a file of unknown origin."""
    kinds: dict[Kind, int] = {}
    layers: dict[str, int] = {}
    calls = []
    for instruction, delegated, nodes in numbered(graph, report.profile):
        operators = []
        for number in nodes:
            kind, layer = operator_of(graph, graph.nodes[number], scopes)
            place = None if layer is None else layers.setdefault(layer, len(layers))
            operators.append((kinds.setdefault(kind, len(kinds)), place))
        calls.append(Call(instruction, delegated, tuple(operators)))
    names = {kind.name for kind in kinds}
    return Program(
        inputs=_specs(graph, graph.inputs, graph.input_names, "input"),
        outputs=_specs(graph, graph.outputs, graph.output_names, "output"),
        delegates=(XNNPACK,) * sum(call.delegated for call in calls),
        kinds=tuple(kinds),
        layers=tuple(layers),
        calls=tuple(calls),
        libraries=(LIBRARY,),
        planned_bytes=report.planned_bytes,
        housekeeping=tuple(sorted(names & set(HOUSEKEEPING))),
    )


def operator_of(graph: Graph, node: Node, scopes: Scopes) -> Operator:
    """An operator with integer weights computes in integers, even if its output is float."""
    tensors = [graph.tensors[number] for number in (*node.outputs, *node.inputs)]
    results = {tensor.dtype for tensor in tensors[: len(node.outputs)]}
    weights = {tensor.dtype for tensor in tensors if tensor.is_constant and len(tensor.shape) > 1}
    is_quantized = bool(results & set(QUANTIZED)) or bool(weights & {"int8", "int4"})
    return Operator(Kind(node.kind, is_quantized), layer_of(graph, node, scopes))


def layer_of(graph: Graph, node: Node, scopes: Scopes) -> str | None:
    """The layer of a node: that of its weights; else of its output, whose name lists all layers
    that were fused into it, the last one first.
    """
    constants = [n for n in node.inputs if graph.tensors[n].is_constant]
    for number in (*constants, *node.outputs):
        for scope in reversed(graph.tensors[number].name.split(";;")):
            layer = scopes.get(scope.partition(";")[0])
            if layer is not None and (layer or number in node.outputs):
                return layer
    return None


def numbered(
    graph: Graph, profile: Sequence[ProfileRow]
) -> list[tuple[int, bool, tuple[int, ...]]]:
    """The calls of a program in order: the runner's number, whether it is a delegate's graph, and
    the nodes. A kernel has its node's number; the delegate's graphs are counted as they run. One
    without events, because it only renames tensors, has a number that the runner does not use.
    """
    order = [(delegated, number) for (delegated, number), _ in groupby(profile, _place)]
    unseen = max((number for _, number in order), default=0) + FIRST_DELEGATE
    calls: list[tuple[int, bool, tuple[int, ...]]] = []
    for delegated, nodes in partitions(graph, {number for inside, number in order if not inside}):
        number = nodes[0]
        if delegated and order and order[0][0]:
            number = order[0][1]
        elif delegated:
            number, unseen = unseen, unseen + 1
        if order and order[0] == (delegated, number):
            order.pop(0)
        calls.append((number, delegated, nodes))
    return calls


def nodes_of(graph: Graph, program: Program) -> list[tuple[int, ...]]:
    """The nodes of each of a described program's calls."""
    kernels = {call.instruction for call in program.calls if not call.delegated}
    return [nodes for _, nodes in partitions(graph, kernels)]


def _place(row: ProfileRow) -> tuple[bool, int]:
    return row.delegated, row.instruction


def partitions(graph: Graph, outside: Iterable[int]) -> list[tuple[bool, tuple[int, ...]]]:
    """The nodes in order of execution: each kernel outside alone, and each delegate's graph.

    As the runtime does it: all nodes of one sort that are ready run before those of the other.
    """
    kernels, waiting = set(outside), dict.fromkeys(range(len(graph.nodes)))
    made_by = {number: place for place, node in enumerate(graph.nodes) for number in node.outputs}
    found: list[tuple[bool, tuple[int, ...]]] = []
    delegated = False
    idle = 0
    while waiting and idle < 2:
        group: list[int] = []
        for place in list(waiting):
            needs = (made_by.get(number) for number in graph.nodes[place].inputs)
            is_ready = all(need is None or need not in waiting for need in needs)
            if is_ready and (place not in kernels) == delegated:
                group.append(place)
                del waiting[place]
        if delegated and group:
            found.append((True, tuple(group)))
        else:
            found += [(False, (place,)) for place in group]
        idle = 0 if group else idle + 1
        delegated = not delegated
    return found


def _specs(
    graph: Graph, numbers: Sequence[int], names: Sequence[str], word: str
) -> tuple[TensorSpec, ...]:
    names = names or [f"{word}_{index}" for index in range(len(numbers))]
    return tuple(
        TensorSpec(
            name=name,
            dtype=graph.tensors[number].dtype,
            shape=graph.tensors[number].shape,
            quantization=_steps(graph, number, word == "input"),
        )
        for number, name in zip(numbers, names, strict=True)
    )


def _steps(graph: Graph, number: int, is_input: bool) -> Quantization | None:
    """The steps of an input or output: its own, or of what it is converted to or from."""
    own = graph.tensors[number].quantization
    if own is not None:
        return own
    for node in graph.nodes:
        if is_input and node.kind == "QUANTIZE" and number in node.inputs:
            return graph.tensors[node.outputs[0]].quantization
        if not is_input and node.kind == "DEQUANTIZE" and number in node.outputs:
            return graph.tensors[node.inputs[0]].quantization
    return None
