"""The conditions of a measurement: the device before, during and after it, and its noise."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from edgekit.device.facts.noise import Observation, at_work, difference, find_noise
from edgekit.device.facts.throttled import WORDS, has_occurred
from edgekit.documents.environment import (
    DeviceEnvironment,
    DeviceState,
    During,
    MeasuredEnvironment,
    NoiseFinding,
)

# The kernel counts CPU time in steps of 10 ms on each core: shorter windows are too imprecise.
LEAST_WINDOW_MS = 1000.0


@dataclass(frozen=True)
class Conditions:
    """Before, during and after the timed runs. ``noise``: every source of noise."""

    before: DeviceEnvironment
    during: During
    after: DeviceEnvironment
    noise: tuple[NoiseFinding, ...]

    @property
    def warnings(self) -> tuple[str, ...]:
        """Of each source that disturbed: the problem and what to do."""
        return tuple(f"{one.problem}; {one.advice}" for one in self.noise if one.disturbs)

    def environment(
        self, threads: int, software: dict[str, str] | None = None
    ) -> MeasuredEnvironment:
        """For documents: ``before`` and ``after`` hold only the fields that can change."""
        return MeasuredEnvironment(
            **dict(self.before),
            threads=threads,
            software=software,
            before=_state_of(self.before),
            during=self.during,
            after=_state_of(self.after),
            warnings=self.warnings,
            noise=self.noise,
        )


def conditions(
    before: DeviceEnvironment,
    samples: Sequence[DeviceState],
    after: DeviceEnvironment,
    runner_cpu_ms: float | None,
    canary: float | None = None,
    own_cpu_ms: float = 0.0,
) -> Conditions:
    """Summarize the state of a device around timed runs. Pure.

    ``samples``: of a watch. ``runner_cpu_ms``: the CPU time of all runner processes during the
    watch, the sum of their ``RunReport.cpu_ms``. ``own_cpu_ms``: of the watch; on this host it
    includes these processes. ``canary``: the device's speed after the runs to that before them
    (canary.py).
    """
    if runner_cpu_ms is not None:
        runner_cpu_ms = max(runner_cpu_ms, own_cpu_ms)
    during = _during(before, samples, after, runner_cpu_ms)
    noise = find_noise(Observation(before, samples, after, during, canary))
    return Conditions(before, during, after, noise)


def _during(
    before: DeviceEnvironment,
    samples: Sequence[DeviceState],
    after: DeviceEnvironment,
    runner_cpu_ms: float | None,
) -> During:
    frequencies = [s.frequency_mhz for s in at_work(samples, before.cores) or samples]
    return During(
        samples=len(samples),
        frequency_min_mhz=_least(frequencies),
        frequency_max_mhz=_most(frequencies),
        frequency_limit_min_mhz=_least(s.frequency_limit_mhz for s in samples),
        temperature_max_c=_most(s.temperature_c for s in samples),
        throttled=_throttled(before, samples, after),
        load_1min_max=_most(s.load_1min for s in samples),
        memory_available_min_mb=_least(s.memory_available_mb for s in samples),
        swap_used_max_mb=_most(s.swap_used_mb for s in samples),
        others_percent_of_core=_others(samples, before.cores, runner_cpu_ms),
    )


def _throttled(
    before: DeviceEnvironment, samples: Sequence[DeviceState], after: DeviceEnvironment
) -> tuple[str, ...] | None:
    """Flags seen in a sample, or set between two: a "has occurred" that ``before`` lacks."""
    reported = [state.throttled for state in (*samples, after) if state.throttled is not None]
    if not reported:
        return None
    sampled = {word for state in samples for word in state.throttled or ()}
    earlier = before.throttled
    new = {word for words in reported for word in words} - set(earlier or ())
    return tuple(
        word
        for word in WORDS
        if word in sampled or (earlier is not None and has_occurred(word) in new)
    )


def _others(
    samples: Sequence[DeviceState], cores: int | None, runner_cpu_ms: float | None
) -> float | None:
    if len(samples) < 2 or not cores or runner_cpu_ms is None:
        return None
    first, last = samples[0], samples[-1]
    busy_ms = difference(first.cpu_busy_ms, last.cpu_busy_ms)
    total_ms = difference(first.cpu_total_ms, last.cpu_total_ms)
    if busy_ms is None or total_ms is None or total_ms / cores < LEAST_WINDOW_MS:
        return None
    return round(100 * max(0.0, busy_ms - runner_cpu_ms) / (total_ms / cores), 1)


def _state_of(environment: DeviceEnvironment) -> DeviceState:
    return DeviceState(**{name: getattr(environment, name) for name in DeviceState.model_fields})


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)
