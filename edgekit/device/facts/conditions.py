"""The conditions of a measurement, and warnings about those that make the result doubtful."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

from edgekit.device.facts.throttled import UNDER_VOLTAGE, WORDS, has_occurred
from edgekit.documents.environment import (
    DeviceEnvironment,
    DeviceState,
    During,
    MeasuredEnvironment,
)

# Below this share of the processor's nominal frequency, the clock counts as low.
LOW_CLOCK = 0.8
# Governors that hold one clock, whatever the load (Intel's "powersave" does not).
FIXED_GOVERNORS = ("powersave", "userspace")
# A sample shows the clock under load if this share of a core was busy since the previous sample.
LOADED = 0.5
# Other processes' share of one core that causes a warning. Copying the inputs and starting the
# runners counts as some of it.
OTHERS_PERCENT = 20.0
# The kernel counts CPU time in steps of 10 ms on each core: shorter windows are too imprecise.
LEAST_WINDOW_MS = 1000.0
SHORT_OF_MEMORY = 0.1

USE_OFFICIAL_SUPPLY = "use the board's official power supply"


@dataclass(frozen=True)
class Conditions:
    """Before, during and after the timed runs. ``warnings``: each names a cause and a remedy."""

    before: DeviceEnvironment
    during: During
    after: DeviceEnvironment
    warnings: tuple[str, ...]

    def environment(self, threads: int) -> MeasuredEnvironment:
        """For documents: ``before`` and ``after`` hold only the fields that can change."""
        return MeasuredEnvironment(
            **dict(self.before),
            threads=threads,
            before=_state_of(self.before),
            during=self.during,
            after=_state_of(self.after),
            warnings=self.warnings,
        )


def conditions(
    before: DeviceEnvironment,
    samples: Sequence[DeviceState],
    after: DeviceEnvironment,
    runner_cpu_ms: float | None,
) -> Conditions:
    """Summarize the state of a device around timed runs. Pure.

    ``samples``: of a watch. ``runner_cpu_ms``: the CPU time of all runner processes during the
    watch, the sum of their ``RunReport.cpu_ms``.
    """
    during = _during(before, samples, after, runner_cpu_ms)
    warnings = (
        _cut_warning(before, samples, during) or _slow_warning(before, samples, after),
        _others_warning(during),
        _swap_warning(before, during),
    )
    return Conditions(before, during, after, tuple(text for text in warnings if text))


def _during(
    before: DeviceEnvironment,
    samples: Sequence[DeviceState],
    after: DeviceEnvironment,
    runner_cpu_ms: float | None,
) -> During:
    frequencies = [s.frequency_mhz for s in _at_work(samples, before.cores) or samples]
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
    busy_ms = _difference(first.cpu_busy_ms, last.cpu_busy_ms)
    total_ms = _difference(first.cpu_total_ms, last.cpu_total_ms)
    if busy_ms is None or total_ms is None or total_ms / cores < LEAST_WINDOW_MS:
        return None
    return round(100 * max(0.0, busy_ms - runner_cpu_ms) / (total_ms / cores), 1)


def _at_work(samples: Sequence[DeviceState], cores: int | None) -> list[DeviceState]:
    """The samples taken under load. The first and the last one never count."""
    busy = []
    for earlier, sample in pairwise(samples[:-1]):
        busy_ms = _difference(earlier.cpu_busy_ms, sample.cpu_busy_ms)
        total_ms = _difference(earlier.cpu_total_ms, sample.cpu_total_ms)
        if busy_ms is None or total_ms is None or not cores:
            busy.append(sample)  # unknown: assume load
        elif busy_ms >= LOADED * total_ms / cores > 0:
            busy.append(sample)
    return busy


def _cut_warning(
    before: DeviceEnvironment, samples: Sequence[DeviceState], during: During
) -> str | None:
    """A warning if the firmware cut the clock because of a weak supply or heat."""
    least = _least(s.frequency_mhz for s in _at_work(samples, before.cores))
    low = _low(least, before)
    cut = f"the clock fell to {low}" if low else "the clock was cut"
    seen = during.throttled or ()
    if UNDER_VOLTAGE in seen:
        return f"the supply was too weak (under-voltage): {cut}; {USE_OFFICIAL_SUPPLY}"
    if seen or _limit_fell(before, during):
        hot = "" if during.temperature_max_c is None else f" at {during.temperature_max_c:.0f} C"
        return f"it throttled{hot}: {cut}; cool it (heat sink, fan)"
    return None


def _slow_warning(
    before: DeviceEnvironment, samples: Sequence[DeviceState], after: DeviceEnvironment
) -> str | None:
    """A warning if the clock was low all the time, or is likely to be cut."""
    limit = _low(before.frequency_limit_mhz, before)
    if limit:
        return f"the CPU may only run at {limit}: raise scaling_max_freq, or cool it if it is hot"
    pace = _low(_pace_mhz(before, samples), before)
    if pace and before.governor not in (None, "performance"):
        return f"the CPU ran at {pace}: governor {before.governor}; set it to performance"
    if pace:
        return f"the CPU ran at {pace}; the device reports no reason"
    if has_occurred(UNDER_VOLTAGE) in (after.throttled or ()):
        return (
            "under-voltage has occurred since boot: the supply is weak, and the clock may be cut; "
            + USE_OFFICIAL_SUPPLY
        )
    return None


def _pace_mhz(before: DeviceEnvironment, samples: Sequence[DeviceState]) -> float | None:
    """The clock under load, if known. One sample is not enough: it may fall between two runs."""
    working = _at_work(samples, before.cores)
    held = {state.frequency_mhz for state in (before, *samples)}
    if len(working) < 2 and not (before.governor in FIXED_GOVERNORS and len(held) == 1):
        return None
    return _most(s.frequency_mhz for s in working or samples)


def _low(frequency_mhz: float | None, before: DeviceEnvironment) -> str | None:
    nominal = before.frequency_nominal_mhz
    if frequency_mhz is None or nominal is None or frequency_mhz >= LOW_CLOCK * nominal:
        return None
    return f"{frequency_mhz:.0f} of {nominal:.0f} MHz"


def _limit_fell(before: DeviceEnvironment, during: During) -> bool:
    limit, least = before.frequency_limit_mhz, during.frequency_limit_min_mhz
    return limit is not None and least is not None and least < limit


def _others_warning(during: During) -> str | None:
    percent = during.others_percent_of_core
    if percent is None or percent < OTHERS_PERCENT:
        return None
    return f"other processes used {percent:.0f} % of a core: stop them and measure again"


def _swap_warning(before: DeviceEnvironment, during: During) -> str | None:
    """A warning if swap grew, or is in use while memory is short. Old unused pages are harmless."""
    used, free = during.swap_used_max_mb, during.memory_available_min_mb
    if not used:
        return None
    grew = before.swap_used_mb is not None and used >= before.swap_used_mb + 1
    short = (
        free is not None
        and before.memory_mb is not None
        and free < SHORT_OF_MEMORY * before.memory_mb
    )
    if not grew and not short:
        return None
    available = "" if free is None else f", {free:.0f} MB of memory available"
    return (
        f"swap was used ({used:.0f} MB{available}): runs may have waited for the disk; "
        "stop other programs, or use a smaller model"
    )


def _state_of(environment: DeviceEnvironment) -> DeviceState:
    return DeviceState(**{name: getattr(environment, name) for name in DeviceState.model_fields})


def _least(values: Iterable[float | None]) -> float | None:
    return min((value for value in values if value is not None), default=None)


def _most(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def _difference(first: int | None, last: int | None) -> int | None:
    return None if first is None or last is None else last - first
