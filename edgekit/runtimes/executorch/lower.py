"""Lower a float or quantized program to a .pte, with XNNPACK wherever possible."""

from __future__ import annotations

from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from edgekit.errors import RuntimeFailure
from edgekit.program import Artifact, Quantization
from edgekit.runtimes.executorch.passes.fold import fold_constants
from edgekit.runtimes.executorch.passes.layout import corrected_layouts
from edgekit.runtimes.executorch.passes.products import hide_modules, products_as_linear
from edgekit.runtimes.executorch.passes.rewrite import rewrite
from edgekit.runtimes.executorch.refuse import OTHER_FORM, refuse, refuse_missing, runtime_failures
from edgekit.runtimes.provenance import sharing_provenance
from edgekit.runtimes.quiet import first_line, quiet

if TYPE_CHECKING:
    import torch

FILE_NAME = "model.pte"
QUANTIZE = "quantized_decomposed.quantize_per_tensor"
DEQUANTIZE = "quantized_decomposed.dequantize_per_tensor"


def lower(exported: torch.export.ExportedProgram) -> Artifact:
    """Lower a program to a .pte. Raises RuntimeFailure."""
    with quiet(), sharing_provenance():
        from executorch.backends.xnnpack.partition.xnnpack_partitioner import XnnpackPartitioner
        from executorch.exir import to_edge_transform_and_lower

        from edgekit.runtimes.executorch.describe import describe, layers_of_program
        from edgekit.runtimes.executorch.half_precision.delegate import half_precision, has_half
        from edgekit.runtimes.executorch.passes.copies import WithoutCopies, has_copies

        exported = fold_constants(products_as_linear(exported))
        refuse(exported)
        exported = rewrite(exported)
        hide_modules(exported.graph)
        steps = boundary_quantization(exported)
        passes = [WithoutCopies()] if has_copies(exported) else None
        with runtime_failures("ExecuTorch could not lower the model", OTHER_FORM, exported.graph):
            with corrected_layouts(), half_precision() if has_half(exported) else nullcontext():
                edge = to_edge_transform_and_lower(exported, passes, [XnnpackPartitioner()])
            emitted = edge.to_executorch()
            refuse_missing(emitted.exported_program().graph)
            layers = layers_of_program(emitted.exported_program())
            data = bytes(emitted.buffer)
        return Artifact(data, FILE_NAME, describe(data, layers, steps))


def read(data: bytes) -> Artifact:
    """Describe a .pte that was lowered elsewhere. The names of its layers are unknown."""
    with quiet():
        from edgekit.runtimes.executorch.describe import LayerMap, describe

        try:
            return Artifact(data, FILE_NAME, describe(data, LayerMap(), ([], [])))
        except RuntimeFailure:
            raise
        except Exception as error:
            raise RuntimeFailure(
                f"not a .pte file that this version can read: {first_line(error)}"
            ) from error


def boundary_quantization(
    exported: torch.export.ExportedProgram,
) -> tuple[list[Quantization | None], list[Quantization | None]]:
    """The int8 steps of inputs that the model quantizes first, and of outputs that it dequantizes
    last. None for the others.
    """
    placeholders = {n.name: n for n in exported.graph.nodes if n.op == "placeholder"}
    inputs = []
    for name in exported.graph_signature.user_inputs:
        users = list(placeholders[str(name)].users) if str(name) in placeholders else []
        steps = [user for user in users if str(user.target).startswith(QUANTIZE)]
        inputs.append(_parameters(steps[0]) if steps and len(steps) == len(users) else None)
    produced = {n.name: n for n in exported.graph.nodes}
    outputs = []
    for name in exported.graph_signature.user_outputs:
        node = produced.get(str(name))
        last = node is not None and str(node.target).startswith(DEQUANTIZE)
        outputs.append(_parameters(node) if node is not None and last else None)
    return inputs, outputs


def _parameters(node: torch.fx.Node) -> Quantization:
    arguments: tuple[Any, ...] = node.args  # (tensor, scale, zero point, least, most, dtype)
    return Quantization(
        scale=float(arguments[1]),
        zero_point=int(arguments[2]),
        dtype=str(arguments[5]).removeprefix("torch."),
    )
