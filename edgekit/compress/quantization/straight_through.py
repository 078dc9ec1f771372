"""The straight-through estimator: the gradient passes as if nothing had been rounded.

Y. Bengio et al., "Estimating or Propagating Gradients Through Stochastic Neurons" (2013,
arXiv:1308.3432). Clipped values get no gradient.
"""

from __future__ import annotations

from typing import Any

import torch


def straight_through(
    value: torch.Tensor, scale: torch.Tensor, low: torch.Tensor, high: torch.Tensor
) -> torch.Tensor:
    """Round to the nearest ``scale * integer``, with integers from ``low`` to ``high``."""
    result: torch.Tensor = _StraightThrough.apply(value, scale, low, high)  # type: ignore[no-untyped-call]
    return result


class _StraightThrough(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, value: torch.Tensor, scale: torch.Tensor, low: torch.Tensor, high: torch.Tensor
    ) -> torch.Tensor:
        steps = value / scale
        ctx.save_for_backward((steps >= low - 0.5) & (steps <= high + 0.5))
        return steps.round_().clamp_(low, high).mul_(scale)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None, None, None]:
        (inside,) = ctx.saved_tensors
        return gradients[0] * inside, None, None, None
