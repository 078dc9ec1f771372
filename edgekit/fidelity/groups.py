"""Mean squares of an output, as a whole and by group; the statistics that fidelity is made of.

A group is one index of an axis other than the batch, where that axis is at most MAX_GROUPS long:
a channel of a detector's output, a class, a landmark's coordinate.
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
    """A mean square. ``groups``: one value for each index of an axis, by the axis's number in one
    input's output (the batch axis not counted). ``elements``: how many values a group has in all.
    """

    whole: float
    groups: dict[int, Floats]
    size: int

    def elements(self, axis: int) -> int:
        return self.size // len(self.groups[axis])


def energy(squares: Floats, inputs: int) -> Energy:
    """Of each element's mean square over ``inputs``; shape: one input's output."""
    axes = [axis for axis, length in enumerate(squares.shape) if 1 < length <= MAX_GROUPS]
    groups = {
        axis: squares.mean(axis=tuple(other for other in range(squares.ndim) if other != axis))
        for axis in axes
    }
    whole = float(squares.mean()) if squares.size else 0.0
    return Energy(whole, groups, squares.size * inputs)


def by_input(value: Array, batched: bool) -> Floats:
    """float64, with the first axis counting inputs."""
    found = np.asarray(value).astype(np.float64)
    return found if batched else found[None]


def difference(a: Floats, b: Floats) -> Floats:
    """Equal NaNs and infinities count as equal, others as infinitely far apart."""
    with np.errstate(invalid="ignore", over="ignore"):
        found = np.where((a == b) | (np.isnan(a) & np.isnan(b)), 0.0, a - b)
    found[~np.isfinite(found)] = np.inf
    return found


class Noise:
    """How far actual values are from their reference (``difference``)."""

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
    """How far the elements of an output vary over inputs (the unbiased variance of each), and how
    large they are. Of a single input nothing varies: its own square stands in.
    """

    def __init__(self, batched: bool) -> None:
        self._batched = batched
        self._first: Floats | None = None
        self._sum = self._squares = self._energy = np.zeros(())
        self.inputs = 0

    def add(self, reference: Array) -> None:
        found = by_input(reference, self._batched)
        found = np.where(np.isfinite(found), found, 0.0)
        if self._first is None:
            self._first = found[0].copy()
        shifted = found - self._first
        self._sum = self._sum + shifted.sum(axis=0)
        self._squares = self._squares + np.square(shifted).sum(axis=0)
        self._energy = self._energy + np.square(found).sum(axis=0)
        self.inputs += len(found)

    @property
    def varying(self) -> Energy:
        if self.inputs < 2:
            return self.magnitude
        squares = self._squares - np.square(self._sum) / self.inputs
        return energy(np.maximum(squares, 0.0) / (self.inputs - 1), self.inputs)

    @property
    def magnitude(self) -> Energy:
        return energy(self._energy / max(1, self.inputs), self.inputs)
