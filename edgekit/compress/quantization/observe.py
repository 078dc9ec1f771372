"""The range of each activation, chosen from observed values in one of four ways.

Values beyond the range are clipped, values inside share 256 steps. "mse_after_activation" chooses
the range with the least error after the activation function that follows, which may itself clip
values. M. Nagel et al. describe this for the plain error in "A White Paper on Neural Network
Quantization" (2021, arXiv:2106.08295), section 3.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch.fx import Node

from edgekit.compress.graph import is_elementwise
from edgekit.compress.quantization.affine import Grid, Steps, check_finite, range_of, steps_for
from edgekit.compress.quantization.simulate import (
    Point,
    Simulation,
    fake_quantize,
    nowhere,
    tapping,
)
from edgekit.plan import Observer
from edgekit.recipe.tensors import Inputs

SAMPLES_PER_VALUE = 2048
MAX_SAMPLES = 50_000
# Tried ranges: so many shares of the widest, on each side; every fourth of them first.
SHARES, COARSE = 40, 4
PERCENTILE = 99.9


@dataclass
class ObservedValues:
    """The values observed at one point: the extremes, and every n-th value of each input.

    ``second`` and ``last``: the largest magnitude of each slice along the second axis (images) and
    along the last axis.
    """

    low: float = float("inf")
    high: float = float("-inf")
    samples: list[torch.Tensor] = field(default_factory=list)
    second: torch.Tensor | None = None
    last: torch.Tensor | None = None

    def add(self, value: torch.Tensor) -> None:
        value = value.detach().float()
        flat = value.reshape(-1)
        if not len(flat):
            return
        self.widen(*(float(bound) for bound in flat.aminmax()))
        count = SAMPLES_PER_VALUE * (len(value) if value.dim() else 1)
        step = max(1, len(flat) // count)
        self.samples.append(flat[:: step | 1].clone())
        if value.dim() > 1:
            magnitude = value.abs()
            self.second = _highest(self.second, magnitude, 1)
            self.last = _highest(self.last, magnitude, value.dim() - 1)

    def widen(self, low: float, high: float) -> None:
        """Extremes alone, which are enough for the observer min_max."""
        self.low, self.high = min(self.low, low), max(self.high, high)

    def all(self) -> torch.Tensor:
        flat = torch.cat(self.samples)
        flat = flat[:: max(1, len(flat) // MAX_SAMPLES)]
        return torch.cat([flat, torch.tensor([self.low, self.high])])


def _highest(previous: torch.Tensor | None, value: torch.Tensor, axis: int) -> torch.Tensor:
    current = value.amax([other for other in range(value.dim()) if other != axis])
    return current if previous is None else torch.maximum(previous, current)


def observe(simulation: Simulation, data: Sequence[Inputs]) -> dict[str, ObservedValues]:
    """Observe the values at each point of activations while the float model runs on ``data``.

    Raises RecipeError: a value is NaN or infinite.
    """
    seen = {
        name: ObservedValues() for name, p in simulation.points.items() if p.kind == "activations"
    }

    def tap(point: Point) -> Callable[[torch.Tensor], None] | None:
        return seen[point.name].add if point.name in seen else None

    with simulation.rounding(nowhere), tapping(simulation, tap):
        simulation.run(data)
    for name, values in seen.items():
        extremes = torch.tensor([values.low, values.high])
        layer = simulation.points[name].layer
        check_finite(extremes, f"the output of {layer or 'the model'}")
    return seen


def set_weight_steps(simulation: Simulation) -> None:
    """Steps from the lowest to the highest weight: a clipped weight is wrong for every input."""
    for group, points in simulation.groups.items():
        point = points[0]
        if point.kind == "weights":
            low, high = range_of(simulation.weight(point).detach(), point.axis)
            simulation.set_steps(group, steps_for(low, high, point.grid, point.axis))


def set_activation_steps(
    simulation: Simulation, seen: dict[str, ObservedValues], observer: Observer
) -> None:
    for group, points in simulation.groups.items():
        if points[0].kind == "activations":
            observed = [point for point in points if seen[point.name].samples]
            if observed:
                simulation.set_steps(group, _steps(simulation, observed, seen, observer))


def _steps(
    simulation: Simulation, points: list[Point], seen: dict[str, ObservedValues], observer: Observer
) -> Steps:
    grid = points[0].grid
    low = min(seen[point.name].low for point in points)
    high = max(seen[point.name].high for point in points)
    if observer == "min_max":
        return _at(low, high, grid)
    parts = [seen[point.name].all() for point in points]
    if observer == "percentile":
        return _percentile(torch.cat(parts), grid)
    follows = observer == "mse_after_activation"
    functions = [_following(simulation, point) if follows else _unchanged for point in points]
    return _least_error(list(zip(parts, functions, strict=True)), low, high, grid)


def steps_of(values: ObservedValues, observer: Observer, grid: Grid) -> Steps:
    """The steps of a value whose activation function, if it has one, is behind it already."""
    if observer == "percentile":
        return _percentile(values.all(), grid)
    if observer in ("mse", "mse_after_activation"):
        return _least_error([(values.all(), _unchanged)], values.low, values.high, grid)
    return _at(values.low, values.high, grid)


def _percentile(values: torch.Tensor, grid: Grid) -> Steps:
    cut = (100 - PERCENTILE) / 100
    return _at(float(values.quantile(cut)), float(values.quantile(1 - cut)), grid)


def _at(low: float, high: float, grid: Grid) -> Steps:
    return steps_for(torch.tensor(low), torch.tensor(high), grid)


Function = Callable[[torch.Tensor], torch.Tensor]


def _unchanged(value: torch.Tensor) -> torch.Tensor:
    return value


def _following(simulation: Simulation, point: Point) -> Function:
    """The element-wise function that is the only reader of this point; else the identity."""
    users = list(simulation.node(point.name).users)
    if len(users) != 1 or not is_elementwise(users[0]):
        return _unchanged
    node: Node = users[0]

    def function(value: torch.Tensor) -> torch.Tensor:
        return node.target(value, *node.args[1:], **node.kwargs)  # type: ignore[operator, no-any-return]

    return function


def _least_error(
    parts: list[tuple[torch.Tensor, Function]], low: float, high: float, grid: Grid
) -> Steps:
    """Narrow the range from each side in turn, twice, to the least error."""
    low, high = min(low, 0.0), max(high, 0.0)
    expected_parts = [function(values) for values, function in parts]

    def error(low: float, high: float) -> float:
        steps = _at(low, high, grid)
        total = 0.0
        for (values, function), expected in zip(parts, expected_parts, strict=True):
            total += float((function(fake_quantize(values, steps)) - expected).square().mean())
        return total

    best = error(low, high)
    for _ in range(2):
        for side in ("low", "high"):
            ranges = {
                number: (number / SHARES * low, high)
                if side == "low"
                else (low, number / SHARES * high)
                for number in range(1, SHARES + 1)
            }
            least, at = _least(error, ranges)
            if least < best:
                best, (low, high) = least, ranges[at]
    return _at(low, high, grid)


def _least(
    error: Callable[[float, float], float], ranges: dict[int, tuple[float, float]]
) -> tuple[float, int]:
    """The least error and its range: try every COARSE-th of 1 to SHARES, then those around it."""
    errors = {number: error(*ranges[number]) for number in range(COARSE, SHARES + 1, COARSE)}
    near = min(errors, key=errors.__getitem__)
    around = range(max(1, near - COARSE + 1), min(SHARES, near + COARSE - 1) + 1)
    errors |= {number: error(*ranges[number]) for number in around if number not in errors}
    at = min(errors, key=errors.__getitem__)
    return errors[at], at
