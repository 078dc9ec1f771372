"""What a .pte holds, read from the very bytes that ship: operators, layers, delegates, sizes."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import RuntimeFailure
from edgekit.program import (
    LayerOperators,
    OutsideOperator,
    Program,
    Quantization,
    TensorSpec,
)

if TYPE_CHECKING:
    import torch

BASE_LIBRARIES = ("libexecutorch.so", "libexecutorch_threadpool.so")
XNNPACK_LIBRARY = "libexecutorch_backend_xnnpack.so"
KERNEL_LIBRARY = "libexecutorch_kernels_optimized.so"
QUANTIZED_LIBRARY = "libexecutorch_kernels_quantized.so"
QUANTIZED_NAMESPACES = ("quantized_decomposed", "torchao")
XNN_HEADER_BYTES = 30
# Nodes that only change a tensor's type or layout: they are no operators of the model.
HOUSEKEEPING = {"XNNConvert", "XNNStaticTranspose", "XNNStaticReshape", "XNNCopy"}
# XNNPACK's handle for a node that its own passes added.
NO_HANDLE = 65535

Steps = tuple[list[Quantization | None], list[Quantization | None]]


class LayerMap:
    """Layers by debug handle inside delegates, and the operators left outside, by layer."""

    def __init__(self) -> None:
        self.by_handle: dict[int, str] = {}
        self.outside: Counter[tuple[str, str]] = Counter()


def layers_by_handle(program: torch.export.ExportedProgram) -> LayerMap:
    """Read from the program as it was emitted which layer each of its nodes is of."""
    found = LayerMap()
    for node in program.graph.nodes:
        schema = getattr(node.target, "_schema", None)
        if node.op == "call_function" and schema is not None:
            overload = f".{schema.overload_name}" if schema.overload_name else ""
            if schema.name != "executorch_call_delegate":
                found.outside[(schema.name + overload, layer_of(node))] += 1
    for child in program.graph_module.children():
        original = getattr(child, "original_module", None)
        for node in original.graph.nodes if original is not None else ():
            handle = node.meta.get("debug_handle")
            if node.op == "call_function" and isinstance(handle, int):
                layer = layer_of(node)
                if layer or handle not in found.by_handle:
                    found.by_handle[handle] = layer
    return found


def layer_of(node: torch.fx.Node) -> str:
    """The module's name in the recipe's model, '' for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    names = [value[0] for value in stack.values()]
    return str(names[-1]) if names else ""


def describe(data: bytes, layers: LayerMap, steps: Steps) -> Program:
    """Describe a .pte. Raises RuntimeFailure where it cannot be read."""
    from executorch.exir._serialize._program import deserialize_pte_binary

    program = deserialize_pte_binary(data).program
    plan = program.execution_plan[0]
    operators = [operator.name for operator in plan.operators]
    counts: dict[str, Counter[bool]] = {}
    for delegate in plan.delegates:
        payload = program.backend_delegate_data[delegate.processed.index].data
        for layer, quantized in xnnpack_operators(bytes(payload), layers):
            counts.setdefault(layer, Counter())[quantized] += 1
    return Program(
        inputs=_specs(plan, plan.inputs, steps[0], "input"),
        outputs=_specs(plan, plan.outputs, steps[1], "output"),
        delegates=tuple(delegate.id for delegate in plan.delegates),
        layers=tuple(
            LayerOperators(layer=layer, quantized=count[True], floating=count[False])
            for layer, count in counts.items()
        ),
        outside=tuple(
            OutsideOperator(operator=operator, layer=layer, count=count)
            for (operator, layer), count in layers.outside.items()
        ),
        libraries=needed_libraries([d.id for d in plan.delegates], operators),
        planned_bytes=sum(plan.non_const_buffer_sizes),
    )


def needed_libraries(delegates: list[str], operators: list[str]) -> tuple[str, ...]:
    """The shared libraries of the wheel that a program with these needs, and no others."""
    needed = list(BASE_LIBRARIES)
    if "XnnpackBackend" in delegates:
        needed.append(XNNPACK_LIBRARY)
    namespaces = {name.split("::")[0] for name in operators}
    if namespaces & set(QUANTIZED_NAMESPACES):
        needed.append(QUANTIZED_LIBRARY)
    if namespaces - set(QUANTIZED_NAMESPACES):
        needed.append(KERNEL_LIBRARY)
    return tuple(sorted(needed))


def xnnpack_operators(payload: bytes, layers: LayerMap) -> list[tuple[str, bool]]:
    """Each operator of a delegate's graph: its layer, and whether it computes in int8."""
    graph = decode_xnnpack(payload)
    types = {}
    for value in graph.get("xvalues", ()):
        union = value["xvalue_union"]
        tensor = union.get("tensor_value", union)
        types[tensor.get("id_out", 0)] = tensor.get("datatype", "xnn_datatype_invalid")
    found = []
    for node in graph.get("xnodes", ()):
        if node["xnode_union_type"] in HOUSEKEEPING:
            continue
        union = node["xnode_union"]
        output = union.get("output_id", union.get("output1_id", 0))
        layer = layers.by_handle.get(node.get("debug_handle", NO_HANDLE), "")
        found.append((layer, "int8" in types.get(output, "")))
    return found


def decode_xnnpack(payload: bytes) -> dict[str, Any]:
    """The delegate's flatbuffer as JSON, by the flatc and the schema that the wheel carries."""
    from executorch.backends.xnnpack.serialization import xnnpack_graph_serialize as serialize
    from executorch.data import bin as tools

    try:
        header = serialize.XNNHeader.from_bytes(payload[:XNN_HEADER_BYTES])
    except ValueError as error:
        raise RuntimeFailure(f"an XNNPACK delegate's header cannot be read: {error}") from None
    start = header.flatbuffer_offset
    schema = Path(serialize.__file__).parent / "schema.fbs"
    flatc = Path(next(iter(tools.__path__))) / "flatc"
    with tempfile.TemporaryDirectory() as folder:
        binary = Path(folder) / "graph.bin"
        binary.write_bytes(payload[start : start + header.flatbuffer_size])
        options = ["--json", "--strict-json", "--raw-binary", "-o", folder, str(schema)]
        command = [str(flatc), *options, "--", str(binary)]
        done = subprocess.run(command, capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeFailure(f"flatc cannot read a delegate: {done.stdout.decode().strip()}")
        text = binary.with_suffix(".json").read_text()
    # flatc writes a clamp without bounds as a bare inf, which JSON does not know.
    text = re.sub(r"(: -?)(inf|nan)\b", lambda m: m[1] + _JSON_FLOAT[m[2]], text)
    return json.loads(text)  # type: ignore[no-any-return]


_JSON_FLOAT = {"inf": "Infinity", "nan": "NaN"}
_SCALAR_TYPES = {
    "BYTE": "uint8", "CHAR": "int8", "SHORT": "int16", "INT": "int32", "LONG": "int64",
    "HALF": "float16", "FLOAT": "float32", "DOUBLE": "float64", "BOOL": "bool",
    "BFLOAT16": "bfloat16", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64",
}  # fmt: skip


def _specs(
    plan: Any, indices: list[int], steps: list[Quantization | None], word: str
) -> tuple[TensorSpec, ...]:
    specs = []
    for number, index in enumerate(indices):
        tensor = plan.values[index].val
        if not hasattr(tensor, "scalar_type"):
            raise RuntimeFailure(
                f"{word} {number} of the program is not a tensor but {type(tensor).__name__}",
                "a model's inputs and outputs must be tensors",
            )
        specs.append(
            TensorSpec(
                name=f"{word}_{number}",
                dtype=_SCALAR_TYPES[tensor.scalar_type.name],
                shape=tuple(tensor.sizes),
                quantization=steps[number] if number < len(steps) else None,
            )
        )
    return tuple(specs)
