"""Paired timing of two artifacts on one device: which is faster, and by how much."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from tempfile import TemporaryDirectory
from typing import NamedTuple

import numpy as np

from edgekit.device.base import Transport
from edgekit.device.facts.probe import environment_of
from edgekit.device.scratch import scratch
from edgekit.documents.measure import LatencySummary
from edgekit.errors import RunnerError, StoreError
from edgekit.measure.intervals import ratio_interval
from edgekit.measure.latency import summarize
from edgekit.measure.operators import operator_times
from edgekit.program import Artifact
from edgekit.progress import Progress
from edgekit.runner.client import Installed, RunReport, measure
from edgekit.runner.files import RunnerFiles
from edgekit.runner.staging import put_runner
from edgekit.values import RuntimeName

# Nine rounds: the 95 % interval then leaves out the smallest and the largest ratio (intervals.py).
ROUNDS, RUNS, WARMUP = 9, 20, 3

PROFILED_ROUNDS = 3


class Timed(NamedTuple):
    """An artifact to time, and its inputs as raw bytes."""

    artifact: Artifact
    inputs: list[bytes]


class Placed(NamedTuple):
    """An artifact on a device with its runner, its inputs as raw bytes, and inference threads."""

    at: Installed
    inputs: list[bytes]
    threads: int


@dataclass(frozen=True)
class PairedLatency:
    """The result of timing two artifacts on one device.

    ``ratio``: latency of the first divided by the second's: median and 95 % interval. If they did
    not run, ``why_not`` gives the reason and the other fields have no values.
    """

    ratio: tuple[float, float, float] | None = None
    second_ms: float = 0.0
    first_memory_mb: float | None = None
    second_memory_mb: float | None = None
    why_not: str = ""


@dataclass(frozen=True)
class MeasuringDevice:
    """The device of ``--device``, and the runner of a runtime for it."""

    runtime: RuntimeName
    transport: Transport
    files: RunnerFiles
    threads: int

    @property
    def is_emulated(self) -> bool:
        return environment_of(self.transport).emulated is True

    def compare_latency(self, first: Timed, second: Timed, progress: Progress) -> PairedLatency:
        """Time both artifacts in alternating rounds. A failure is reported as ``why_not``."""
        if environment_of(self.transport).emulated is not False:
            return PairedLatency(why_not="the device is emulated, or may be")
        try:
            with progress.stage(f"timing both artifacts on {self.transport.name}"):
                return self._alternate(first, second)
        except (RunnerError, StoreError) as error:
            return PairedLatency(why_not=error.message)

    def profile(self, timed: Timed) -> tuple[LatencySummary, list[RunReport]]:
        """The latency of an artifact, and profiled runs, in alternating rounds.

        Raises RunnerError, StoreError, DeviceError.
        """
        with scratch(self.transport) as place:
            at = self._put(timed.artifact, place / "only")
            rounds = [
                [
                    measure(
                        at, timed.inputs, runs=RUNS, warmup=WARMUP, threads=self.threads, profile=on
                    )
                    for on in (False, True)
                ]
                for _ in range(PROFILED_ROUNDS)
            ]
        return summarize([plain.latencies_ms for plain, _ in rounds]), [two for _, two in rounds]

    def layer_costs_ms(
        self, quantized: Artifact, floating: Artifact, inputs: list[bytes], progress: Progress
    ) -> dict[str, float]:
        """The extra milliseconds of each layer in float, from profiled operators.

        The conversions around a single float layer are not included. Empty if the device is
        emulated or cannot run the artifacts.
        """
        if environment_of(self.transport).emulated is not False:
            return {}
        try:
            with (
                progress.stage(f"timing layers on {self.transport.name}"),
                scratch(self.transport) as place,
            ):
                at = self._put(floating, place / "float")
                floats = self._layer_times_ms(floating, at, inputs)
                at = self._put(quantized, place / "quantized")
                int8 = self._layer_times_ms(quantized, at, inputs)
        except (RunnerError, StoreError) as error:
            progress.note(f"the latency of single layers is unknown: {error.message}")
            return {}
        return {layer: floats[layer] - int8[layer] for layer in floats.keys() & int8.keys()}

    def _layer_times_ms(
        self, artifact: Artifact, at: Installed, inputs: list[bytes]
    ) -> dict[str, float]:
        reports = [
            measure(at, inputs, runs=RUNS, warmup=WARMUP, threads=self.threads, profile=True)
            for _ in range(PROFILED_ROUNDS)
        ]
        times_ms: dict[str, float] = {}
        for operator in operator_times(self.runtime, artifact.program, reports)[0]:
            if operator.layer is not None:
                earlier_ms = times_ms.get(operator.layer, 0.0)
                times_ms[operator.layer] = earlier_ms + operator.mean_us / 1000
        return times_ms

    def _alternate(self, first: Timed, second: Timed) -> PairedLatency:
        with scratch(self.transport) as place:
            one, other = (
                Placed(self._put(timed.artifact, place / name), timed.inputs, self.threads)
                for name, timed in (("first", first), ("second", second))
            )
            return alternate(one, other)

    def _put(self, artifact: Artifact, place: PurePosixPath) -> Installed:
        runner = put_runner(self.transport, self.files, artifact.program.libraries, place)
        with TemporaryDirectory(prefix="edgekit-") as folder:
            model = Path(folder) / artifact.file_name
            model.write_bytes(artifact.data)
            self.transport.put(model, place / artifact.file_name)
        return Installed(self.transport, runner, place / artifact.file_name)


def alternate(first: Placed, second: Placed) -> PairedLatency:
    """Time both in rounds of new processes, each round in the other order.

    Raises RunnerError, StoreError, DeviceError.
    """
    both = (first, second)
    ratios: list[float] = []
    seconds_ms: list[float] = []
    peaks_mb: list[list[float]] = [[], []]
    for index in range(ROUNDS):
        times_ms = [0.0, 0.0]
        for which in (0, 1) if index % 2 == 0 else (1, 0):
            at, inputs, threads = both[which]
            report = measure(at, inputs, runs=RUNS, warmup=WARMUP, threads=threads)
            times_ms[which] = float(np.median(report.latencies_ms))
            peaks_mb[which].append(report.peak_memory_mb)
        ratios.append(times_ms[0] / times_ms[1])
        seconds_ms.append(times_ms[1])
    own_mb, other_mb = (float(np.median(peaks)) for peaks in peaks_mb)
    return PairedLatency(ratio_interval(ratios), float(np.median(seconds_ms)), own_mb, other_mb)
