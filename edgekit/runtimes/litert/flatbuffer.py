"""The content of a .tflite file as plain data. What the file says is not trusted."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from math import prod
from typing import Any, NamedTuple

from edgekit.errors import RuntimeFailure
from edgekit.program import ITEM_SIZE, Quantization

IDENTIFIER = b"TFL3"
AGAIN = "copy or convert it again"
# The generated parser follows any offset.
DAMAGED = (
    ArithmeticError, AttributeError, LookupError, MemoryError, TypeError, ValueError, struct.error,
)  # fmt: skip
DTYPES = {
    "FLOAT32": "float32", "FLOAT16": "float16", "INT32": "int32", "UINT8": "uint8",
    "INT64": "int64", "BOOL": "bool", "INT16": "int16", "INT8": "int8", "FLOAT64": "float64",
    "UINT64": "uint64", "UINT32": "uint32", "UINT16": "uint16", "BFLOAT16": "bfloat16",
}  # fmt: skip
# Operators that run other graphs of the file.
CONTROL_FLOW = ("CALL", "CALL_ONCE", "IF", "WHILE")
# The fields of a convolution's and a pooling's options.
STRIDES, FILTERS = ("strideH", "strideW"), ("filterHeight", "filterWidth")


class Tensor(NamedTuple):
    """``dtype``: the file's own name for a type that edgekit does not know. ``constant_bytes``: 0
    for activations. ``quantization``: None if there is none, or one for each channel.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    constant_bytes: int
    quantization: Quantization | None

    @property
    def is_constant(self) -> bool:
        return self.constant_bytes > 0

    @property
    def byte_count(self) -> int:
        return self.constant_bytes or prod(self.shape) * ITEM_SIZE.get(self.dtype, 1)


class Node(NamedTuple):
    """An operator. ``inputs``, ``outputs``: numbers of tensors, without omitted ones. ``version``:
    a runtime must have it, or a later one.
    """

    kind: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    stride: tuple[int, int] = (1, 1)
    kernel: tuple[int, int] = (1, 1)
    version: int = 1


@dataclass(frozen=True)
class Graph:
    """The subgraph of the file's first signature. ``inputs``, ``outputs``: numbers of tensors, in
    the order of the signature. ``input_names``, ``output_names``: the signature's; empty if the
    file has none that tell them apart.
    """

    tensors: tuple[Tensor, ...]
    nodes: tuple[Node, ...]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    input_names: tuple[str, ...] = ()
    output_names: tuple[str, ...] = ()


def read_graph(data: bytes) -> Graph:
    """Raises RuntimeFailure: the bytes are not a valid file."""
    if data[4:8] != IDENTIFIER:
        raise RuntimeFailure("its identifier is not that of a .tflite file", AGAIN)
    try:
        graph = _graph(data)
    except DAMAGED as error:
        raise damaged(error) from error
    _check(graph)
    return graph


def damaged(error: BaseException) -> RuntimeFailure:
    """The error for a file that cannot be parsed. ``error``: one of DAMAGED."""
    return RuntimeFailure(f"the .tflite file is damaged ({type(error).__name__})", AGAIN)


def _check(graph: Graph) -> None:
    """Raise RuntimeFailure for what the runner does not compute rightly."""
    loops = [node.kind for node in graph.nodes if node.kind in CONTROL_FLOW]
    if loops:
        raise RuntimeFailure(
            f"the file has control flow ({', '.join(dict.fromkeys(loops))}), which edgekit does "
            "not support",
            "write the loop out, or convert the part without it",
        )
    if len(set(graph.outputs)) < len(graph.outputs) or set(graph.outputs) & set(graph.inputs):
        raise RuntimeFailure(
            "an output of the model is also one of its inputs, or given twice: LiteRT's runner "
            "does not fill it",
            "return each result once, and no input; --runtime executorch supports both",
        )


def _graph(data: bytes) -> Graph:
    from ai_edge_litert import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(bytearray(data), 0)
    signatures = model.signatureDefs or []
    subgraph = model.subgraphs[signatures[0].subgraphIndex if signatures else 0]
    sides = [subgraph.inputs, subgraph.outputs]
    names: list[tuple[str, ...]] = [(), ()]
    if signatures:
        named = (signatures[0].inputs, signatures[0].outputs)
        sides = [[one.tensorIndex for one in side] for side in named]
        names = [_names_of(side) for side in named]
    stored = [_stored_bytes(buffer, len(data)) for buffer in model.buffers]
    tensors = tuple(_tensor(tensor, stored) for tensor in subgraph.tensors)
    nodes = tuple(_node(operator, model) for operator in subgraph.operators)
    inputs, outputs = (tuple(map(int, side)) for side in sides)
    used = [number for node in nodes for number in (*node.inputs, *node.outputs)]
    numbers = (*inputs, *outputs, *used)
    if max(numbers, default=-1) >= len(tensors) or min(numbers, default=0) < 0:
        raise LookupError("a number of a tensor that does not exist")
    return Graph(tensors, nodes, inputs, outputs, *names)


def _names_of(side: Sequence[Any]) -> tuple[str, ...]:
    """The names of a signature's inputs or outputs; none if one is missing or not unique."""
    names = [text_of(one.name) for one in side]
    tell_apart = len(set(names)) == len(names) and all(name.isprintable() for name in names)
    return tuple(names) if tell_apart and all(names) else ()


def _stored_bytes(buffer: Any, file_bytes: int) -> int:
    """The size of a constant. The quantizer stores large ones behind the flatbuffer."""
    if buffer.data is not None:
        return len(buffer.data)
    if buffer.offset <= 1:  # none
        return 0
    if buffer.offset + buffer.size > file_bytes:
        raise LookupError("a constant behind the end of the file")
    return int(buffer.size)


def _tensor(tensor: Any, stored: list[int]) -> Tensor:
    dtype = _names("TensorType")[tensor.type]
    shape = tuple(map(int, tensor.shape if tensor.shape is not None else ()))
    scales = getattr(tensor.quantization, "scale", None)
    quantization = None
    if scales is not None and len(scales) == 1 and dtype in ("INT8", "UINT8", "INT16"):
        zero = int(tensor.quantization.zeroPoint[0])
        quantization = Quantization(scale=float(scales[0]), zero_point=zero, dtype=DTYPES[dtype])
    return Tensor(
        text_of(tensor.name),
        DTYPES.get(dtype, dtype.lower()),
        shape,
        stored[tensor.buffer] if tensor.buffer else 0,
        quantization,
    )


def _node(operator: Any, model: Any) -> Node:
    code = model.operatorCodes[operator.opcodeIndex]
    kind = _names("BuiltinOperator")[max(code.builtinCode, code.deprecatedBuiltinCode)]
    if kind == "CUSTOM":
        kind = text_of(code.customCode)
    options = operator.builtinOptions
    inputs, outputs = (
        tuple(int(one) for one in side if one >= 0) for side in (operator.inputs, operator.outputs)
    )
    strides, filters = _pair(options, STRIDES), _pair(options, FILTERS)
    return Node(kind, inputs, outputs, strides, filters, int(code.version))


def _pair(options: Any, names: tuple[str, str]) -> tuple[int, int]:
    if not all(hasattr(options, name) for name in names):
        return (1, 1)
    return (int(getattr(options, names[0])), int(getattr(options, names[1])))


def text_of(name: bytes | str | None) -> str:
    """A string of the file."""
    return name.decode(errors="replace") if isinstance(name, bytes) else name or ""


@cache
def _names(enumeration: str) -> dict[int, str]:
    from ai_edge_litert import schema_py_generated as schema

    members = vars(getattr(schema, enumeration))
    return {number: name for name, number in members.items() if isinstance(number, int)}
