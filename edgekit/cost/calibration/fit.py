"""Fits the time of operators to measured ones, one formula for each group of operators.

The formula is a sum of amounts (features.py) with coefficients that are not below zero, fitted to
relative errors. What it misses varies smoothly with the shape, so a Gaussian process over the
logarithms of the dimensions adds it (Rasmussen and Williams, Gaussian Processes for Machine
Learning, 2006, chapter 2). Far from all measured shapes only the formula remains.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, NamedTuple

import numpy as np

from edgekit.cost.calibration.features import (
    ANY,
    CHANNELS,
    ELEMENTS,
    PRODUCT,
    ROW,
    Group,
    Placed,
    Tile,
    amounts,
    coordinates,
    group_of,
    groups_of,
)

Array = np.ndarray[Any, Any]

NO_TILE = Tile(1, 1, 1)
ROWS, COLUMNS = (1, 4, 5, 6, 7, 8), (2, 4, 8, 16, 32, 64)
# The process over what the formula misses: its deviation, the deviation of a measurement, both of
# logarithms, and the distance over which it changes, in factors of e.
DEVIATION, NOISE, LENGTH = 0.15, 0.05, 2.0
# Groups with fewer operators have a formula only.
LEAST_FITTED = 6
# Relative errors of formulas that differ by less are equal.
EQUAL = 1e-6
# Times below this are mostly the resolution of the device's clock.
LEAST_MS = 2e-5


class Timed(NamedTuple):
    operator: Placed
    latency_ms: float


@dataclass(frozen=True)
class GroupFit:
    """``coefficients``: milliseconds for each amount. ``places``, ``weights``: of the process.
    ``share``: of the operators that the runtime executes; it fuses the others into these.
    """

    group: Group
    tile: Tile
    coefficients: Array
    places: Array
    weights: Array
    share: float

    def latency_ms(self, operator: Placed) -> float:
        if self.share == 0:
            return 0.0
        base = float(np.dot(amounts(operator, self.group, self.tile), self.coefficients))
        if not len(self.weights):
            return base * self.share
        place = np.array([coordinates(operator, self.group, self.tile)])
        missed = float(_covariance(place, self.places)[0] @ self.weights)
        return base * self.share * math.exp(missed)


def fit_groups(operators: Iterable[Timed]) -> dict[Group, GroupFit]:
    """A fit for each group, and for those that stand for all others."""
    groups: dict[Group, list[Timed]] = {}
    for one in _distinct(operators):
        for group in groups_of(one.operator):
            if group.kind not in ANY or group_of(one.operator.shape).form == ELEMENTS:
                groups.setdefault(group, []).append(one)
    return {group: fit_group(group, some) for group, some in groups.items()}


def _distinct(operators: Iterable[Timed]) -> list[Timed]:
    """Equal operators as one, with their median time: a recurrent network repeats each often."""
    equal: dict[Placed, list[float]] = {}
    for one in operators:
        nowhere = one.operator.shape.replaced(layer=None, instruction=0, index=0)
        place = one.operator._replace(shape=nowhere)
        equal.setdefault(place, []).append(one.latency_ms)
    return [Timed(operator, median(times)) for operator, times in equal.items()]


def fit_group(group: Group, operators: Sequence[Timed]) -> GroupFit:
    """Fit the operators of a group. Those that the runtime fused into others have a time of 0."""
    executed = [one for one in operators if one.latency_ms > 0]
    share, operators = len(executed) / len(operators), executed
    if not operators:
        return GroupFit(group, NO_TILE, np.zeros(0), np.zeros((0, 0)), np.zeros(0), 0.0)
    times = np.array([max(one.latency_ms, LEAST_MS) for one in operators])
    fits = [(*_formula(_table(group, operators, tile), times), tile) for tile in _tiles(group.form)]
    least = min(error for error, *_ in fits)
    # of equally good tiles the first, whatever the CPU's rounding
    _, found, tile = next(fit for fit in fits if fit[0] <= least + EQUAL)
    places = np.array([coordinates(one.operator, group, tile) for one in operators])
    if group.kind in ANY:  # of many kinds: right in total, not for most of them
        found = found * times.sum() / (_table(group, operators, tile) @ found).sum()
    if len(operators) < LEAST_FITTED or group.kind in ANY:
        return GroupFit(group, tile, found, places[:0], np.zeros(0), share)
    missed = np.log(times / (_table(group, operators, tile) @ found))
    covariance = _covariance(places, places) + NOISE**2 * np.eye(len(places))
    return GroupFit(group, tile, found, places, np.linalg.solve(covariance, missed), share)


def nonnegative(table: Array, values: Array) -> Array:
    """The least-squares solution without values below zero. Columns may differ in scale."""
    from scipy.optimize import nnls  # late: only builds and calibrating need it, and its package

    scale = table.max(0)
    scale[scale == 0] = 1
    found: Array = nnls(table / scale, values)[0] / scale
    return found


def _tiles(form: str) -> list[Tile]:
    """The tiles that kernels of this form may have."""
    if form == ROW:
        return [Tile(1, columns, columns // 2) for columns in COLUMNS[2:]]
    if form not in (PRODUCT, CHANNELS):
        return [NO_TILE]
    rows = ROWS if form == PRODUCT else ROWS[:1]
    pairs = [(one, two) for one in COLUMNS[2:] for two in COLUMNS if two <= one]
    return [Tile(count, columns, narrow) for count in rows for columns, narrow in pairs]


def _formula(table: Array, times: Array) -> tuple[float, Array]:
    """The relative error and the coefficients of a formula."""
    relative = table / times[:, None]
    found = nonnegative(relative, np.ones(len(times)))
    return float(np.linalg.norm(relative @ found - 1)), found


def _table(group: Group, operators: Sequence[Timed], tile: Tile) -> Array:
    return np.array([amounts(one.operator, group, tile) for one in operators])


def _covariance(left: Array, right: Array) -> Array:
    """Matern's covariance of order 3/2."""
    distance = np.sqrt(((left[:, None] - right[None]) ** 2).sum(2)) * math.sqrt(3) / LENGTH
    result: Array = DEVIATION**2 * (1 + distance) * np.exp(-distance)
    return result
