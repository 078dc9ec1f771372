"""Times the operators of a calibration's programs on a device, in interleaved rounds.

A round times every program once. Each measurement is kept in the draft as it is made, so that an
interrupted calibration goes on. A round during which the device was disturbed does not count: it
is taken again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from statistics import median, quantiles

from edgekit.bundle.manifest import RUNNER
from edgekit.cost.calibration.record import ProgramTimes
from edgekit.cost.calibration.store import Draft
from edgekit.cost.shapes import OperatorShape, times_by_operator
from edgekit.device.base import Transport
from edgekit.device.facts.canary import sing, speed_ratio
from edgekit.device.facts.conditions import conditions
from edgekit.device.facts.probe import environment_of
from edgekit.device.facts.watch import watch
from edgekit.device.scratch import scratch
from edgekit.errors import CalibrationError
from edgekit.frozen import Frozen
from edgekit.program import Artifact
from edgekit.progress import Progress, Stage
from edgekit.runner.client import Installed, RunReport, measure
from edgekit.runner.files import RunnerFiles
from edgekit.runner.staging import put_runner
from edgekit.runtimes.registry import locate
from edgekit.values import RuntimeName

ROUNDS, LEAST_ROUNDS = 5, 3
# How many disturbed rounds one call takes again: a shared processor may be slow for seconds.
REPEATS = 5
# The limit of all rounds. A slow device gets fewer of them, but at least LEAST_ROUNDS.
LIMIT_S = 540.0
# Each process of a round runs for about this long, within bounds.
PROCESS_MS, LEAST_RUNS, MOST_RUNS = 40.0, 4, 400
FIRST_RUNS, WARMUP = 5, 2


# The source of noise, and what disturbed.
Warnings = dict[str, str]


@dataclass(frozen=True)
class CalibrationProgram:
    """A lowered network. ``shapes``: its operators."""

    network: str
    precision: str
    artifact: Artifact
    shapes: tuple[OperatorShape, ...]

    @property
    def name(self) -> str:
        return f"{self.network}-{self.precision}"


class Sample(Frozen):
    """One measurement of a program, in a process that profiles and one that does not.

    ``rows``: of the profile: instruction, operator's index in it (None: inserted by the runtime),
    mean milliseconds. ``latency_ms``: the median without profiling. ``cpu_ms``: of both processes.
    """

    rows: tuple[tuple[int, int | None, float], ...]
    profiled_ms: float
    latency_ms: float
    cpu_ms: float | None


@dataclass(frozen=True)
class CalibrationDevice:
    """The device and the runtime's runner for it. ``threads``: the numbers to measure with."""

    transport: Transport
    runtime: RuntimeName
    files: RunnerFiles
    threads: tuple[int, ...]


def measure_programs(
    programs: Sequence[CalibrationProgram],
    device: CalibrationDevice,
    draft: Draft,
    lenient: bool,
    progress: Progress,
) -> tuple[list[ProgramTimes], tuple[str, ...]]:
    """The times of all programs, and what disturbed them, which only ``lenient`` accepts.

    Raises CalibrationError: the device was disturbed; DeviceError, RunnerError, StoreError,
    OutputError. What was measured before stays in the draft.
    """
    _refuse_emulated(device.transport, lenient)
    session = _Session(programs, device, draft, lenient, progress)
    with (
        progress.stage(f"timing programs on {device.transport.name}") as stage,
        scratch(device.transport) as place,
    ):
        warnings = session.run(place, stage)
    return session.times(), warnings


class _DisturbedError(CalibrationError):
    """The device was disturbed in a round. ``warnings``: by what."""

    def __init__(self, device: str, warnings: Sequence[str], index: int) -> None:
        lines = "".join(f"\n  {warning}" for warning in warnings)
        super().__init__(
            f"{device} was not steady in round {index + 1} of {ROUNDS}:{lines}",
            "then run the same command again: it goes on after the last steady round; --lenient "
            "accepts the disturbance and records it",
        )
        self.warnings = tuple(warnings)


class _Session:
    """All rounds of one call."""

    def __init__(
        self,
        programs: Sequence[CalibrationProgram],
        device: CalibrationDevice,
        draft: Draft,
        lenient: bool,
        progress: Progress,
    ) -> None:
        self._device, self._draft, self._lenient = device, draft, lenient
        self._progress = progress
        self._repeats_left = REPEATS
        self._round_s = 0.0  # of the last one that was timed
        self._cases = [(program, count) for program in programs for count in device.threads]
        self._samples: dict[str, Sample] = {}
        self._installed: dict[str, Installed] = {}

    def run(self, place: PurePosixPath, stage: Stage) -> tuple[str, ...]:
        warnings: Warnings = {}
        start = time.monotonic()
        for index in range(ROUNDS):
            stage.show(f"round {index + 1} of {ROUNDS}")
            warnings = self._accepted(index) | self._steady(index, place, stage, start) | warnings
            if index + 1 >= LEAST_ROUNDS and not self._has_time(start):
                break
        return tuple(warnings.values())

    def _has_time(self, start: float) -> bool:
        """Whether one more round fits in."""
        return time.monotonic() - start + self._round_s <= LIMIT_S

    def _accepted(self, index: int) -> Warnings:
        """What disturbed this round in an earlier session that was lenient.

        A session that is not makes the round again.
        """
        kept = self._draft.read(_warnings(index))
        if not isinstance(kept, dict) or not kept:
            return {}
        if self._lenient:
            return {str(source): str(text) for source, text in kept.items()}
        for name in (_warnings(index), *(_name(index, case) for case in self._cases)):
            self._draft.drop(name)
        return {}

    def _steady(self, index: int, place: PurePosixPath, stage: Stage, start: float) -> Warnings:
        """A round, taken again while the device was disturbed, and repeats and time are left."""
        while True:
            began = time.monotonic()
            try:
                return self._round(index, place, stage)
            except _DisturbedError as error:
                disturbed = error
            finally:
                self._round_s = time.monotonic() - began
            if self._repeats_left == 0 or not self._has_time(start):
                raise disturbed
            self._repeats_left -= 1
            why = "; ".join(disturbed.warnings)
            self._progress.note(f"round {index + 1} is taken again: {why}")

    def _round(self, index: int, place: PurePosixPath, stage: Stage) -> Warnings:
        """One round, as far as it is not in the draft. Returns what disturbed it."""
        missing = [case for case in self._cases if not self._known(index, case)]
        if not missing:
            return {}
        transport = self._device.transport
        for program, _ in missing:
            self._install(program, place)
        before, speed = environment_of(transport), sing(transport)
        with watch(transport) as watching:
            for done, case in enumerate(missing):
                self._take(index, case, place)
                stage.advance(index * len(self._cases) + done + 1, ROUNDS * len(self._cases))
        canary = speed_ratio(speed, sing(transport))
        cpus = [self._samples[_name(index, case)].cpu_ms for case in missing]
        cpu_ms = None if None in cpus else sum(cpu for cpu in cpus if cpu is not None)
        after, own_ms = environment_of(transport), watching.own_cpu_ms
        found = conditions(before, watching.samples, after, cpu_ms, canary, own_ms)
        if found.warnings and not self._lenient:
            for case in missing:
                self._draft.drop(_name(index, case))
                del self._samples[_name(index, case)]
            raise _DisturbedError(transport.name, found.warnings, index)
        disturbing = [one.source for one in found.noise if one.disturbs]
        warnings = dict(zip(disturbing, found.warnings, strict=True))
        if warnings:
            self._draft.write(_warnings(index), warnings)
        return warnings

    def _known(self, index: int, case: tuple[CalibrationProgram, int]) -> bool:
        name = _name(index, case)
        if name not in self._samples:
            kept = self._draft.read(name)
            if kept is None:
                return False
            try:
                self._samples[name] = Sample.model_validate(kept)
            except ValueError:  # damaged: measured again
                return False
        return True

    def _take(self, index: int, case: tuple[CalibrationProgram, int], place: PurePosixPath) -> None:
        program, threads = case
        at = self._install(program, place)
        earlier = self._samples.get(_name(0, case))
        runs = _runs(earlier.latency_ms) if earlier else FIRST_RUNS
        plain = measure(at, runs=runs, warmup=WARMUP, threads=threads)
        profiled = measure(at, runs=runs, warmup=WARMUP, threads=threads, profile=True)
        sample = _sample(self._device.runtime, program, plain, profiled)
        self._samples[_name(index, case)] = sample
        self._draft.write(_name(index, case), sample.model_dump(mode="json"))

    def _install(self, program: CalibrationProgram, place: PurePosixPath) -> Installed:
        """Copy a program, and its runner and libraries where they are missing."""
        transport, files = self._device.transport, self._device.files
        if not self._installed:
            named = {name for one, _ in self._cases for name in one.artifact.program.libraries}
            put_runner(transport, files, named, place)
        if program.name not in self._installed:
            model = place / f"{program.name}-{program.artifact.file_name}"
            with tempfile.NamedTemporaryFile() as file:
                file.write(program.artifact.data)
                file.flush()
                transport.put(Path(file.name), model)
            self._installed[program.name] = Installed(transport, place / RUNNER, model)
        return self._installed[program.name]

    def times(self) -> list[ProgramTimes]:
        return [_summary(case, self._samples_of(case)) for case in self._cases]

    def _samples_of(self, case: tuple[CalibrationProgram, int]) -> list[Sample]:
        names = [_name(index, case) for index in range(ROUNDS)]
        return [self._samples[name] for name in names if name in self._samples]


def _summary(case: tuple[CalibrationProgram, int], samples: Sequence[Sample]) -> ProgramTimes:
    """The lower quartiles over the rounds.

    Each profile is first scaled to the latency without profiling: its means count interruptions by
    other processes, of which the median run has none.
    """
    program, threads = case
    rounds = []
    for sample in samples:
        scale = sample.latency_ms / sample.profiled_ms
        rows = [
            ((instruction, index) if index is not None else None, scale * latency_ms)
            for instruction, index, latency_ms in sample.rows
        ]
        times = times_by_operator(program.shapes, rows, sample.latency_ms)
        rounds.append([operator.latency_ms for operator in times.operators])
    return ProgramTimes(
        network=program.network,
        precision=program.precision,
        threads=threads,
        shapes=program.shapes,
        operator_ms=tuple(_quartile(each) for each in zip(*rounds, strict=True)),
        latency_ms=_quartile([sample.latency_ms for sample in samples]),
    )


def _quartile(values: Sequence[float]) -> float:
    """The lower quartile: a shared processor that is slow in a third of five rounds does not change
    it. On a steady device it is nearly the median.
    """
    return quantiles(values, n=4, method="inclusive")[0] if len(values) > 1 else values[0]


def _sample(
    runtime: RuntimeName, program: CalibrationProgram, plain: RunReport, profiled: RunReport
) -> Sample:
    places = locate(runtime, program.artifact.program, profiled.profile)
    rows = tuple(
        (row.instruction, place.operator, row.mean_us / 1000)
        for row, place in zip(profiled.profile, places, strict=True)
    )
    own_ms = sum(latency_ms for _, _, latency_ms in rows)
    whole_us = profiled.profiled_us
    known = plain.cpu_ms is not None and profiled.cpu_ms is not None
    return Sample(
        rows=rows,
        profiled_ms=own_ms if whole_us is None else whole_us / 1000,
        latency_ms=median(plain.latencies_ms),
        cpu_ms=(plain.cpu_ms or 0) + (profiled.cpu_ms or 0) if known else None,
    )


def _runs(latency_ms: float) -> int:
    return max(LEAST_RUNS, min(MOST_RUNS, int(PROCESS_MS / latency_ms)))


def _name(index: int, case: tuple[CalibrationProgram, int]) -> str:
    program, threads = case
    return f"{index}-{program.name}-{threads}"


def _warnings(index: int) -> str:
    return f"{index}-warnings"


def _refuse_emulated(transport: Transport, lenient: bool) -> None:
    if environment_of(transport).emulated and not lenient:
        raise CalibrationError(
            f"{transport.name} is emulated: its latency is not that of a real board",
            "calibrate the board itself; --lenient calibrates the emulated device",
        )
