"""Gain and bias correction: compensate for each channel what rounding changes on average.

The bias absorbs the mean error (M. Nagel et al., 2019, arXiv:1906.04721, section 4.2, measured on
data as in their appendix D). The scale of the channel's weights absorbs the gain: the slope of the
least-squares fit of the float output by the int8 output. Neither costs anything on the device.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from edgekit.compress.quantization.lockstep import Layer

# Rounding cannot cause a slope beyond these.
GAIN_LIMITS = (0.8, 1.25)
# At most so many places of one batch.
ROWS_PER_PART = 16384


def correct(layer: Layer) -> None:
    """Correct the layer in place, unless it has no bias of its own."""
    steps = layer.rounding.steps
    if layer.bias is None or steps is None:
        return
    if steps.axis == 0:
        gain = _gain(layer)
        layer.weight.mul_(gain.reshape([-1] + [1] * (layer.weight.dim() - 1)))
        layer.rounding.steps = replace(steps, scale=steps.scale * gain)
    layer.bias.add_(_mean_error(layer))


def _rows(layer: Layer, tensor: torch.Tensor) -> torch.Tensor:
    """The tensor as (samples, channels)."""
    moved = tensor.movedim(layer.channel_axis, -1)
    return moved.reshape(-1, moved.shape[-1])


def _some(rows: torch.Tensor) -> torch.Tensor:
    """Evenly spread rows: neighbours hold nearly the same information."""
    return rows[:: max(1, len(rows) // ROWS_PER_PART) | 1]


def _mean_error(layer: Layer) -> torch.Tensor:
    """The mean of float minus int8 for each channel."""
    total, count = torch.zeros(len(layer.weight)), 0
    for inputs, expected in zip(layer.inputs, layer.float_outputs, strict=True):
        error = _rows(layer, expected - layer.compute(inputs))
        total += error.sum(0)
        count += len(error)
    return total / count


def _gain(layer: Layer) -> torch.Tensor:
    """For each channel, the covariance of int8 and float divided by the variance of int8."""
    sums = [torch.zeros(len(layer.weight), dtype=torch.float64) for _ in range(4)]
    count = 0
    for inputs, expected in zip(layer.inputs, layer.float_outputs, strict=True):
        a, b = (_some(_rows(layer, t)).double() for t in (layer.compute(inputs), expected))
        for total, value in zip(sums, (a, b, a * a, a * b), strict=True):
            total += value.sum(0)
        count += len(a)
    mean_a, mean_b, square, product = (total / count for total in sums)
    variance, covariance = square - mean_a**2, product - mean_a * mean_b
    gain = torch.where(variance > 1e-12 * square.clamp(min=1e-30), covariance / variance, 1.0)
    return gain.clamp(*GAIN_LIMITS).float()
