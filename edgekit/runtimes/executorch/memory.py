"""The sizes of a .pte in memory, read from the bytes that ship: the input of the memory ledger."""

from __future__ import annotations

import struct
from collections import Counter
from collections.abc import Collection, Sequence
from math import prod
from typing import Any

from edgekit.cost.sizes import DelegateMemory, ProgramMemory, RunnerMemory, Step, live_points
from edgekit.program import Program
from edgekit.runtimes.executorch.describe import decode_xnnpack
from edgekit.runtimes.executorch.pte import read_program
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

ITEM_BYTES = {
    "fp32": 4, "fp16": 2, "bf16": 2, "qint8": 1, "quint8": 1, "qint32": 4, "qcint8": 1,
    "qcint32": 4, "qcint4": 0.5, "qdint8": 1, "qbint4": 0.5, "qpint8": 1, "int32": 4, "pfp32": 4,
}  # fmt: skip
INTEGERS = {"qint8", "quint8"}
RUNNER: dict[Architecture, RunnerMemory] = {
    "x86_64": RunnerMemory(
        start_mb=5.50, run_mb=0.23, library_start_mb=0.50, library_run_mb=0.24, kernel_mb=0.153,
        node_mb=0.0023,
    ),
    "aarch64": RunnerMemory(
        start_mb=4.53, run_mb=0.015, library_start_mb=0.38, kernel_mb=0.110, node_mb=0.0023
    ),
}  # fmt: skip
EXTENDED_HEADER = b"eh00"


PRODUCT = "BatchMatrixMultiply"
TWO_INPUTS = {"Add", "Subtract", "Multiply", "Div", "Minimum", "Maximum", "PReLU", PRODUCT}
ELEMENTWISE = {
    "Add", "Subtract", "Multiply", "Div", "Minimum", "Maximum", "Sigmoid", "Clamp", "Floor",
    "Ceiling", "Negate", "Abs", "Square", "SquareRoot", "ReciprocalSquareRoot", "Log", "Exp",
    "Gelu", "Tanh", "Hardswish", "LeakyReLU", "ELU", "Sin", "Cos", "Copy", "Reshape",
}  # fmt: skip
# In int8, XNNPACK computes one of these by a table of 256 results.
UNARY = ELEMENTWISE - TWO_INPUTS - {"Copy", "Reshape"}
CONVERT = "Convert"


def memory_sizes(data: bytes, program: Program, architecture: Architecture) -> ProgramMemory:
    """The sizes of a .pte that ``describe`` could read. ``program``: its description."""
    file = read_program(data)
    plan = file.execution_plan[0]
    outside = {kinds[0][0] for kinds in (c.operators for c in program.calls if not c.delegated)}
    delegates = []
    for place, instruction in enumerate(plan.chains[0].instructions):
        if hasattr(instruction.instr_args, "delegate_index"):
            index = plan.delegates[instruction.instr_args.delegate_index].processed.index
            payload = bytes(file.backend_delegate_data[index].data)
            delegates.append(delegate_memory(place, payload, architecture))
    return ProgramMemory(
        program_bytes=flatbuffer_bytes(data),
        constant_bytes=sum(len(buffer.storage) for buffer in file.constant_buffer),
        planned_bytes=program.planned_bytes,
        input_bytes=sum(spec.byte_count for spec in program.inputs),
        libraries=len(program.libraries),
        kernels=len(outside),
        runner=RUNNER[architecture],
        delegates=tuple(delegates),
    )


def flatbuffer_bytes(data: bytes) -> int:
    """The size of the program's own flatbuffer, which stays in memory; segments follow it."""
    if data[8:12] != EXTENDED_HEADER:
        return len(data)
    return int(struct.unpack_from("<Q", data, 16)[0])


def delegate_memory(instruction: int, payload: bytes, architecture: Architecture) -> DelegateMemory:
    """The sizes of an XNNPACK delegate. Raises RuntimeFailure: it cannot be read."""
    graph = decode_xnnpack(payload)
    weights = [int(entry.get("size", 0)) for entry in graph.get("constant_data", ())]
    values = {value.number: value for value in map(Value, graph.get("xvalues", ()))}
    nodes = [Node(node, values, TILES[architecture]) for node in graph.get("xnodes", ())]
    packed: Counter[str] = Counter()
    for node in nodes:
        packed[node.name] += node.packed_bytes
    internal = {number: value.byte_count for number, value in values.items() if value.is_internal}
    integers = {number for number, value in values.items() if value.type in INTEGERS}
    steps = fused_steps([node.step for node in nodes], internal, integers)
    return DelegateMemory(
        instruction=instruction,
        weight_bytes=sum(weights),
        packed_bytes={name: size for name, size in packed.items() if size},
        table_bytes=sum(node.table_bytes for node in nodes),
        points=live_points(steps, internal),
    )


def fused_steps(
    steps: Sequence[Step], internal: Collection[int], integers: Collection[int]
) -> list[Step]:
    """The steps as XNNPACK executes them, each in its place.

    A conversion from int8, an operator of UNARY and a conversion to int8 become one operator: the
    float values between them never exist, if nothing else reads them. ``internal``: the values
    that the graph itself allocates. ``integers``: those in int8.
    """
    fused = list(steps)
    readers = Counter(value for step in steps for value in step.inputs)
    makers = {value: place for place, step in enumerate(steps) for value in step.outputs}
    takers = {value: place for place, step in enumerate(steps) for value in step.inputs}
    alone = {value for value, count in readers.items() if count == 1 and value in internal}
    for place, step in enumerate(steps):
        if step.operator not in UNARY or not {*step.inputs, *step.outputs} <= alone:
            continue
        before, after = makers.get(step.inputs[0]), takers[step.outputs[0]]
        if before is None or (steps[before].operator, steps[after].operator) != (CONVERT, CONVERT):
            continue
        ends = steps[before].inputs, steps[after].outputs
        if {*ends[0], *ends[1]} <= set(integers):
            fused[before] = Step(CONVERT, ends[0], ())
            fused[place] = Step(step.operator, *ends, reuses_input=True)
            fused[after] = Step(CONVERT, (), ())
    return fused


class Value:
    """A tensor of a delegate's graph."""

    def __init__(self, entry: dict[str, Any]) -> None:
        union = entry["xvalue_union"]
        tensor = union.get("tensor_value", union)
        self.number: int = tensor.get("id_out", 0)
        self.type = tensor.get("datatype", "xnn_datatype_invalid").removeprefix("xnn_datatype_")
        self.dims: list[int] = tensor.get("dims", [])
        self.is_constant = tensor.get("constant_buffer_idx", 0) != 0
        self.is_internal = not self.is_constant and not tensor.get("flags", 0)

    @property
    def item_bytes(self) -> float:
        return ITEM_BYTES.get(self.type, 4)

    @property
    def byte_count(self) -> int:
        rows = prod(self.dims[:-1]) if self.type == "qdint8" else 0
        return int(prod(self.dims) * self.item_bytes) + 8 * rows


class Node:
    """An operator of a delegate's graph."""

    def __init__(self, entry: dict[str, Any], values: dict[int, Value], tiles: Tiles) -> None:
        self.name = entry["xnode_union_type"].removeprefix("XNN").removeprefix("Static")
        self._fields: dict[str, Any] = entry["xnode_union"]
        self._values = values
        self._tiles = tiles

    def _get(self, key: str) -> int:
        return int(self._fields.get(key, 0))

    def _value(self, key: str) -> Value | None:
        return self._values.get(self._get(key))

    @property
    def inputs(self) -> tuple[int, ...]:
        if self.name == "ScaledDotProductAttention":
            return tuple(self._get(f"{key}_id") for key in ("query", "key", "value", "mask"))
        if self.name.startswith("Concatenate"):
            return tuple(self._get(f"input{i + 1}_id") for i in range(int(self.name[-1])))
        two = "input2_id" in self._fields or self.name in TWO_INPUTS
        if two:
            return (self._get("input1_id"), self._get("input2_id"))
        return (self._get("input1_id" if "filter_id" in self._fields else "input_id"),)

    @property
    def outputs(self) -> tuple[int, ...]:
        if self.name == "ArgMaxPooling2d":
            return (self._get("output_value_id"), self._get("output_index_id"))
        return (self._get("output_id"),)

    @property
    def step(self) -> Step:
        return Step(
            self.name, self.inputs, self.outputs, self._scratch_bytes(), self.name in ELEMENTWISE
        )

    def _scratch_bytes(self) -> int:
        if self.name != PRODUCT:
            return 0
        second = self._values.get(self.inputs[1])
        return second.byte_count if second else 0

    @property
    def input_values(self) -> list[Value]:
        return [self._values[number] for number in self.inputs if number in self._values]

    @property
    def constants(self) -> list[Value]:
        """The weights, the bias, and inputs that are constant."""
        keys = [key for key in ("filter_id", "bias_id") if key in self._fields]
        numbers = [*self.inputs, *(self._get(key) for key in keys)]
        values = [self._values[number] for number in numbers if number in self._values]
        return [value for value in values if value.is_constant]

    @property
    def is_convolution(self) -> bool:
        return "kernel_height" in self._fields

    @property
    def kernel(self) -> tuple[int, int]:
        """Height and width of a convolution's or pooling's window; 1 for other operators."""
        return self._pair("kernel" if self.is_convolution else "pooling")

    @property
    def stride(self) -> tuple[int, int]:
        return self._pair("subsampling" if self.is_convolution else "stride")

    def _pair(self, key: str) -> tuple[int, int]:
        return max(self._get(f"{key}_height"), 1), max(self._get(f"{key}_width"), 1)

    @property
    def groups(self) -> int:
        return max(self._get("groups"), 1)

    @property
    def group_input_channels(self) -> int:
        return self._get("group_input_channels")

    @property
    def group_output_channels(self) -> int:
        return self._get("group_output_channels")

    @property
    def packed_bytes(self) -> int:
        filter_ = self._value("filter_id") if "filter_id" in self._fields else None
        if filter_ is None or not filter_.is_constant:
            return 0
        item = self._packed_item(filter_)
        if self.is_depthwise:
            return depthwise_bytes(self._get("groups"), self.taps, item, self._tiles)
        return product_bytes(*self._filter_shape(filter_), item, self._tiles)

    def _packed_item(self, filter_: Value) -> float:
        """The bytes of a packed weight: two if the layer computes in half precision, even if the
        weight is stored in four.
        """
        output = self._values.get(self.outputs[0])
        half = output is not None and output.type == "fp16"
        return min(filter_.item_bytes, 2 if half else 4)

    def _filter_shape(self, filter_: Value) -> tuple[int, int, int, int]:
        """Output and input channels of a group, kernel taps, groups."""
        if self.name == "FullyConnected":
            return filter_.dims[0], filter_.dims[-1], 1, 1
        outputs = self._fields.get("group_output_channels", 1)
        inputs = self._fields.get("group_input_channels", 1)
        return outputs, inputs, self.taps, self._fields.get("groups", 1)

    @property
    def taps(self) -> int:
        return max(self._get("kernel_height") * self._get("kernel_width"), 1)

    @property
    def is_depthwise(self) -> bool:
        """Whether XNNPACK has a depthwise kernel for it. Others are grouped convolutions."""
        one_each = self._get("group_output_channels") == 1 == self._get("group_input_channels")
        return one_each and self.name.endswith("Conv2d") and has_depthwise_kernel(self.taps)

    @property
    def table_bytes(self) -> int:
        output = self._values.get(self.outputs[0])
        if output is None or len(output.dims) != 4:
            return 0
        _, height, width, _ = output.dims
        if self.is_depthwise:
            return self._window_bytes("kernel", "subsampling", height, width)
        if "Conv" in self.name and self.name != "Convert":
            stride = max(self._get("subsampling_height"), self._get("subsampling_width"))
            if self.taps == 1 and stride <= 1 and self.name == "Conv2d":
                return 0  # a plain product of matrices
            return product_table_bytes(height * width, self.taps)
        if self.name in ("MaxPooling2d", "AvgPooling2d", "ArgMaxPooling2d"):
            return self._window_bytes("pooling", "stride", height, width)
        if self.name == "ResizeBilinear2D":
            return bilinear_table_bytes(height * width)
        return 0

    def _window_bytes(self, kernel: str, stride: str, height: int, width: int) -> int:
        window = (self._get(f"{kernel}_height"), self._get(f"{kernel}_width"))
        step = self._get(f"{stride}_width")
        return window_table_bytes(height, width, window, step, self._get("dilation_width"))
