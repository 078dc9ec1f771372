"""The reference of quantization: what every runtime's integers are held against.

Five steps take a trained network's tensor to integers (B. Jacob et al., "Quantization and Training
of Neural Networks for Efficient Integer-Arithmetic-Only Inference", 2018, arXiv:1712.05877):

    1. the tensor, trained
    2. its range                                    ``observe.py``, or lowest to highest
    3. equal intervals, 2 ** bits of them           ``steps_for``
    4. each value into its interval                 ``quantize``
    5. rounded to the nearest that can be told      ``dequantize``

real = scale * (stored - zero_point); zero is always told exactly, for padding is made of it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from edgekit.errors import RecipeError

MIN_BITS, MAX_BITS = 2, 16
# Below it a float32 scale has lost digits of its own.
TINY = torch.finfo(torch.float32).tiny


@dataclass(frozen=True)
class Grid:
    """Signed integers of ``bits`` bits. ``symmetric``: zero point 0, as many steps below as above
    (-127 to 127, not -128): what kernels want of weights.
    """

    bits: int = 8
    symmetric: bool = False

    def __post_init__(self) -> None:
        if not MIN_BITS <= self.bits <= MAX_BITS:
            raise ValueError(f"{self.bits} bits: {MIN_BITS} to {MAX_BITS} are possible")

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
    """Lowest and highest value, of the whole or of each slice along ``axis``.

    Raises RecipeError: NaN or infinite values, or none at all.
    """
    check_finite(tensor, "the tensor")
    if axis is None:
        return tensor.min(), tensor.max()
    slices = tensor.movedim(axis, 0).reshape(tensor.shape[axis], -1)
    return slices.amin(1), slices.amax(1)


def steps_for(low: torch.Tensor, high: torch.Tensor, grid: Grid, axis: int | None = None) -> Steps:
    """Equal intervals over the range, widened to hold zero. A range that is only zero gets steps
    of 1, for then nothing else is to be told.
    """
    low, high = low.double().clamp(max=0.0), high.double().clamp(min=0.0)
    if grid.symmetric:
        widest = torch.maximum(-low, high)
        scale = (widest / grid.high).float().clamp(min=TINY)
        zero_point = torch.zeros_like(scale)
    else:
        scale = ((high - low) / (grid.high - grid.low)).float().clamp(min=TINY)
        zero_point = (grid.low - low / scale.double()).round().clamp(grid.low, grid.high)
    nothing = (low == 0) & (high == 0)
    scale = torch.where(nothing, torch.ones_like(scale), scale)
    zero_point = torch.where(nothing, torch.zeros_like(zero_point), zero_point)
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
    """What the integers tell, float32."""
    scale, zero_point = steps.spread(stored)
    return ((stored.double() - zero_point) * scale.double()).float()


def round_trip(tensor: torch.Tensor, steps: Steps) -> torch.Tensor:
    """What is left of a tensor after it was stored as integers."""
    return dequantize(quantize(tensor, steps), steps)


def in_groups(weight: torch.Tensor, size: int) -> torch.Tensor:
    """A Linear's weight (out, in) as (out * in / size, size): each row gets its own steps (axis
    0). Raises ValueError where ``size`` does not divide the inputs.
    """
    if weight.dim() != 2 or weight.shape[1] % size:
        raise ValueError(f"groups of {size} do not divide a weight of shape {list(weight.shape)}")
    return weight.reshape(-1, size)


def check_finite(tensor: torch.Tensor, what: str) -> None:
    """Raises RecipeError: no values at all, NaN, or infinite ones."""
    if tensor.numel() == 0:
        raise RecipeError(f"{what} has no values: it has no range")
    wrong = int((~torch.isfinite(tensor)).sum())
    if wrong:
        raise RecipeError(
            f"{what} holds {wrong} values that are NaN or infinite: it has no range",
            "are the weights loaded, and did the training that made them converge?",
        )
