"""int8 after conversion, by ai-edge-quantizer, with ranges from the recipe's calibration data.

Quantized before conversion, each convolution's weights would be transposed at every inference
(litert-torch, issue 179).
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from edgekit.compress.divergence import arrays
from edgekit.compress.graph import within
from edgekit.compress.quantization.affine import Grid
from edgekit.compress.quantization.equalize_float import equalized
from edgekit.compress.quantization.observe import ObservedValues, steps_of
from edgekit.errors import RuntimeFailure
from edgekit.fidelity.agreement import OutputsAgreement, float_passes
from edgekit.plan import Observer, Plan
from edgekit.program import Artifact
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.base import FloatModel
from edgekit.runtimes.export import export
from edgekit.runtimes.litert.bias import with_corrected_biases
from edgekit.runtimes.litert.describe import Scopes, layer_of
from edgekit.runtimes.litert.edits.corrections import without_returns_to_float
from edgekit.runtimes.litert.flatbuffer import Graph, read_graph
from edgekit.runtimes.litert.interpreter import Interpreter
from edgekit.runtimes.litert.lower import convert, described, scopes_of
from edgekit.runtimes.quiet import first_line, quiet

if TYPE_CHECKING:
    import numpy as np

    Ranges = dict[str, tuple[np.floating[Any], np.floating[Any]]]

BITS = 8
# So many inputs, beside the example, show whether the converted float file is right.
CHECKED = 4
ANYTHING = ".*"
# The observers that take all of a range.
WIDEST = ("histogram", "min_max")
# The operator that pads with a given value; the converter uses it for max pooling.
PADDING, MAXIMUM = "PADV2", "MAX_POOL_2D"


def quantize(source: FloatModel, plan: Plan, progress: Progress) -> Artifact:
    """Quantize by a plan; it has no other repairs than LiteRT's.

    Raises ExportError, RuntimeFailure, RecipeError (a value that is not finite).
    """
    if plan.linear != "static":
        raise RuntimeFailure(
            f"LiteRT's {plan.linear} int8 is not offered: convolutions get three times slower, and "
            "the tflite runtime computes them wrongly",
            "build with linear = 'static' in the plan, or for --runtime executorch",
        )
    with quiet(), progress.stage("converting for LiteRT"):
        exported = export(source.model, source.example)
        if plan.equalize is not None:
            model = equalized(source.model, exported, source.fitted, plan.equalize)
            exported = export(model, source.example)
        data, scopes = convert(exported), scopes_of(exported)
    graph = read_graph(data)
    interpreter = Interpreter(data, graph, keep_all=True)
    _check_conversion(interpreter, source)
    found = ranges(interpreter, graph, source.fitted, plan.observer, progress)
    with progress.stage(f"quantizing {plan.precision}"):
        rounded = _quantized(data, graph, plan, found, _float_names(graph, plan, scopes))
        rounded = without_returns_to_float(rounded)
    if plan.correct:
        rounded = with_corrected_biases(rounded, data, source.fitted, progress)
    return described(rounded, scopes)


def _check_conversion(model: Interpreter, source: FloatModel) -> None:
    """Raise RuntimeFailure if the converted float file computes something else than the model.

    Parity of int8 compares the file with itself, by other kernels: it cannot show that.
    """
    agreement: OutputsAgreement | None = None
    for inputs in [source.example, *source.fitted[:CHECKED]]:
        with torch.no_grad():
            wanted = arrays(pytree.tree_leaves(source.model(*inputs)))
        agreement = agreement or OutputsAgreement(len(wanted))
        agreement.add(arrays(model.run(inputs)), wanted)
    assert agreement is not None
    if not float_passes(agreement):
        raise RuntimeFailure(
            "LiteRT's converter changed the model: the outputs of the float file differ by up to "
            f"{agreement.worst().max_abs_diff:.3g}",
            "build it with --runtime executorch",
        )


def ranges(
    model: Interpreter,
    graph: Graph,
    calibration: Sequence[Inputs],
    observer: Observer,
    progress: Progress,
) -> Ranges:
    """The range of each activation of a float file, over all inputs; by default from its least to
    its greatest value.
    """
    import numpy as np

    names = {
        number: tensor.name
        for number, tensor in enumerate(graph.tensors)
        # the quantizer rounds weights by channel: a range would make it one step for all
        if tensor.dtype == "float32" and not tensor.is_constant
    }
    padded = _padded_for_maximum(graph)
    seen: dict[str, ObservedValues] = {}
    with progress.stage("calibrating") as stage:
        for done, inputs in enumerate(calibration, 1):
            model.run(inputs)
            for number, name in names.items():
                value = model.value(number)
                if value is None or not value.size:
                    continue
                finite = np.isfinite(value)
                if number in padded:
                    value = np.where(finite, value, value[finite].min(initial=0.0))
                elif not finite.all():
                    raise RuntimeFailure(
                        f"{name or number} has values that are not finite for a calibration input",
                        "build with --precision fp32, or remove NaN and infinity from the model",
                    )
                values = seen.setdefault(name, ObservedValues())
                if observer in WIDEST:
                    values.widen(float(value.min()), float(value.max()))
                else:
                    values.add(torch.from_numpy(value))
            stage.advance(done, len(calibration))
    return {name: _range(values, observer) for name, values in seen.items()}


def _padded_for_maximum(graph: Graph) -> set[int]:
    """Tensors that only maxima read: minus infinity stands for nothing there, and so does the
    lowest step.
    """
    padded = {number for node in graph.nodes if node.kind == PADDING for number in node.outputs}
    others = {n for node in graph.nodes if node.kind != MAXIMUM for n in node.inputs}
    return padded - others - set(graph.outputs)


def _range(values: ObservedValues, observer: Observer) -> tuple[Any, Any]:
    import numpy as np

    if observer in WIDEST:
        return np.float32(values.low), np.float32(values.high)
    grid = Grid(BITS)
    steps = steps_of(values, observer, grid)
    low, high = ((end - steps.zero_point) * steps.scale for end in (grid.low, grid.high))
    return np.float32(low), np.float32(high)


def _float_names(graph: Graph, plan: Plan, scopes: Scopes) -> list[str]:
    """The quantizer's names for the operators that stay float.

    Raises RuntimeFailure: a name of the plan fits no operator.
    """
    found, names_used = list[str](), set[str]()
    for node in graph.nodes:
        layer = layer_of(graph, node, scopes)
        if layer is None:
            continue
        names = (layer, f"{layer}:{node.kind.lower()}")
        fitting = {own for own in plan.float_layers if any(within(one, own) for one in names)}
        if fitting:
            found.append(";".join(graph.tensors[number].name for number in node.outputs))
            names_used |= fitting
    if unused := sorted(set(plan.float_layers) - names_used):
        raise RuntimeFailure(
            f"{', '.join(unused)}: no operator of the converted file belongs to this layer alone",
            "name the module around it in float_layers",
        )
    return found


def _quantized(
    data: bytes, graph: Graph, plan: Plan, found: Ranges, floats: Sequence[str]
) -> bytes:
    import numpy as np
    from ai_edge_quantizer import algorithm_manager, qtyping, quantizer, recipe_manager

    operation, algorithm = qtyping.TFLOperationName, algorithm_manager.AlgorithmName
    granularity = qtyping.QuantGranularity
    manager = recipe_manager.RecipeManager()
    manager.add_static_config(
        ANYTHING,
        operation.ALL_SUPPORTED,
        activation_num_bits=BITS,
        weight_num_bits=BITS,
        weight_granularity=granularity.CHANNELWISE if plan.per_channel else granularity.TENSORWISE,
    )
    for side in (operation.INPUT, operation.OUTPUT):  # the application keeps its own types
        manager.add_quantization_config(ANYTHING, side, None, algorithm.NO_QUANTIZE)
    for name in dict.fromkeys(floats):
        manager.add_quantization_config(
            f"^{re.escape(name)};?$", operation.ALL_SUPPORTED, None, algorithm.NO_QUANTIZE
        )
    rank = {tensor.name: len(tensor.shape) for tensor in graph.tensors}

    def full(name: str, value: np.floating[Any]) -> Any:
        return np.full([1] * rank[name], value, np.float32)

    calibration = {
        name: {"min": full(name, low), "max": full(name, high)}
        for name, (low, high) in found.items()
    }
    try:
        with quiet(), redirect_stderr(io.StringIO()):  # a progress bar that nothing turns off
            tool = quantizer.Quantizer(bytearray(data), manager.get_quantization_recipe())
            result = tool.quantize(
                calibration, enable_progress_bar=False, enable_progress_report=False
            )
    except Exception as error:  # the quantizer raises errors of any kind
        raise RuntimeFailure(
            f"LiteRT's quantizer does not take the model: {first_line(error)}",
            "build it with --precision fp32, or with --runtime executorch",
        ) from error
    assert result.quantized_model is not None
    return bytes(result.quantized_model)
