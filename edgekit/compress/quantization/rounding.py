"""Learned rounding, layer by layer: the remaining weights compensate each rounding error.

E. Frantar et al., "GPTQ" (2022, arXiv:2210.17323), after optimal brain surgery. Weights are rounded
one input at a time. Each error is spread over the weights not yet rounded, by the second moments of
the inputs that reach the layer in int8. The result is exact on the weight's existing steps. Zeros
stay zeros, so that pruned weights stay pruned.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.functional import pad, unfold

from edgekit.compress.graph import groups_of, operator_name
from edgekit.compress.quantization.lockstep import Layer

DAMPING = 0.01
ROWS_PER_PART = 16384
BLOCK = 128


def round_weights(layer: Layer) -> None:
    """Round the weight to its steps, in place."""
    steps = layer.rounding.steps
    name = operator_name(layer.node)
    if steps is None or steps.axis != 0 or name not in ("conv2d", "linear"):
        return
    groups = groups_of(layer.node)
    moments = _moments(layer, groups)
    out, size = len(layer.weight), layer.weight[0].numel()
    weight = layer.weight.reshape(groups, out // groups, size).double()
    scale = steps.scale.double().reshape(groups, out // groups)
    rounded = _rounded(weight, moments, scale, steps.grid.low, steps.grid.high)
    layer.weight.copy_(rounded.reshape(layer.weight.shape).float())


def _moments(layer: Layer, groups: int) -> torch.Tensor:
    """Second moments of the inputs of each group: (groups, K, K)."""
    total: torch.Tensor | None = None
    for part in layer.inputs:
        rows = _columns(layer, part, groups)
        step = max(1, rows.shape[1] // ROWS_PER_PART)
        rows = rows[:, ::step]
        part_sum = rows.transpose(1, 2) @ rows
        total = part_sum if total is None else total + part_sum
    assert total is not None
    return total.double()


def _columns(layer: Layer, inputs: torch.Tensor, groups: int) -> torch.Tensor:
    """The inputs that each output is a sum over: (groups, samples, K)."""
    if operator_name(layer.node) == "linear":
        return inputs.reshape(1, -1, inputs.shape[-1])
    arguments = [*layer.node.args[3:6], *([1, 1], [0, 0], [1, 1])[len(layer.node.args[3:6]) :]]
    stride, dilation = _pair(arguments[0]), _pair(arguments[2])
    padding = arguments[1]
    if isinstance(padding, str):
        inputs = _padded(inputs, layer.weight.shape[2:], dilation, padding)
        padding = 0
    columns = unfold(inputs, layer.weight.shape[2:], dilation, _pair(padding), stride)
    batch, _, places = columns.shape
    parts = columns.reshape(batch, groups, -1, places)
    return parts.permute(1, 0, 3, 2).reshape(groups, batch * places, -1)


def _padded(
    inputs: torch.Tensor, kernel: Sequence[int], dilation: Sequence[int], padding: str
) -> torch.Tensor:
    """Pad like a convolution with named padding: 'same' puts an odd zero to the right and below."""
    if padding != "same":  # 'valid'
        return inputs
    sizes = []
    for size, step in zip(reversed(kernel), reversed(dilation), strict=True):
        total = step * (size - 1)
        sizes += [total // 2, total - total // 2]
    return pad(inputs, sizes)


def _pair(value: Any) -> tuple[int, int]:
    both = list(value) if isinstance(value, (list, tuple)) else [value]
    return int(both[0]), int(both[-1])


def _rounded(
    weight: torch.Tensor, moments: torch.Tensor, scale: torch.Tensor, low: int, high: int
) -> torch.Tensor:
    """The weight rounded to its steps. weight: (G, O, K); moments: (G, K, K); scale: (G, O)."""
    size = weight.shape[2]
    diagonal = torch.diagonal(moments, dim1=1, dim2=2)
    damping = DAMPING * diagonal.mean(1, keepdim=True) + 1e-12
    damped = moments + torch.diag_embed(damping.expand_as(diagonal))
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
    spread = torch.linalg.cholesky(inverse, upper=True)
    zeros = weight == 0
    weight, result = weight.clone(), torch.empty_like(weight)
    for start in range(0, size, BLOCK):
        stop = min(start + BLOCK, size)
        errors = torch.zeros_like(weight[:, :, start:stop])
        for index in range(start, stop):
            column = weight[:, :, index]
            stored = (column / scale).round().clamp(low, high) * scale
            stored = stored.masked_fill(zeros[:, :, index], 0)
            result[:, :, index] = stored
            error = (column - stored) / spread[:, index, index][:, None]
            errors[:, :, index - start] = error
            weight[:, :, index:stop] -= error[:, :, None] * spread[:, None, index, index:stop]
        weight[:, :, stop:] -= errors @ spread[:, start:stop, stop:]
    return result
