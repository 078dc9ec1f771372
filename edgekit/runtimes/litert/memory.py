"""The sizes of a .tflite in memory: the input of the memory ledger.

The runner reads the whole file into memory, and it stays there. The delegate packs the weights of
its operators beside it. Tensors between the delegate's graphs and kernels outside have a common
arena; inputs and outputs have buffers of their own.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from math import prod

from edgekit.cost.sizes import DelegateMemory, ProgramMemory, RunnerMemory, Step, live_points
from edgekit.program import ITEM_SIZE, Program
from edgekit.runtimes.litert.describe import nodes_of
from edgekit.runtimes.litert.flatbuffer import Graph, Node, Tensor
from edgekit.runtimes.xnnpack.packing import (
    TILES,
    Tiles,
    bilinear_table_bytes,
    depthwise_bytes,
    has_depthwise_kernel,
    product_bytes,
    product_table_bytes,
    window_table_bytes,
)
from edgekit.target import Architecture

RUNNER: dict[Architecture, RunnerMemory] = {
    "x86_64": RunnerMemory(start_mb=9.38, run_mb=0.05, node_mb=0.0037, spread=0.09),
    "aarch64": RunnerMemory(start_mb=7.65, run_mb=0.29, node_mb=0.0033, spread=0.09),
}
DEPTHWISE = "DEPTHWISE_CONV_2D"
CONVOLUTIONS = ("CONV_2D", "TRANSPOSE_CONV")
POOLINGS = ("MAX_POOL_2D", "AVERAGE_POOL_2D")
# Their output may take the place of an input that nothing reads later.
ELEMENTWISE = {
    "ABS", "ADD", "CEIL", "COS", "DIV", "ELU", "EXP", "FLOOR", "GELU", "HARD_SWISH", "LEAKY_RELU",
    "LOG", "LOGISTIC", "MAXIMUM", "MINIMUM", "MUL", "NEG", "RELU", "RELU6", "RELU_0_TO_1",
    "RELU_N1_TO_1", "RESHAPE", "ROUND", "RSQRT", "SIN", "SQRT", "SQUARE", "SQUARED_DIFFERENCE",
    "SUB", "TANH",
}  # fmt: skip


def memory_sizes(
    size_bytes: int, graph: Graph, program: Program, architecture: Architecture
) -> ProgramMemory:
    """The sizes of a file of ``size_bytes`` with this graph. ``program``: its description."""
    tiles = TILES[architecture]
    parts = list(zip(program.calls, nodes_of(graph, program), strict=True))
    stored = graph
    graph = _unpacked(graph, [n for call, nodes in parts if call.delegated for n in nodes])
    pairs = zip(graph.tensors, stored.tensors, strict=True)
    ends = {*graph.inputs, *graph.outputs}
    shared = _between(graph, [nodes for _, nodes in parts]) - ends
    delegates = tuple(
        _delegate(graph, call.instruction, [graph.nodes[n] for n in nodes], shared | ends, tiles)
        for call, nodes in parts
        if call.delegated
    )
    kernels = {graph.nodes[nodes[0]].kind for call, nodes in parts if not call.delegated}
    return ProgramMemory(
        program_bytes=size_bytes,
        constant_bytes=0,
        planned_bytes=_arena_bytes(graph, [nodes for _, nodes in parts], shared)
        + sum(graph.tensors[number].byte_count for number in graph.outputs),
        input_bytes=sum(graph.tensors[number].byte_count for number in graph.inputs),
        libraries=len(program.libraries),
        kernels=len(kernels),
        runner=RUNNER[architecture],
        delegates=delegates,
        doubtful_bytes=sum(one.byte_count for one, before in pairs if one != before),
    )


def _unpacked(graph: Graph, delegated: list[int]) -> Graph:
    """The graph with the results of delegated DEQUANTIZEs of constants as constants: weights that
    are stored in float16. The delegate packs them in float32.
    """
    tensors = list(graph.tensors)
    for node in (graph.nodes[number] for number in delegated):
        if node.kind == "DEQUANTIZE" and graph.tensors[node.inputs[0]].is_constant:
            made = tensors[node.outputs[0]]
            tensors[node.outputs[0]] = made._replace(constant_bytes=made.byte_count)
    return replace(graph, tensors=tuple(tensors))


def _between(graph: Graph, parts: list[tuple[int, ...]]) -> set[int]:
    """The activations that one part of the program writes and another one reads."""
    made_by = {n: place for place, nodes in enumerate(parts) for n in _made(graph, nodes)}
    return {
        number
        for place, nodes in enumerate(parts)
        for node in nodes
        for number in graph.nodes[node].inputs
        if made_by.get(number, place) != place
    }


def _made(graph: Graph, nodes: tuple[int, ...]) -> list[int]:
    return [number for node in nodes for number in graph.nodes[node].outputs]


def _arena_bytes(graph: Graph, parts: list[tuple[int, ...]], shared: set[int]) -> int:
    steps = [
        Step(
            "",
            tuple(number for node in nodes for number in graph.nodes[node].inputs),
            tuple(_made(graph, nodes)),
        )
        for nodes in parts
    ]
    sizes = {number: graph.tensors[number].byte_count for number in shared}
    return max((point.live_bytes for point in live_points(steps, sizes)), default=0)


def _delegate(
    graph: Graph, instruction: int, nodes: list[Node], outer: set[int], tiles: Tiles
) -> DelegateMemory:
    """``outer``: tensors that the delegate does not allocate. The stored weights are the file's."""
    packed: Counter[str] = Counter()
    for node in nodes:
        packed[node.kind] += packed_bytes(graph, node, tiles)
    made = {n for node in nodes for n in node.outputs} - outer
    internal = {n for n in made if not graph.tensors[n].is_constant}
    sizes = {number: graph.tensors[number].byte_count for number in internal}
    steps = [
        Step(node.kind, _moving(graph, node), node.outputs, 0, node.kind in ELEMENTWISE)
        for node in nodes
    ]
    return DelegateMemory(
        instruction=instruction,
        weight_bytes=0,
        packed_bytes={kind: size for kind, size in packed.items() if size},
        table_bytes=sum(table_bytes(graph, node) for node in nodes),
        points=live_points(steps, sizes),
    )


def _moving(graph: Graph, node: Node) -> tuple[int, ...]:
    return tuple(number for number in node.inputs if not graph.tensors[number].is_constant)


def weights_of(graph: Graph, node: Node) -> Tensor | None:
    """The constant matrix or filter of an operator; None if it has none."""
    constants = [graph.tensors[n] for n in node.inputs if graph.tensors[n].is_constant]
    matrices = [tensor for tensor in constants if len(tensor.shape) > 1]
    return max(matrices, key=lambda tensor: tensor.constant_bytes, default=None)


def packed_bytes(graph: Graph, node: Node, tiles: Tiles) -> int:
    weights = weights_of(graph, node)
    if weights is None:
        return 0
    item = ITEM_SIZE.get(weights.dtype, 0.5)
    taps = prod(weights.shape[1:3]) if len(weights.shape) == 4 else 1
    if node.kind == DEPTHWISE:
        channels = weights.shape[-1]
        if has_depthwise_kernel(taps):
            return depthwise_bytes(channels, taps, item, tiles)
        return product_bytes(1, 1, taps, channels, item, tiles)
    if node.kind in CONVOLUTIONS and len(weights.shape) == 4:
        outputs, inputs = weights.shape[0], weights.shape[3]
        groups = _groups(graph, node, inputs)
        return product_bytes(outputs // groups, inputs, taps, groups, item, tiles)
    if node.kind in ("FULLY_CONNECTED", "BATCH_MATMUL"):
        outputs, inputs = weights.shape[-2:]
        if node.kind == "BATCH_MATMUL":  # stored the other way round
            outputs, inputs = inputs, outputs
        return product_bytes(outputs, inputs, 1, prod(weights.shape[:-2]), item, tiles)
    return 0


def _groups(graph: Graph, node: Node, inputs: int) -> int:
    if node.kind == "TRANSPOSE_CONV":
        return 1
    image = graph.tensors[_moving(graph, node)[0]].shape
    return max(image[-1] // max(inputs, 1), 1)


def table_bytes(graph: Graph, node: Node) -> int:
    made = graph.tensors[node.outputs[0]].shape
    if len(made) != 4:
        return 0
    height, width = made[1:3]
    weights = weights_of(graph, node)
    has_filter = weights is not None and len(weights.shape) == 4
    kernel = (weights.shape[1], weights.shape[2]) if weights and has_filter else node.kernel
    taps = prod(kernel)
    if node.kind == DEPTHWISE and has_depthwise_kernel(taps):
        return window_table_bytes(height, width, kernel, node.stride[1])
    if node.kind == "CONV_2D" and taps == 1 and max(node.stride) <= 1:
        return 0  # a plain product of matrices
    if node.kind in (*CONVOLUTIONS, DEPTHWISE):
        return product_table_bytes(height * width, taps)
    if node.kind in POOLINGS:
        return window_table_bytes(height, width, kernel, node.stride[1])
    return bilinear_table_bytes(height * width) if node.kind == "RESIZE_BILINEAR" else 0
