"""Several inputs in one batch, for models that compute the same for a batch as for each input."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import torch

from edgekit.recipe.tensors import Inputs

# Relative to the largest value: threads add in another order.
SAME_TOLERANCE = 1e-4


def concatenate(data: Sequence[Inputs]) -> Inputs:
    return tuple(torch.cat(tensors) for tensors in zip(*data, strict=True))


def rows_of(inputs: Inputs) -> int:
    return len(inputs[0]) if inputs and inputs[0].dim() else 1


def batch_rows(run: Callable[[Inputs], list[torch.Tensor]], data: Sequence[Inputs]) -> int | None:
    """The rows of each input if the first axis is a batch; one row always counts as a batch.
    None: the first axis is not a batch, such as the coordinates of a model without one.
    """
    rows = rows_of(data[0])
    pair = data[:2] if len(data) > 1 else [data[0], data[0]]
    return rows if rows == 1 or can_batch(run, pair) else None


def in_batches(
    run: Callable[[Inputs], list[torch.Tensor]], data: Sequence[Inputs], size: int
) -> list[Inputs]:
    if not can_batch(run, data):
        return list(data)
    return [concatenate(data[start : start + size]) for start in range(0, len(data), size)]


def can_batch(run: Callable[[Inputs], list[torch.Tensor]], data: Sequence[Inputs]) -> bool:
    """Whether the first two inputs give the same outputs in one batch as alone. ``run`` returns
    flat outputs.
    """
    if len(data) < 2:
        return False
    pair = data[:2]
    if any(tensor.dim() == 0 or len(tensor) != rows_of(pair[0]) for tensor in pair[0]):
        return False
    with torch.no_grad():
        alone = [run(inputs) for inputs in pair]
        both = None
        with suppress(Exception):
            both = run(concatenate(pair))
    return both is not None and same_when_joined(alone, both)


def same_when_joined(
    alone: Sequence[Sequence[torch.Tensor]], together: Sequence[torch.Tensor]
) -> bool:
    """Whether each tensor of ``together`` is the concatenation of the outputs in ``alone``."""
    return all(_is_joined(*pair) for pair in zip(zip(*alone, strict=True), together, strict=True))


def _is_joined(parts: Sequence[torch.Tensor], together: torch.Tensor) -> bool:
    if any(part.dim() == 0 for part in parts):
        return False
    expected = torch.cat(list(parts))
    if together.shape != expected.shape or together.dtype != expected.dtype:
        return False
    if expected.numel() == 0 or not expected.is_floating_point():
        return torch.equal(together, expected)
    error = (together - expected).float().abs().max()
    return bool(error <= SAME_TOLERANCE * expected.float().abs().max())
