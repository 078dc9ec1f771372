"""Mean squares of an output, as a whole and by group: the statistics of fidelity.

A group is one index of an axis that is not the batch and has at most MAX_GROUPS elements: a
channel of a detector's output, a class, a coordinate of a landmark.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.generic]
Floats = NDArray[np.float64]

MAX_GROUPS = 256


@dataclass(frozen=True)
class Energy:
    """A mean square, of the whole output and of groups.

    ``groups``: axis -> one value per index; axes are numbered without the batch axis. ``size``:
    the number of values over all inputs.
    """

    whole: float
    groups: dict[int, Floats]
    size: int

    def elements(self, axis: int) -> int:
        return self.size // len(self.groups[axis])


def energy(squares: Floats, inputs: int) -> Energy:
    """The Energy of ``squares``, each element's mean square over ``inputs``. Shape: one output."""
    axes = [axis for axis, length in enumerate(squares.shape) if 1 < length <= MAX_GROUPS]
    groups = {
        axis: squares.mean(axis=tuple(other for other in range(squares.ndim) if other != axis))
        for axis in axes
    }
    whole = float(squares.mean()) if squares.size else 0.0
    return Energy(whole, groups, squares.size * inputs)


def by_input(value: Array, batched: bool) -> Floats:
    """``value`` as float64, with the inputs along the first axis."""
    floats = np.asarray(value).astype(np.float64)
    return floats if batched else floats[None]


def difference(a: Floats, b: Floats) -> Floats:
    """``a - b``. Equal NaNs and infinities give 0, other pairs with them infinity."""
    with np.errstate(invalid="ignore", over="ignore"):
        result = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, a - b)
    result[~np.isfinite(result)] = np.inf
    return result


class Noise:
    """Accumulates squared differences between actual values and their reference."""

    def __init__(self, batched: bool) -> None:
        self._batched = batched
        self._squares: Floats = np.zeros(())
        self.inputs = 0

    def add(self, actual: Array, reference: Array) -> None:
        a, b = by_input(actual, self._batched), by_input(reference, self._batched)
        if a.shape != b.shape:
            a = np.full_like(b, np.nan)
        self._squares = self._squares + np.square(difference(a, b)).sum(axis=0)
        self.inputs += len(b)

    @property
    def energy(self) -> Energy:
        return energy(self._squares / max(1, self.inputs), self.inputs)


class Spread:
    """Accumulates the unbiased variance of each element over inputs, and its mean square.

    With a single input, the mean square replaces the variance.
    """

    def __init__(self, batched: bool) -> None:
        self._batched = batched
        self._first: Floats | None = None
        self._sum = self._squares = self._energy = np.zeros(())
        self.inputs = 0

    def add(self, reference: Array) -> None:
        values = by_input(reference, self._batched)
        values = np.where(np.isfinite(values), values, 0.0)
        if self._first is None:
            self._first = values[0].copy()
        shifted = values - self._first
        self._sum = self._sum + shifted.sum(axis=0)
        self._squares = self._squares + np.square(shifted).sum(axis=0)
        self._energy = self._energy + np.square(values).sum(axis=0)
        self.inputs += len(values)

    @property
    def varying(self) -> Energy:
        if self.inputs < 2:
            return self.magnitude
        squares = self._squares - np.square(self._sum) / self.inputs
        return energy(np.maximum(squares, 0.0) / (self.inputs - 1), self.inputs)

    @property
    def magnitude(self) -> Energy:
        return energy(self._energy / max(1, self.inputs), self.inputs)
