"""The latency of a program by a calibration, and how well it predicts what was not fitted."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from edgekit.cost.calibration.features import Group, any_group, group_of, placed
from edgekit.cost.calibration.fit import GroupFit, Timed, fit_groups, nonnegative
from edgekit.cost.calibration.record import Calibration, FittedProgram, ProgramTimes
from edgekit.cost.latency import Factors
from edgekit.cost.shapes import OperatorShape

# The interval of operators of a kind that was not measured, relative to their time by a fit to all
# other kinds. A judgement.
UNKNOWN = Factors(0.0, 4.0)
# Even if all programs of a calibration were predicted better: another day's differences.
LEAST = Factors(0.95, 1.05)


class PredictedLatency(NamedTuple):
    """``interval_ms``: never narrower than the errors for programs that were not fitted.

    ``unknown``: the kinds of operators that the calibration does not have, each once.
    """

    latency_ms: float
    interval_ms: tuple[float, float]
    unknown: tuple[str, ...]


class Estimate(NamedTuple):
    latency_ms: float
    unknown_ms: float
    unknown: tuple[str, ...]


@dataclass(frozen=True)
class Fit:
    """A fit to programs. ``rest``: milliseconds for each amount of `_rest_amounts`."""

    groups: dict[Group, GroupFit]
    rest: np.ndarray[Any, Any]

    def estimate(self, shapes: Sequence[OperatorShape]) -> Estimate:
        known_ms = float(np.dot(_rest_amounts(shapes), self.rest))
        unknown_ms, unknown = 0.0, dict[str, None]()
        for operator in placed(shapes):
            shape = operator.shape
            group = self.groups.get(group_of(shape))
            if group is not None:
                known_ms += group.latency_ms(operator)
                continue
            unknown[f"{shape.kind} ({shape.precision})"] = None
            if (others := self.groups.get(any_group(shape))) is not None:
                unknown_ms += others.latency_ms(operator)
        return Estimate(known_ms + unknown_ms, unknown_ms, tuple(unknown))


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
    return tuple(
        FittedProgram(
            **dict(program),
            left_out_ms=fits[program.network, program.threads].estimate(program.shapes).latency_ms,
        )
        for program in programs
    )


@dataclass(frozen=True)
class Predictor:
    """Predicts with the number of threads that all ``programs`` were measured with."""

    programs: tuple[FittedProgram, ...]

    @cached_property
    def fit(self) -> Fit:
        return fit_programs(self.programs)

    @property
    def factors(self) -> Factors:
        """Measured over predicted latency of what was left out: the smallest and the largest."""
        ratios = [program.latency_ms / program.left_out_ms for program in self.programs]
        return Factors(min(LEAST.low, *ratios), max(LEAST.high, *ratios))

    def predict(self, shapes: Sequence[OperatorShape]) -> PredictedLatency:
        found = self.fit.estimate(shapes)
        known_ms = found.latency_ms - found.unknown_ms
        low_ms = known_ms * self.factors.low + found.unknown_ms * UNKNOWN.low
        high_ms = known_ms * self.factors.high + found.unknown_ms * UNKNOWN.high
        return PredictedLatency(found.latency_ms, (low_ms, high_ms), found.unknown)


def predictor(calibration: Calibration, threads: int) -> Predictor | None:
    """None if the calibration was not measured with this number of threads."""
    programs = tuple(calibration.of_threads(threads))
    return Predictor(programs) if programs else None
