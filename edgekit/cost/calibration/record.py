"""A calibration: what the device is, and the measured times of each program's operators."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from pydantic import Field, model_validator

from edgekit.cost.shapes import OperatorShape, OperatorTimes, TimedOperator
from edgekit.frozen import Frozen
from edgekit.target import Architecture, Target
from edgekit.values import RuntimeName

CALIBRATION_SCHEMA: Literal["edgekit.calibration/1"] = "edgekit.calibration/1"
# Names that a target's ``cpu`` has for any core of an architecture.
ANY_CORE = ("x86-64", "max")
# Clocks that differ by less are the same: kernels report them in different ways.
SAME_CLOCK = 0.05


class CalibratedDevice(Frozen):
    """What a device is, as far as it decides the latency.

    ``model``, ``processor``: as the device reports them, None if it does not. ``cpu``,
    ``features``, ``cores``, ``clock_ghz``: as in a target's file. ``threads``: those of a target
    for the device.
    """

    model: str | None
    processor: str | None
    architecture: Architecture
    cpu: str
    features: tuple[str, ...]
    cores: int
    clock_ghz: float | None
    threads: int

    @property
    def title(self) -> str:
        return self.model or self.processor or self.cpu

    def is_of(self, target: Target) -> bool:
        """Whether the target's facts are this device's. A target may state fewer features.

        A target without the name of a core (x86-64, max) must state all of this device's features:
        else it is any computer of the architecture.
        """
        if (target.architecture, target.cpu) != (self.architecture, self.cpu):
            return False
        if not _may_be_equal(target.clock_ghz, self.clock_ghz):
            return False
        stated, own = set(target.features), set(self.features)
        return (bool(stated) and stated == own) if target.cpu in ANY_CORE else stated <= own


def _may_be_equal(one_ghz: float | None, other_ghz: float | None) -> bool:
    if one_ghz is None or other_ghz is None:
        return True
    return abs(one_ghz / other_ghz - 1) <= SAME_CLOCK


class ProgramTimes(Frozen):
    """The median times of a calibration program with a number of threads, in milliseconds.

    ``network``: programs of one network differ in precision only. ``operator_ms``: of each of
    ``shapes``. ``latency_ms``: of the whole inference, without profiling.
    """

    network: str
    precision: str
    threads: int
    shapes: tuple[OperatorShape, ...]
    operator_ms: tuple[float, ...]
    latency_ms: float = Field(gt=0)

    @model_validator(mode="after")
    def _one_time_each(self) -> ProgramTimes:
        if len(self.shapes) != len(self.operator_ms):
            raise ValueError("the numbers of operators and of their times differ")
        return self

    @property
    def times(self) -> OperatorTimes:
        pairs = zip(self.shapes, self.operator_ms, strict=True)
        operators = tuple(TimedOperator(shape, latency_ms) for shape, latency_ms in pairs)
        return OperatorTimes(operators, self.latency_ms - sum(self.operator_ms))


class FittedProgram(ProgramTimes):
    """A program, and its prediction by a fit to the other networks.

    ``left_out_ms``: of the whole. ``left_out_operator_ms``: of each operator.
    ``left_out_unknown``: the places of operators whose kind no other network has.
    """

    left_out_ms: float = Field(gt=0)
    left_out_operator_ms: tuple[float, ...]
    left_out_unknown: tuple[int, ...] = ()

    @property
    def left_out_error(self) -> float:
        """Relative: 0.1 means that the prediction is 10 % too long."""
        return self.left_out_ms / self.latency_ms - 1


class Calibration(Frozen):
    """``measured``: the time, in UTC. ``warnings``: what disturbed it, if that was accepted."""

    schema_: Literal["edgekit.calibration/1"] = Field(default=CALIBRATION_SCHEMA, alias="schema")
    edgekit: str
    device: CalibratedDevice
    runtime: RuntimeName
    runtime_version: str
    measured: str
    warnings: tuple[str, ...] = ()
    programs: tuple[FittedProgram, ...]

    @property
    def threads(self) -> tuple[int, ...]:
        return tuple(sorted({program.threads for program in self.programs}))

    def of_threads(self, threads: int) -> Iterator[FittedProgram]:
        return (program for program in self.programs if program.threads == threads)
