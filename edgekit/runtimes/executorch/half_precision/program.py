"""A program in half precision: which operators XNNPACK computes in float16."""

from __future__ import annotations

from typing import TYPE_CHECKING

from edgekit.compress.half_precision import to_half
from edgekit.compress.masks import clamp_masks
from edgekit.errors import ExportError, RuntimeFailure
from edgekit.plan import Plan
from edgekit.recipe.recipe import default_torch_settings
from edgekit.runtimes.base import FloatModel
from edgekit.runtimes.executorch.passes.fold import fold_constants
from edgekit.runtimes.executorch.passes.products import products_as_linear
from edgekit.runtimes.executorch.passes.rewrite import rewrite
from edgekit.runtimes.executorch.refuse import refuse, runtime_failures
from edgekit.runtimes.export import export
from edgekit.runtimes.quiet import quiet

if TYPE_CHECKING:
    import torch

FLOAT = "build it with --precision fp32"
# Operators with kernels for float16 on Arm cores with asimdhp and on x86, each run on both.
COMPUTED = frozenset((
    "abs", "adaptive_avg_pool2d", "add", "avg_pool2d", "bmm", "clamp", "conv1d", "conv2d",
    "conv_transpose2d", "convolution", "div", "embedding", "hardswish", "hardtanh", "leaky_relu",
    "linear", "matmul", "max_pool2d", "maximum", "mean", "minimum", "mul", "neg", "prelu", "relu",
    "relu6", "scaled_dot_product_attention", "sigmoid", "softmax", "sub", "tanh",
    "upsample_bilinear2d",
))  # fmt: skip
# How many inputs show the range of values; int8 models are slow in torch.
WATCHED = 20
# Recurrent layers are single operators until they are lowered.
RECURRENT = ("lstm.input", "gru.input", "rnn_tanh.input", "rnn_relu.input")


def half_program(source: FloatModel, plan: Plan) -> torch.export.ExportedProgram:
    """The program that computes in half precision. Raises ExportError, RuntimeFailure."""
    with quiet(), runtime_failures("half precision failed on this model", FLOAT):
        from torchao.quantization.pt2e.utils import _fuse_conv_bn_

        exported = _without_recurrent_layers(export(source.model, source.example))
        exported = fold_constants(products_as_linear(exported))
        refuse(exported)
        graph = rewrite(exported).module()
        data = [source.example, *source.fitted[:WATCHED]]
        with default_torch_settings():
            _fuse_conv_bn_(graph)
            clamp_masks(graph, data)
            count = to_half(graph, data, COMPUTED, plan.float_layers)
            if not count:
                raise RuntimeFailure(
                    "no operator of this model can be computed in half precision", FLOAT
                )
            return _exported(graph, source)


def with_half_floats(
    quantized: torch.export.ExportedProgram, source: FloatModel
) -> torch.export.ExportedProgram:
    """A quantized program whose float layers compute in half precision. Raises RuntimeFailure."""
    with quiet(), runtime_failures("half precision failed on this model", FLOAT):
        graph = quantized.module()
        with default_torch_settings():
            count = to_half(graph, [source.example, *source.fitted[:WATCHED]], COMPUTED)
            return _exported(graph, source) if count else quantized


def _without_recurrent_layers(
    exported: torch.export.ExportedProgram,
) -> torch.export.ExportedProgram:
    """The program with recurrent layers as linear layers and gates."""
    import torch

    found = {str(node.target).removeprefix("aten.") for node in exported.graph.nodes}
    if found.isdisjoint(RECURRENT):
        return exported
    table = torch.export.default_decompositions()
    kept = {op: table[op] for op in list(table) if str(op).removeprefix("aten.") in RECURRENT}
    decomposed: torch.export.ExportedProgram = exported.run_decompositions(kept)
    return decomposed


def _exported(graph: torch.nn.Module, source: FloatModel) -> torch.export.ExportedProgram:
    try:
        return export(graph, source.example)
    except ExportError as error:  # the converted graph, not the user's model
        raise RuntimeError(error.message) from error


class XnnpackHalf:
    """The half-precision capability of ExecuTorch (runtimes/base.py)."""

    program = staticmethod(half_program)
    with_half_floats = staticmethod(with_half_floats)
