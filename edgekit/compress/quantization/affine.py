"""The reference for affine quantization: every runtime's integers are compared with it.

Five steps quantize a tensor (B. Jacob et al., "Quantization and Training of Neural Networks for
Efficient Integer-Arithmetic-Only Inference", 2018, arXiv:1712.05877):

    1. the trained tensor
    2. its range                                    ``observe.py``, or lowest to highest
    3. equal intervals, 2 ** bits of them           ``steps_for``
    4. each value to the integer of its interval    ``quantize``
    5. each integer to the value it represents      ``dequantize``

real = scale * (stored - zero_point). Zero is represented exactly, because padding consists of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgekit.errors import RecipeError

MIN_BITS, MAX_BITS = 2, 16
# A smaller float32 is subnormal: such a scale loses digits.
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Grid:
    """Signed integers of ``bits`` bits. ``symmetric``: zero point 0 and a symmetric range (-127 to
    127, not -128), which kernels require of weights.
    """

    bits: int = 8
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"{self.bits} bits are not supported: use {MIN_BITS} to {MAX_BITS}")

    @property
    def low(self) -> int:
        return -(1 << (self.bits - 1)) + int(self.symmetric)

    @property
    def high(self) -> int:
        return (1 << (self.bits - 1)) - 1


@dataclass(frozen=True)
class Steps:
    """``scale`` (float32) and ``zero_point`` (int32): shape () for the whole tensor, or (C,) for
    the C slices along ``axis``.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    grid: Grid
    axis: int | None = None

    def spread(self, tensor: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point in a shape that broadcasts over ``tensor``."""
        if self.axis is None:
            return self.scale, self.zero_point
        shape = [1] * tensor.dim()
        shape[self.axis] = -1
        return self.scale.reshape(shape), self.zero_point.reshape(shape)


def range_of(tensor: torch.Tensor, axis: int | None = None) -> tuple[torch.Tensor, torch.Tensor]:
    """Lowest and highest value of the tensor, or of each slice along ``axis``.

    Raises RecipeError: NaN or infinite values, or none at all.
    """
    check_finite(tensor, "the tensor")
    if axis is None:
        return tensor.min(), tensor.max()
    slices = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
    return slices.amin(1), slices.amax(1)


def steps_for(low: torch.Tensor, high: torch.Tensor, grid: Grid, axis: int | None = None) -> Steps:
    """Equal intervals over the range, widened to include zero. A range that is only zero gets
    steps of 1.
    """
    low, high = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    if grid.symmetric:
        widest = torch.maximum(-low, high)
        scale = (widest / grid.high).float().clamp(min=TINY)
        zero_point = torch.zeros_like(scale)
    else:
        scale = ((high - low) / (grid.high - grid.low)).float().clamp(min=TINY)
        zero_point = (grid.low - low / scale.double()).round().clamp(grid.low, grid.high)
    only_zero = (low == 0) & (high == 0)
    scale = torch.where(only_zero, torch.ones_like(scale), scale)
    zero_point = torch.where(only_zero, torch.zeros_like(zero_point), zero_point)
    return Steps(scale, zero_point.to(torch.int32), grid, axis)


def quantize(tensor: torch.Tensor, steps: Steps) -> torch.Tensor:
    """The stored integers, int32, of the tensor's shape: nearest step, ties to even, clipped.

    Raises RecipeError: NaN or infinite values.
    """
    check_finite(tensor, "the tensor")
    scale, zero_point = steps.spread(tensor)
    stored = (tensor.double() / scale.double()).round() + zero_point
    return stored.clamp(steps.grid.low, steps.grid.high).to(torch.int32)


def dequantize(stored: torch.Tensor, steps: Steps) -> torch.Tensor:
    """The values that the integers represent, float32."""
    scale, zero_point = steps.spread(stored)
    return ((stored.double() - zero_point) * scale.double()).float()


def round_trip(tensor: torch.Tensor, steps: Steps) -> torch.Tensor:
    """Quantize and dequantize: the tensor with its rounding errors."""
    return dequantize(quantize(tensor, steps), steps)


def in_groups(weight: torch.Tensor, size: int) -> torch.Tensor:
    """A Linear's weight (out, in) as (out * in / size, size), for steps by row (axis 0).

    Raises ValueError: ``size`` does not divide the inputs.
    """
    if weight.dim() != 2 or weight.shape[1] % size:
        raise ValueError(
            f"a weight of shape {list(weight.shape)} cannot be split into groups of {size}"
        )
    return weight.reshape(-1, size)


def check_finite(tensor: torch.Tensor, what: str) -> None:
    """Raise RecipeError if the tensor is empty or has NaN or infinite values."""
    if tensor.numel() == 0:
        raise RecipeError(f"{what} is empty: it has no range")
    wrong = int((~torch.isfinite(tensor)).sum())
    if wrong:
        raise RecipeError(
            f"{what} has {wrong} values that are NaN or infinite: it has no range",
            "check that the weights are loaded and that their training converged",
        )
