"""The operators of a .tflite by kind, shapes and bytes: the input of costs by operator."""

from __future__ import annotations

from math import prod

from edgekit.cost.shapes import CONVOLUTION, DEPTHWISE, LINEAR, MATMUL, OperatorShape
from edgekit.program import Program
from edgekit.runtimes.litert.describe import QUANTIZED, nodes_of
from edgekit.runtimes.litert.flatbuffer import Graph, Node, Tensor

KINDS = {
    "CONV_2D": CONVOLUTION, "DEPTHWISE_CONV_2D": DEPTHWISE, "TRANSPOSE_CONV": CONVOLUTION,
    "FULLY_CONNECTED": LINEAR, "BATCH_MATMUL": MATMUL,
}  # fmt: skip


def operator_shapes(graph: Graph, program: Program) -> tuple[OperatorShape, ...]:
    """One for each operator of ``program.calls``, in order."""
    return tuple(
        _shape(graph, graph.nodes[node], operator.layer, call.delegated, call.instruction, index)
        for call, nodes in zip(program.calls, nodes_of(graph, program), strict=True)
        for index, (node, operator) in enumerate(
            zip(nodes, program.operators_of(call), strict=True)
        )
    )


def _shape(
    graph: Graph, node: Node, layer: str | None, delegated: bool, instruction: int, index: int
) -> OperatorShape:
    given = [graph.tensors[number] for number in node.inputs]
    made = [graph.tensors[number] for number in node.outputs]
    constants = [tensor for tensor in given if tensor.is_constant]
    moving = [tensor for tensor in given if not tensor.is_constant]
    matrices = [tensor for tensor in constants if len(tensor.shape) > 1]  # no bias
    weight = max(matrices, key=lambda tensor: tensor.constant_bytes, default=None)
    kind = KINDS.get(node.kind, node.kind.lower() if delegated else node.kind)
    kernel = node.kernel
    if weight is not None and kind in (CONVOLUTION, DEPTHWISE) and len(weight.shape) == 4:
        kernel = (weight.shape[1], weight.shape[2])
    return OperatorShape(
        kind=kind,
        precision=_precision(made, weight),
        inputs=tuple(tensor.shape for tensor in moving),
        outputs=tuple(tensor.shape for tensor in made),
        kernel=kernel,
        stride=node.stride,
        groups=made[0].shape[-1] if kind == DEPTHWISE and made else 1,
        weight_bytes=sum(tensor.constant_bytes for tensor in constants),
        activation_bytes=sum(tensor.byte_count for tensor in (*moving, *made)),
        macs=_macs(node.kind, moving, made, weight),
        delegated=delegated,
        layer=layer,
        instruction=instruction,
        index=index,
    )


def _precision(made: list[Tensor], weight: Tensor | None) -> str:
    if not made:
        return "fp32"
    if made[0].dtype in QUANTIZED:
        return "int8"
    if weight is not None and weight.dtype in QUANTIZED:
        return "dynamic_int8"
    return "fp16" if made[0].dtype == "float16" else "fp32"


def _macs(kind: str, given: list[Tensor], made: list[Tensor], weight: Tensor | None) -> int:
    if not made:
        return 0
    out = prod(made[0].shape)
    if kind == "BATCH_MATMUL":
        return out * given[0].shape[-1]
    if weight is None or kind not in KINDS:
        return 0
    if kind == "DEPTHWISE_CONV_2D":
        return out * weight.shape[1] * weight.shape[2]
    if kind == "TRANSPOSE_CONV":
        return prod(given[0].shape) * prod(weight.shape[:3])
    return out * prod(weight.shape[1:])
