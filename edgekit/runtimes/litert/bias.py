"""Bias correction of a quantized .tflite: the mean of each channel becomes that of the float file.

M. Nagel et al., "Data-Free Quantization Through Weight Equalization and Bias Correction" (2019,
arXiv:1906.04721), section 4.2, on calibration inputs. Layers are corrected from the first to the
last, because the error of one moves the inputs of the next.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from edgekit.progress import Progress
from edgekit.recipe.calibration_file import spread_over
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.litert.flatbuffer import Graph, Node, read_graph
from edgekit.runtimes.litert.interpreter import Interpreter

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Means = dict[int, NDArray[np.floating]]

CORRECTED = ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED")
# So many inputs give the means, and so many times the file runs: layers are corrected in groups.
INPUTS, PASSES = 32, 8


class Bias(NamedTuple):
    """``stored``: a view of the file's integers. ``scale``: what one is worth, for each channel."""

    stored: NDArray[np.int32]
    scale: NDArray[np.float32]

    @property
    def place(self) -> int:
        """Where the integers lie: two tensors may share them."""
        return int(self.stored.__array_interface__["data"][0])

    def add(self, values: NDArray[np.floating]) -> None:
        limit = 2**31 - 1
        changed = self.stored + (values / self.scale).round()
        self.stored[:] = changed.clip(-limit, limit).astype("int32")


class Layer(NamedTuple):
    """``output``: the number of its output in the quantized file; ``wanted``: in the float file."""

    output: int
    wanted: int
    bias: Bias


def with_corrected_biases(
    rounded: bytes, floating: bytes, inputs: Sequence[Inputs], progress: Progress
) -> bytes:
    """``rounded``: the quantized file. ``floating``: the file that it was quantized from."""
    data, given = bytearray(rounded), spread_over(inputs, INPUTS)
    graph, original = read_graph(rounded), read_graph(floating)
    layers = layers_of(data, graph, original)
    with progress.stage("correcting biases") as stage:
        wanted = _means(floating, original, [layer.wanted for layer in layers], given)
        size = max(1, -(-len(layers) // PASSES))
        for start in range(0, len(layers), size):
            group = layers[start : start + size]
            found = _means(bytes(data), graph, [layer.output for layer in group], given)
            for layer in group:
                layer.bias.add(wanted[layer.wanted] - found[layer.output])
            stage.advance(start + len(group), len(layers))
    return bytes(data)


def layers_of(data: bytearray, graph: Graph, original: Graph) -> list[Layer]:
    """The layers in order of execution whose outputs both files have, and whose bias is theirs
    alone.
    """
    wanted = {tensor.name: number for number, tensor in enumerate(original.tensors)}
    found = []
    for node in graph.nodes:
        if not _has_bias(graph, node):
            continue
        output = node.outputs[0]
        name = graph.tensors[output].name
        if name in wanted and graph.tensors[output].quantization is not None:
            found.append(Layer(output, wanted[name], bias_at(data, node.inputs[2])))
    places = [layer.bias.place for layer in found]
    return [layer for layer in found if places.count(layer.bias.place) == 1]


def _has_bias(graph: Graph, node: Node) -> bool:
    if node.kind not in CORRECTED or len(node.inputs) < 3:
        return False
    bias = graph.tensors[node.inputs[2]]
    return bias.is_constant and bias.dtype == "int32"


def bias_at(data: bytearray, number: int) -> Bias:
    """``number``: of the tensor, in the subgraph of the first signature."""
    import numpy as np
    from ai_edge_litert import schema_py_generated as schema

    model = schema.Model.GetRootAs(data)
    first = model.SignatureDefs(0).SubgraphIndex() if model.SignatureDefsLength() else 0
    tensor = model.Subgraphs(first).Tensors(number)
    buffer = model.Buffers(tensor.Buffer())
    if buffer.Offset() > 1:  # behind the flatbuffer
        stored = np.frombuffer(data, np.int32, buffer.Size() // 4, buffer.Offset())
    else:
        stored = buffer.DataAsNumpy().view(np.int32)
    return Bias(stored, tensor.Quantization().ScaleAsNumpy())


def _means(data: bytes, graph: Graph, numbers: Iterable[int], inputs: Sequence[Inputs]) -> Means:
    """The mean of each channel, the last axis, over all inputs, as real values."""
    model = Interpreter(data, graph, keep_all=True)
    sums: Means = {}
    for one in inputs:
        model.run(one)
        for number in numbers:
            value = model.value(number)
            assert value is not None
            steps = graph.tensors[number].quantization
            real = value.astype("float32")
            if steps is not None:
                real = (real - steps.zero_point) * steps.scale
            mean = real.reshape(-1, real.shape[-1]).mean(0)
            sums[number] = sums[number] + mean if number in sums else mean
    return {number: total / len(inputs) for number, total in sums.items()}
