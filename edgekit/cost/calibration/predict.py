"""The latency of a program by a calibration, and how well it predicts what was not fitted.

The interval is conformal (Lei et al., Distribution-Free Predictive Inference for Regression, 2018,
section 5.2): each network is predicted by a fit to the others, its error is divided by the error
that its operators lead to expect, and the interval of a new program spans as many times its own
expected error as covers COVERED of these networks.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from edgekit.cost.calibration.features import ANY, Group, group_of, groups_of, placed
from edgekit.cost.calibration.fit import GroupFit, Timed, fit_groups, nonnegative
from edgekit.cost.calibration.record import Calibration, FittedProgram, ProgramTimes
from edgekit.cost.latency import Factors
from edgekit.cost.shapes import OperatorShape, OperatorTimes, TimedOperator

# What belongs to no operator.
REST = Group("rest", "any", "rest")
COVERED = 0.9
# Even if all networks were predicted better: another day's differences.
LEAST = 0.05
# The relative error to expect of a group's time: at least, if one network alone has the group, and
# at most.
LEAST_SPREAD, ALONE, MOST_SPREAD = 0.02, 0.3, 1.0
# The interval of operators of an unknown kind, relative to their time by a fit to all other kinds.
# A judgement.
UNKNOWN = Factors(0.0, 4.0)


class Estimate(NamedTuple):
    """``operator_ms``: of each operator. ``unknown``: the places of those whose kind the fit does
    not have; their time is by a fit to all other kinds.
    """

    operator_ms: tuple[float, ...]
    rest_ms: float
    unknown: frozenset[int]

    @property
    def latency_ms(self) -> float:
        return sum(self.operator_ms) + self.rest_ms

    @property
    def unknown_ms(self) -> float:
        return sum(self.operator_ms[index] for index in self.unknown)


class PredictedLatency(NamedTuple):
    """``unknown``: the kinds of operators that the calibration does not have, each once."""

    latency_ms: float
    interval_ms: tuple[float, float]
    unknown: tuple[str, ...]
    times: OperatorTimes


@dataclass(frozen=True)
class Fit:
    """A fit to programs. ``rest``: milliseconds for each amount of `_rest_amounts`."""

    groups: dict[Group, GroupFit]
    rest: np.ndarray[Any, Any]

    def estimate(self, shapes: Sequence[OperatorShape]) -> Estimate:
        times, unknown = [], set()
        for index, operator in enumerate(placed(shapes)):
            found = next((group for group in groups_of(operator) if group in self.groups), None)
            times.append(self.groups[found].latency_ms(operator) if found is not None else 0.0)
            if found is None or found.kind in ANY:
                unknown.add(index)
        rest_ms = float(np.dot(_rest_amounts(shapes), self.rest))
        return Estimate(tuple(times), rest_ms, frozenset(unknown))


def fit_programs(programs: Sequence[ProgramTimes]) -> Fit:
    rests = [max(0.0, program.times.rest_ms) for program in programs]
    scale = np.array([program.latency_ms for program in programs])
    table = np.array([_rest_amounts(program.shapes) for program in programs])
    rest = nonnegative(table / scale[:, None], np.array(rests) / scale)
    operators = (
        Timed(operator, latency_ms)
        for program in programs
        for operator, latency_ms in zip(placed(program.shapes), program.operator_ms, strict=True)
    )
    return Fit(fit_groups(operators), rest)


def _rest_amounts(shapes: Sequence[OperatorShape]) -> list[float]:
    """What the time between operators grows with: instructions of the program, and operators."""
    instructions = {shape.instruction for shape in shapes}
    return [1.0, float(len(instructions)), float(len(shapes))]


def with_left_out(programs: Sequence[ProgramTimes]) -> tuple[FittedProgram, ...]:
    """Each program with the prediction by a fit without its network, in any precision."""
    fits = {
        (network, threads): fit_programs(
            [one for one in programs if one.network != network and one.threads == threads]
        )
        for network, threads in dict.fromkeys((one.network, one.threads) for one in programs)
    }
    found = []
    for program in programs:
        estimate = fits[program.network, program.threads].estimate(program.shapes)
        found.append(
            FittedProgram(
                **{name: getattr(program, name) for name in ProgramTimes.model_fields},
                left_out_ms=estimate.latency_ms,
                left_out_operator_ms=estimate.operator_ms,
                left_out_unknown=tuple(sorted(estimate.unknown)),
            )
        )
    return tuple(found)


@dataclass(frozen=True)
class Predictor:
    """Predicts with the number of threads that all ``programs`` were measured with."""

    programs: tuple[FittedProgram, ...]

    @cached_property
    def fit(self) -> Fit:
        return fit_programs(self.programs)

    @cached_property
    def spread(self) -> dict[Group, float]:
        """The relative error of each group's time in the networks that were left out.

        A root mean square, weighted by the group's share of the network's latency.
        """
        errors: dict[Group, list[tuple[float, float]]] = defaultdict(list)
        for program in self.programs:
            times = program.times
            measured_ms = _by_group(program, [one.latency_ms for one in times.operators])
            predicted_ms = _by_group(program, program.left_out_operator_ms)
            measured_ms[REST] = max(0.0, times.rest_ms)
            predicted_ms[REST] = _left_out(program).rest_ms
            for group, own_ms in measured_ms.items():
                if own_ms > 0:
                    error = predicted_ms[group] / own_ms - 1
                    errors[group].append((own_ms / program.latency_ms, error))
        return {group: min(_weighted(some), MOST_SPREAD) for group, some in errors.items()}

    @cached_property
    def scale(self) -> float:
        """How many times the expected error the interval spans to either side.

        Networks with kinds of operators that no other has do not count: their interval is wider
        for another reason.
        """
        known = [one for one in self.programs if not one.left_out_unknown] or self.programs
        ratios = sorted(
            abs(math.log(one.latency_ms / one.left_out_ms))
            / self._expected(one.shapes, _left_out(one))
            for one in known
        )
        rank = math.ceil((len(ratios) + 1) * COVERED)
        return ratios[min(rank, len(ratios)) - 1]

    def predict(self, shapes: Sequence[OperatorShape]) -> PredictedLatency:
        found = self.fit.estimate(shapes)
        kinds = [shapes[index] for index in sorted(found.unknown)]
        unknown = dict.fromkeys(f"{shape.kind} ({shape.precision})" for shape in kinds)
        timed = map(TimedOperator, shapes, found.operator_ms)
        times = OperatorTimes(tuple(timed), found.rest_ms)
        interval_ms = self._interval(shapes, found)
        return PredictedLatency(found.latency_ms, interval_ms, tuple(unknown), times)

    def left_out_interval(self, program: FittedProgram) -> tuple[float, float]:
        return self._interval(program.shapes, _left_out(program))

    def _interval(self, shapes: Sequence[OperatorShape], found: Estimate) -> tuple[float, float]:
        factor = max(1 + LEAST, math.exp(self.scale * self._expected(shapes, found)))
        known_ms = found.latency_ms - found.unknown_ms
        return (
            known_ms / factor + UNKNOWN.low * found.unknown_ms,
            known_ms * factor + UNKNOWN.high * found.unknown_ms,
        )

    def _expected(self, shapes: Sequence[OperatorShape], found: Estimate) -> float:
        """The relative error to expect: groups err independently, all of a group alike."""
        parts: dict[Group, float] = defaultdict(float, {REST: found.rest_ms})
        for index, (shape, one_ms) in enumerate(zip(shapes, found.operator_ms, strict=True)):
            if index not in found.unknown:
                parts[group_of(shape)] += one_ms
        errors_ms = [
            part_ms * max(self.spread.get(group, ALONE), LEAST_SPREAD)
            for group, part_ms in parts.items()
        ]
        known_ms = found.latency_ms - found.unknown_ms
        return max(LEAST_SPREAD, math.hypot(*errors_ms) / known_ms if known_ms > 0 else 0.0)


def _left_out(one: FittedProgram) -> Estimate:
    rest_ms = one.left_out_ms - sum(one.left_out_operator_ms)
    return Estimate(one.left_out_operator_ms, rest_ms, frozenset(one.left_out_unknown))


def _by_group(program: FittedProgram, operator_ms: Sequence[float]) -> dict[Group, float]:
    """The time of each group that was known when the program was left out."""
    totals: dict[Group, float] = defaultdict(float)
    for index, (shape, one_ms) in enumerate(zip(program.shapes, operator_ms, strict=True)):
        if index not in program.left_out_unknown:
            totals[group_of(shape)] += one_ms
    return totals


def _weighted(errors: Sequence[tuple[float, float]]) -> float:
    """The root mean square of (weight, error)."""
    total = sum(weight for weight, _ in errors)
    return math.sqrt(sum(weight * error**2 for weight, error in errors) / total)


def predictor(calibration: Calibration, threads: int) -> Predictor | None:
    """None if the calibration was not measured with this number of threads."""
    programs = tuple(calibration.of_threads(threads))
    return Predictor(programs) if programs else None
