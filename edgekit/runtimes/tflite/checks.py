"""What tflite-runtime 2.14 lacks, computes wrongly or crashes on.

Also the order of inputs and outputs.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from edgekit.errors import RuntimeFailure
from edgekit.runtimes.litert.edits.corrections import edited
from edgekit.runtimes.litert.flatbuffer import Graph, read_graph
from edgekit.runtimes.tflite.operators import has_operator

FLOATS = ("float32", "float16")
# They read a table or convert; they do not compute with rounded weights.
NO_ARITHMETIC = ("DEQUANTIZE", "QUANTIZE", "GATHER", "EMBEDDING_LOOKUP")
NARROW = ("int4", "uint4", "int2")
INSTEAD = "build it with --runtime litert, or quantize it to static int8"


def checked(data: bytes) -> bytes:
    """The file, with the inputs and outputs of its graph in the order of its signature.

    Raises RuntimeFailure: tflite-runtime does not run the file rightly.
    """
    graph = read_graph(data)
    narrow = sorted({tensor.dtype for tensor in graph.tensors if tensor.dtype in NARROW})
    if narrow:
        raise RuntimeFailure(
            f"the file has weights in {', '.join(narrow)}: tflite-runtime 2.14 computes "
            "them wrongly, or crashes",
            INSTEAD,
        )
    if wrong := list(_hybrid(graph)):
        raise RuntimeFailure(
            f"{', '.join(dict.fromkeys(wrong))}: int8 weights with float inputs (dynamic int8), "
            "which tflite-runtime 2.14 computes wrongly",
            INSTEAD,
        )
    lacking = [f"{n.kind} {n.version}" for n in graph.nodes if not has_operator(n.kind, n.version)]
    if lacking:
        raise RuntimeFailure(
            f"tflite-runtime 2.14 has no {', '.join(dict.fromkeys(lacking))} (operator and "
            "version): the file is for a newer runtime",
            "build it with --runtime litert, or write these layers in other operators",
        )
    return edited(data, _follow_signature)


def _hybrid(graph: Graph) -> Iterator[str]:
    """The kinds of the operators that compute in float with int8 weights."""
    for node in graph.nodes:
        inputs = [graph.tensors[number] for number in node.inputs]
        is_float = any(one.dtype in FLOATS and not one.is_constant for one in inputs)
        is_rounded = any(
            one.dtype == "int8" and one.is_constant and len(one.shape) > 1 for one in inputs
        )
        if is_float and is_rounded and node.kind not in NO_ARITHMETIC:
            yield node.kind


def _follow_signature(model: Any) -> bool:
    """tflite-runtime goes by the first graph of the file, LiteRT by the first signature."""
    signatures = model.signatureDefs or []
    if not signatures:
        return False
    first = signatures[0]
    if first.subgraphIndex != 0:
        raise RuntimeFailure(
            "the file's first signature is not that of its first graph, which is the one that "
            "tflite-runtime runs",
            "convert the file with one signature",
        )
    graph, changed = model.subgraphs[0], False
    for side, named in (("inputs", first.inputs), ("outputs", first.outputs)):
        wanted = [int(one.tensorIndex) for one in named]
        changed = changed or wanted != [int(number) for number in getattr(graph, side)]
        setattr(graph, side, wanted)
    return changed
