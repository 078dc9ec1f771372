"""The content of a .pte, read from the bytes that ship: operators, layers, delegates, sizes."""

from __future__ import annotations

import json
import re
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgekit.errors import RuntimeFailure
from edgekit.program import Call, Kind, Operator, Program, Quantization, TensorSpec
from edgekit.runtimes.executorch.pte import read_program
from edgekit.runtimes.xnnpack.alignment import candidates

if TYPE_CHECKING:
    import torch

BASE_LIBRARIES = ("libexecutorch.so", "libexecutorch_threadpool.so")
XNNPACK_LIBRARY = "libexecutorch_backend_xnnpack.so"
KERNEL_LIBRARY = "libexecutorch_kernels_optimized.so"
QUANTIZED_LIBRARY = "libexecutorch_kernels_quantized.so"
QUANTIZED_NAMESPACES = ("quantized_decomposed", "torchao")
DELEGATE_CALL = "executorch_call_delegate"
PRIMITIVES = "executorch_prim::"
VIEW_KERNEL = f"{PRIMITIVES}et_view.default"
# XNNPACK nodes that only change a tensor's type or layout.
LAYOUTS = {"Convert", "Transpose", "Reshape", "Copy"}
XNN_HEADER_BYTES = 30
# The handle of a node that XNNPACK's own passes added.
NO_HANDLE = 65535

Steps = tuple[list[Quantization | None], list[Quantization | None]]


@dataclass
class DelegateLayers:
    """The layers of a delegate's nodes by debug handle; None for a handle of several layers.
    ``norms``: in order, the batch normalizations that are not folded, because these may lose their
    handle.
    """

    by_handle: dict[int, str | None] = field(default_factory=dict)
    norms: list[tuple[int, str | None]] = field(default_factory=list)


@dataclass
class LayerMap:
    """Layers of a program's kernels and of its delegates, in order of execution."""

    kernels: list[tuple[str, str | None]] = field(default_factory=list)
    delegates: list[DelegateLayers] = field(default_factory=list)


def layers_of_program(program: torch.export.ExportedProgram) -> LayerMap:
    """The layers of a program's nodes, from the program that was emitted."""
    layer_map = LayerMap()
    for node in program.graph.nodes:
        if name := kernel_name(node):
            layer_map.kernels.append((name, layer_of(node)))
        elif DELEGATE_CALL in str(node.target):
            delegate: Any = getattr(program.graph_module, str(node.args[0]))
            layer_map.delegates.append(_layers_of_delegate(delegate.original_module.graph))
    return layer_map


def _layers_of_delegate(graph: torch.fx.Graph) -> DelegateLayers:
    result = DelegateLayers()
    layers: dict[int, set[str]] = {}
    for node in graph.nodes:
        handle, layer = node.meta.get("debug_handle"), layer_of(node)
        if node.op != "call_function" or not isinstance(handle, int):
            continue
        if layer is not None:
            layers.setdefault(handle, set()).add(layer)
        if "batch_norm" in kernel_name(node) and not _folds(node.args[0]):
            result.norms.append((handle, layer))
    result.by_handle = {
        handle: names.pop() if len(names) == 1 else None for handle, names in layers.items()
    }
    return result


def _folds(source: Any) -> bool:
    """Whether a batch normalization of ``source`` is folded into it."""
    name = kernel_name(source)
    return len(source.users) == 1 and any(part in name for part in ("conv", "linear", "addmm"))


def layer_of(node: torch.fx.Node) -> str | None:
    """The module's name in the recipe's model: '' for the model itself, None if unknown.

    A node that the quantizer added belongs to the layer whose value it converts.
    """
    if kernel_name(node).split("::")[0] in QUANTIZED_NAMESPACES:
        source: Any = node.args[0] if node.args else None
        return layer_of(source) if hasattr(source, "meta") and kernel_name(source) else None
    names = [value[0] for value in (node.meta.get("nn_module_stack") or {}).values()]
    return str(names[-1]) if names else None


def kernel_name(node: torch.fx.Node) -> str:
    """The kernel's name in the program's instructions; '' if the node calls no kernel."""
    schema: Any = getattr(node.target, "_schema", None)
    if node.op != "call_function" or schema is None:
        return VIEW_KERNEL if getattr(node.target, "__name__", "") == "view" else ""
    if schema.name == DELEGATE_CALL:
        return ""
    overload = f".{schema.overload_name}" if schema.overload_name else ""
    return str(schema.name) + overload


def describe(data: bytes, layers: LayerMap, steps: Steps) -> Program:
    """Describe a .pte. Raises RuntimeFailure: it cannot be read."""
    program = read_program(data)
    plan = program.execution_plan[0]
    operators = [operator.name for operator in plan.operators]
    tables = _Tables()
    calls = tuple(_calls(program, layers, tables))
    return Program(
        inputs=_specs(plan, plan.inputs, steps[0], "input"),
        outputs=_specs(plan, plan.outputs, steps[1], "output"),
        delegates=tuple(delegate.id for delegate in plan.delegates),
        calls=calls,
        kinds=tuple(tables.kinds),
        layers=tuple(tables.layers),
        libraries=needed_libraries([d.id for d in plan.delegates], operators),
        planned_bytes=sum(plan.non_const_buffer_sizes),
        housekeeping=tuple(sorted({kind.name for kind in tables.kinds if _is_housekeeping(kind)})),
    )


def _is_housekeeping(kind: Kind) -> bool:
    return kind.name in LAYOUTS or kind.name.startswith(PRIMITIVES)


class _Tables:
    """Kinds and layers in order of their first use, with their indices."""

    def __init__(self) -> None:
        self.kinds: dict[Kind, int] = {}
        self.layers: dict[str, int] = {}

    def call(self, instruction: int, delegated: bool, operators: list[Operator]) -> Call:
        places = [
            (
                self.kinds.setdefault(operator.kind, len(self.kinds)),
                None
                if operator.layer is None
                else self.layers.setdefault(operator.layer, len(self.layers)),
            )
            for operator in operators
        ]
        return Call(instruction, delegated, tuple(places))


def _calls(program: Any, layers: LayerMap, tables: _Tables) -> Iterator[Call]:
    """The program's kernel and delegate calls, in order."""
    plan = program.execution_plan[0]
    kernels: dict[int, str] = {}
    payloads: dict[int, bytes] = {}
    for place, instruction in enumerate(plan.chains[0].instructions):
        call = instruction.instr_args
        if hasattr(call, "delegate_index"):
            index = plan.delegates[call.delegate_index].processed.index
            payloads[place] = bytes(program.backend_delegate_data[index].data)
        elif hasattr(call, "op_index"):
            operator = plan.operators[call.op_index]
            overload = f".{operator.overload}" if operator.overload else ""
            kernels[place] = operator.name + overload
    outside = dict(zip(kernels, _kernel_operators(list(kernels.values()), layers), strict=True))
    delegates = layers.delegates if len(layers.delegates) == len(payloads) else []
    inside = dict(zip(payloads, delegates or [DelegateLayers() for _ in payloads], strict=True))
    for place in sorted(kernels.keys() | payloads.keys()):
        if place in kernels:
            yield tables.call(place, False, [outside[place]])
        else:
            yield tables.call(place, True, xnnpack_operators(payloads[place], inside[place]))


def _kernel_operators(names: list[str], layers: LayerMap) -> list[Operator]:
    """Every kernel that the program calls, with the layer of its node in the graph."""
    nodes = layers.kernels
    if [name for name, _ in nodes] == names:  # the only alignment that costs nothing
        return [Operator(Kind(name, False), layer) for name, layer in nodes]
    matches = candidates(
        [1] * len(nodes), [1] * len(names), lambda i, j: 0 if nodes[i][0] == names[j] else None
    )
    operators = []
    for name, match in zip(names, matches, strict=True):
        of = {None if node is None else nodes[node][1] for node in match}
        operators.append(Operator(Kind(name, False), of.pop() if len(of) == 1 else None))
    return operators


def needed_libraries(delegates: list[str], operators: list[str]) -> tuple[str, ...]:
    """The shared libraries of the wheel that a program with these delegates and operators needs."""
    needed = list(BASE_LIBRARIES)
    if "XnnpackBackend" in delegates:
        needed.append(XNNPACK_LIBRARY)
    namespaces = {name.split("::")[0] for name in operators}
    if namespaces & set(QUANTIZED_NAMESPACES):
        needed.append(QUANTIZED_LIBRARY)
    if namespaces - set(QUANTIZED_NAMESPACES):
        needed.append(KERNEL_LIBRARY)
    return tuple(sorted(needed))


def xnnpack_operators(payload: bytes, layers: DelegateLayers) -> list[Operator]:
    """Each operator of a delegate's graph, in order of execution."""
    graph = decode_xnnpack(payload)
    types = {}
    for value in graph.get("xvalues", ()):
        union = value["xvalue_union"]
        tensor = union.get("tensor_value", union)
        types[tensor.get("id_out", 0)] = tensor.get("datatype", "xnn_datatype_invalid")
    handles, operators = [], []
    for node in graph.get("xnodes", ()):
        name = node["xnode_union_type"].removeprefix("XNN").removeprefix("Static")
        union = node["xnode_union"]
        output = union.get("output_id", union.get("output1_id", 0))
        handles.append(node.get("debug_handle", NO_HANDLE))
        # a dynamically quantized layer outputs floats, but computes with integer weights
        datatypes = types.get(output, "") + types.get(union.get("filter_id"), "")
        kind = Kind(name, "int8" in datatypes or "int4" in datatypes)
        operators.append(Operator(kind, layers.by_handle.get(handles[-1])))
    return _with_norms(operators, handles, layers)


def _with_norms(
    operators: list[Operator], handles: list[int], layers: DelegateLayers
) -> list[Operator]:
    """Assign layers to batch normalizations that are not folded. They become depthwise convolutions
    without a handle: the n-th such node is the n-th normalization, if the numbers are equal.
    """
    missing = [layer for handle, layer in layers.norms if handle not in handles]
    places = [
        place
        for place, (operator, handle) in enumerate(zip(operators, handles, strict=True))
        if handle == NO_HANDLE and operator.kind.name == "DepthwiseConv2d"
    ]
    result = list(operators)
    for place, layer in zip(places, missing, strict=False) if len(places) == len(missing) else ():
        result[place] = operators[place]._replace(layer=layer)
    return result


def decode_xnnpack(payload: bytes) -> dict[str, Any]:
    """The delegate's flatbuffer as JSON, decoded with the wheel's own flatc and schema."""
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
    # flatc writes a clamp without bounds as a bare inf, which is not JSON.
    text = re.sub(r"(: -?)(inf|nan)\b", lambda m: m[1] + _JSON_FLOAT[m[2]], text)
    return json.loads(text)  # type: ignore[no-any-return]


_JSON_FLOAT = {"inf": "Infinity", "nan": "NaN"}
SCALAR_TYPES = {
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
                f"{word} {number} of the program is {type(tensor).__name__}, not a tensor",
                "a model's inputs and outputs must be tensors",
            )
        specs.append(
            TensorSpec(
                name=f"{word}_{number}",
                dtype=SCALAR_TYPES[tensor.scalar_type.name],
                shape=tuple(tensor.sizes),
                quantization=steps[number] if number < len(steps) else None,
            )
        )
    return tuple(specs)
