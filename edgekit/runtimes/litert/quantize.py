"""int8 after conversion, by ai-edge-quantizer, with ranges from the recipe's calibration data.

Quantized before conversion, each convolution's weights would be transposed at every inference
(litert-torch, issue 179).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch.utils import _pytree as pytree

from edgekit.compress.divergence import arrays
from edgekit.compress.graph import within
from edgekit.errors import RuntimeFailure
from edgekit.fidelity.agreement import OutputsAgreement, float_passes
from edgekit.plan import Plan
from edgekit.program import Artifact
from edgekit.progress import Progress
from edgekit.recipe.tensors import Inputs
from edgekit.runtimes.base import FloatModel
from edgekit.runtimes.export import export
from edgekit.runtimes.litert.corrections import without_returns_to_float
from edgekit.runtimes.litert.describe import Scopes, layer_of
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
# The operator that pads with a given value; the converter uses it for max pooling.
PADDING = "PADV2"


def quantize(source: FloatModel, plan: Plan, progress: Progress) -> Artifact:
    """Quantize by a plan without repairs. Raises ExportError, RuntimeFailure."""
    if plan.linear != "static":
        raise RuntimeFailure(
            f"LiteRT's {plan.linear} int8 is not offered: convolutions get three times slower, and "
            "the tflite runtime computes them wrongly",
            "build with linear = 'static' in the plan, or for --runtime executorch",
        )
    with quiet(), progress.stage("converting for LiteRT"):
        exported = export(source.model, source.example)
        data, scopes = convert(exported), scopes_of(exported)
    graph = read_graph(data)
    model = Interpreter(data, graph, keep_all=True)
    _check_conversion(model, source)
    found = ranges(model, graph, source.fitted, progress)
    with progress.stage(f"quantizing {plan.precision}"):
        rounded = _quantized(data, graph, plan, found, _float_names(graph, plan, scopes))
    return described(without_returns_to_float(rounded), scopes)


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
    model: Interpreter, graph: Graph, calibration: Sequence[Inputs], progress: Progress
) -> Ranges:
    """The least and the greatest value of each activation of a float file, over all inputs."""
    import numpy as np

    names = {
        number: tensor.name
        for number, tensor in enumerate(graph.tensors)
        # the quantizer rounds weights by channel: a range would make it one step for all
        if tensor.dtype == "float32" and not tensor.is_constant
    }
    # before a maximum, minus infinity stands for nothing: the lowest step does too
    padded = {number for node in graph.nodes if node.kind == PADDING for number in node.outputs}
    found: Ranges = {}
    with progress.stage("calibrating") as stage:
        for done, inputs in enumerate(calibration, 1):
            model.run(inputs)
            for number, name in names.items():
                value = model.value(number)
                if value is None or not value.size:
                    continue
                if number in padded:
                    value = value[np.isfinite(value)]
                if not np.isfinite(value).all():
                    raise RuntimeFailure(
                        f"{name or number} has values that are not finite for a calibration input",
                        "build with --precision fp32, or remove NaN and infinity from the model",
                    )
                low, high = found.get(name, (value.min(), value.max()))
                found[name] = (min(low, value.min()), max(high, value.max()))
            stage.advance(done, len(calibration))
    return found


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
        with quiet():
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
