"""The operators of a .pte with their shapes, read from the bytes that ship."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import prod
from typing import Any

from edgekit.cost.shapes import CONVOLUTION, DEPTHWISE, LINEAR, MATMUL, OperatorShape
from edgekit.program import ITEM_SIZE, Call, Operator, Program
from edgekit.runtimes.executorch.describe import SCALAR_TYPES, decode_xnnpack
from edgekit.runtimes.executorch.memory import Node, Value
from edgekit.runtimes.executorch.pte import read_program
from edgekit.runtimes.xnnpack.packing import TILES

# By XNNPACK's names without "Static"; other kinds are these names in lower case.
KINDS = {
    "ArgMaxPooling2d": "argmax_pool", "AvgPooling2d": "average_pool", "MaxPooling2d": "max_pool",
    "BatchMatrixMultiply": MATMUL, "Concatenate2": "concatenate", "Concatenate3": "concatenate",
    "Concatenate4": "concatenate", "Concatenate5": "concatenate", "ConstantPad": "pad",
    "Conv2d": CONVOLUTION, "ConvTranspose2d": "transposed_convolution",
    "DepthwiseConv2d": CONVOLUTION,  # with several outputs for each input
    "Div": "divide",
    "FullyConnected": LINEAR, "GlobalAvgPooling2d": "mean", "LeakyReLU": "leaky_relu",
    "ResizeBilinear2D": "resize", "ScaledDotProductAttention": "attention",
    "SquareRoot": "square_root", "ReciprocalSquareRoot": "reciprocal_square_root",
}  # fmt: skip
DYNAMIC = {"qdint8", "qpint8"}
INT4 = {"qcint4", "qbint4"}
PRECISIONS = {"float32": "fp32", "float16": "fp16", "bfloat16": "bf16"}
# Of kernels outside delegates: the place of the left matrix among the tensor arguments.
PRODUCTS = {"mm": 0, "bmm": 0, "addmm": 1, "linear": 0}


def operator_shapes(data: bytes, program: Program) -> tuple[OperatorShape, ...]:
    """All operators of a .pte in order of execution. ``program``: its description."""
    file = read_program(data)
    plan = file.execution_plan[0]
    shapes: list[OperatorShape] = []
    for call in program.calls:
        operators, arguments = program.operators_of(call), _arguments(plan, call)
        if call.delegated:
            index = plan.delegates[arguments.delegate_index].processed.index
            payload = bytes(file.backend_delegate_data[index].data)
            shapes += _delegated(payload, call.instruction, operators)
        else:
            shapes.append(_kernel(plan, arguments.args, call.instruction, operators[0]))
    return tuple(shapes)


def _arguments(plan: Any, call: Call) -> Any:
    return plan.chains[0].instructions[call.instruction].instr_args


def _delegated(
    payload: bytes, instruction: int, operators: Sequence[Operator]
) -> Iterator[OperatorShape]:
    graph = decode_xnnpack(payload)
    values = {value.number: value for value in map(Value, graph.get("xvalues", ()))}
    entries = graph.get("xnodes", ())
    for index, (entry, operator) in enumerate(zip(entries, operators, strict=True)):
        node = Node(entry, values, TILES["aarch64"])  # tiles change packed sizes only
        inputs = [value for value in node.input_values if not value.is_constant]
        outputs = [values[number] for number in node.outputs if number in values]
        yield OperatorShape(
            kind=DEPTHWISE if node.is_depthwise else KINDS.get(node.name, node.name.lower()),
            precision=_precision(node, outputs),
            inputs=tuple(tuple(value.dims) for value in inputs),
            outputs=tuple(tuple(value.dims) for value in outputs),
            kernel=node.kernel,
            stride=node.stride,
            groups=node.groups,
            weight_bytes=sum(value.byte_count for value in node.constants),
            activation_bytes=sum(value.byte_count for value in [*inputs, *outputs]),
            macs=_delegated_macs(node, outputs),
            delegated=True,
            layer=operator.layer,
            instruction=instruction,
            index=index,
        )


def _precision(node: Node, outputs: Sequence[Value]) -> str:
    weights = {value.type for value in node.constants}
    activations = {value.type for value in (*node.input_values, *outputs)}
    if activations & DYNAMIC:
        return "dynamic_int4" if weights & INT4 else "dynamic_int8"
    results = {value.type for value in outputs}
    if any("int8" in name for name in results | weights):
        return "int8"
    return next(iter(results), "fp32")


def _delegated_macs(node: Node, outputs: Sequence[Value]) -> int:
    first = node.input_values[0].dims if node.input_values else []
    result = outputs[0].dims if outputs else []
    if node.name == "ConvTranspose2d":
        return prod(first) * node.taps * node.group_output_channels
    if node.is_convolution:
        return prod(result) * node.taps * node.group_input_channels
    if node.name == "FullyConnected":
        return prod(first) * (result[-1] if result else 0)
    if node.name == "BatchMatrixMultiply":
        return prod(result) * first[-1]
    if node.name == "ScaledDotProductAttention":
        return 2 * prod(first) * node.input_values[1].dims[-2]
    return 0


def _kernel(
    plan: Any, arguments: Sequence[int], instruction: int, operator: Operator
) -> OperatorShape:
    """A kernel outside all delegates. Its last argument is what it returns."""
    written = _tensors(plan, arguments[-1:])
    read = [number for number in _tensors(plan, arguments[:-1]) if number not in written]
    tensors = {number: plan.values[number].val for number in (*read, *written)}
    constants = [number for number in read if tensors[number].data_buffer_idx > 0]
    inputs = [number for number in read if number not in constants]
    results = {_type(tensors[number]) for number in written}
    return OperatorShape(
        kind=operator.kind.name,
        precision=PRECISIONS.get(min(results, default=""), min(results, default="unknown")),
        inputs=tuple(tuple(tensors[number].sizes) for number in inputs),
        outputs=tuple(tuple(tensors[number].sizes) for number in written),
        weight_bytes=sum(_bytes(tensors[number]) for number in constants),
        activation_bytes=sum(_bytes(tensors[number]) for number in (*inputs, *written)),
        macs=_kernel_macs(
            operator.kind.name,
            [tensors[number].sizes for number in read],
            [tensors[number].sizes for number in written],
        ),
        delegated=False,
        layer=operator.layer,
        instruction=instruction,
        index=0,
    )


def _tensors(plan: Any, arguments: Sequence[int]) -> list[int]:
    """The numbers of the tensors among a kernel's arguments, those of lists included."""
    numbers: list[int] = []
    for number in arguments:
        value = plan.values[number].val
        inside = value.items if type(value).__name__ == "TensorList" else [number]
        numbers += [one for one in inside if hasattr(plan.values[one].val, "scalar_type")]
    return numbers


def _type(tensor: Any) -> str:
    return SCALAR_TYPES[tensor.scalar_type.name]


def _bytes(tensor: Any) -> int:
    return int(prod(tensor.sizes) * ITEM_SIZE[_type(tensor)])


def _kernel_macs(name: str, read: Sequence[list[int]], written: Sequence[list[int]]) -> int:
    base = name.partition("::")[2].partition(".")[0]
    if base == "convolution" and len(read) > 1:
        ends = written[0] if read[1][0] == written[0][1] else read[0]  # transposed: the input
        return prod(ends) * prod(read[1][1:])
    if base in PRODUCTS and len(read) > PRODUCTS[base]:
        return prod(written[0]) * read[PRODUCTS[base]][-1]
    return 0
