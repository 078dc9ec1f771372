"""What makes a measurement doubtful. Each source of noise is a small class.

A source answers two questions about timed runs: what was it, as far as the device reports it, and
did it disturb them, with what to do about it.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import ClassVar

from edgekit.device.facts.throttled import UNDER_VOLTAGE, has_occurred
from edgekit.documents.environment import DeviceEnvironment, DeviceState, During, NoiseFinding

# Below this share of the processor's nominal frequency, the clock counts as low.
LOW_CLOCK = 0.8
# Governors that hold one clock, whatever the load (Intel's "powersave" does not).
FIXED_GOVERNORS = ("powersave", "userspace")
# A sample shows the clock under load if this share of a core was busy since the previous sample.
LOADED = 0.5
# Other processes' share of one core that disturbs. Copying the inputs and starting the runners
# counts as some of it.
OTHERS_PERCENT = 20.0
SHORT_OF_MEMORY = 0.1
# The temperature at which a Raspberry Pi's firmware cuts the clock, and most boards soon do.
HOT_C = 85.0
# A change of the canary's speed that its own noise does not explain.
DRIFT = 0.15

USE_OFFICIAL_SUPPLY = "use the board's official power supply"


@dataclass(frozen=True)
class Observation:
    """A device around timed runs. ``canary``: its speed after them to that before; None: unknown.

    What several sources need is computed here.
    """

    before: DeviceEnvironment
    samples: Sequence[DeviceState]
    after: DeviceEnvironment
    during: During
    canary: float | None = None

    @cached_property
    def lowest_clock(self) -> str | None:
        """The lowest clock under load, if it is low."""
        clocks = [s.frequency_mhz for s in at_work(self.samples, self.before.cores)]
        return self.low(min((mhz for mhz in clocks if mhz is not None), default=None))

    @cached_property
    def limit_fell(self) -> bool:
        limit, least = self.before.frequency_limit_mhz, self.during.frequency_limit_min_mhz
        return limit is not None and least is not None and least < limit

    @property
    def was_cut(self) -> bool:
        """The firmware or the kernel cut the clock because of a weak supply or heat."""
        return bool(self.during.throttled) or self.limit_fell

    @cached_property
    def low_limit(self) -> str | None:
        return self.low(self.before.frequency_limit_mhz)

    @cached_property
    def low_pace(self) -> str | None:
        """The clock under load, if it was low all the time.

        One sample is not enough: it may fall between two runs.
        """
        working = at_work(self.samples, self.before.cores)
        held = {state.frequency_mhz for state in (self.before, *self.samples)}
        if len(working) < 2 and not (self.before.governor in FIXED_GOVERNORS and len(held) == 1):
            return None
        clocks = [s.frequency_mhz for s in working or self.samples]
        return self.low(max((mhz for mhz in clocks if mhz is not None), default=None))

    def low(self, frequency_mhz: float | None) -> str | None:
        nominal = self.before.frequency_nominal_mhz
        if frequency_mhz is None or nominal is None or frequency_mhz >= LOW_CLOCK * nominal:
            return None
        return f"{frequency_mhz:.0f} of {nominal:.0f} MHz"


@dataclass(frozen=True)
class Disturbance:
    """What disturbed the runs, and what to do about it."""

    problem: str
    advice: str


class NoiseSource(ABC):
    """One source of noise. ``name``: in documents."""

    name: ClassVar[str]

    @abstractmethod
    def state(self, seen: Observation) -> str | None:
        """What it was; None if the device does not report it."""

    @abstractmethod
    def disturbance(self, seen: Observation) -> Disturbance | None:
        """None if it did not disturb, or is unknown."""

    def finding(self, seen: Observation) -> NoiseFinding:
        state, disturbance = self.state(seen), self.disturbance(seen)
        return NoiseFinding(
            source=self.name,
            available=state is not None,
            state=state,
            disturbs=disturbance is not None,
            problem=disturbance.problem if disturbance else None,
            advice=disturbance.advice if disturbance else None,
        )


class Throttling(NoiseSource):
    name = "throttling"

    def state(self, seen: Observation) -> str | None:
        if seen.during.throttled:
            return ", ".join(seen.during.throttled)
        if seen.limit_fell:
            return "the limit of the clock fell"
        known = seen.during.throttled is not None
        known = known or seen.during.frequency_limit_min_mhz is not None
        return "not throttled" if known else None

    def disturbance(self, seen: Observation) -> Disturbance | None:
        low = seen.lowest_clock
        cut = f"the clock fell to {low}" if low else "the clock was cut"
        if UNDER_VOLTAGE in (seen.during.throttled or ()):
            problem = f"the supply was too weak (under-voltage): {cut}"
            return Disturbance(problem, USE_OFFICIAL_SUPPLY)
        if seen.was_cut:
            heat = seen.during.temperature_max_c
            hot = "" if heat is None else f" at {heat:.0f} C"
            return Disturbance(f"it throttled{hot}: {cut}", "cool it (heat sink, fan)")
        past = has_occurred(UNDER_VOLTAGE) in (seen.after.throttled or ())
        if past and not (seen.low_limit or seen.low_pace):
            problem = (
                "under-voltage has occurred since boot: the supply is weak, the clock may be cut"
            )
            return Disturbance(problem, USE_OFFICIAL_SUPPLY)
        return None


class Frequency(NoiseSource):
    """A clock that is low for no other known reason."""

    name = "frequency"

    def state(self, seen: Observation) -> str | None:
        least, most = seen.during.frequency_min_mhz, seen.during.frequency_max_mhz
        if least is None or most is None:
            return None
        return f"{most:.0f} MHz" if least == most else f"{least:.0f} to {most:.0f} MHz"

    def disturbance(self, seen: Observation) -> Disturbance | None:
        if seen.was_cut:
            return None
        if seen.low_limit:
            problem = f"the CPU may only run at {seen.low_limit}"
            return Disturbance(problem, "raise scaling_max_freq, or cool it if it is hot")
        if seen.low_pace and seen.before.governor in (None, "performance"):
            problem = f"the CPU ran at {seen.low_pace}; the device reports no reason"
            return Disturbance(problem, "compare with its governor, temperature and power supply")
        return None


class Governor(NoiseSource):
    name = "governor"

    def state(self, seen: Observation) -> str | None:
        return seen.before.governor

    def disturbance(self, seen: Observation) -> Disturbance | None:
        governor = seen.before.governor
        if seen.was_cut or seen.low_limit or not seen.low_pace:
            return None
        if governor in (None, "performance"):
            return None
        problem = f"the CPU ran at {seen.low_pace}: governor {governor}"
        return Disturbance(problem, "set it to performance")


class Temperature(NoiseSource):
    name = "temperature"

    def state(self, seen: Observation) -> str | None:
        heat = seen.during.temperature_max_c
        return None if heat is None else f"up to {heat:.0f} C"

    def disturbance(self, seen: Observation) -> Disturbance | None:
        heat = seen.during.temperature_max_c
        if seen.was_cut or heat is None or heat < HOT_C:
            return None
        return Disturbance(
            f"the CPU was at {heat:.0f} C: its clock may be cut", "cool it (heat sink, fan)"
        )


class Load(NoiseSource):
    """CPU time of other processes; for short runs, whose CPU time is unknown, the load before."""

    name = "load"

    def state(self, seen: Observation) -> str | None:
        percent, load = seen.during.others_percent_of_core, seen.before.load_1min
        if percent is not None:
            return f"other processes used {percent:.0f} % of a core"
        return None if load is None else f"load {load:g} before the runs"

    def disturbance(self, seen: Observation) -> Disturbance | None:
        percent, load = seen.during.others_percent_of_core, seen.before.load_1min
        cores, advice = seen.before.cores, "stop other programs and measure again"
        if percent is None and load is not None and cores and load > cores:
            return Disturbance(f"the load was {load:g} on {cores} cores before the runs", advice)
        if percent is None or percent < OTHERS_PERCENT:
            return None
        return Disturbance(f"other processes used {percent:.0f} % of a core", advice)


class Swap(NoiseSource):
    """Swap that grew, or is in use while memory is short. Old unused pages are harmless."""

    name = "swap"

    def state(self, seen: Observation) -> str | None:
        used = seen.during.swap_used_max_mb
        return None if used is None else f"{used:.0f} MB used"

    def disturbance(self, seen: Observation) -> Disturbance | None:
        before, during = seen.before, seen.during
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
        return Disturbance(
            f"swap was used ({used:.0f} MB{available}): runs may have waited for the disk",
            "stop other programs, or use a smaller model",
        )


class Canary(NoiseSource):
    name = "canary"

    def state(self, seen: Observation) -> str | None:
        return None if seen.canary is None else f"{seen.canary:.2f}x its speed before the runs"

    def disturbance(self, seen: Observation) -> Disturbance | None:
        if seen.canary is None or 1 - DRIFT <= seen.canary <= 1 / (1 - DRIFT):
            return None
        return Disturbance(
            f"the device's speed drifted: after the runs, a fixed piece of work ran at "
            f"{seen.canary:.2f}x the speed before them",
            "let it settle (temperature, other programs) and measure again",
        )


class Emulated(NoiseSource):
    name = "emulation"

    def state(self, seen: Observation) -> str | None:
        emulated = seen.before.emulated
        return None if emulated is None else "emulated" if emulated else "not emulated"

    def disturbance(self, seen: Observation) -> Disturbance | None:
        if not seen.before.emulated:
            return None
        return Disturbance(
            "emulated: latency is not evidence for the real board", "measure on the board"
        )


# The clock's sources first: of these at most one disturbs, the cause of the others.
SOURCES: tuple[NoiseSource, ...] = (
    Throttling(), Frequency(), Governor(), Temperature(), Load(), Swap(), Canary(), Emulated(),
)  # fmt: skip


def find_noise(seen: Observation) -> tuple[NoiseFinding, ...]:
    return tuple(source.finding(seen) for source in SOURCES)


def at_work(samples: Sequence[DeviceState], cores: int | None) -> list[DeviceState]:
    """The samples taken under load. The first and the last one never count."""
    busy = []
    for earlier, sample in pairwise(samples[:-1]):
        busy_ms = difference(earlier.cpu_busy_ms, sample.cpu_busy_ms)
        total_ms = difference(earlier.cpu_total_ms, sample.cpu_total_ms)
        if busy_ms is None or total_ms is None or not cores:
            busy.append(sample)  # unknown: assume load
        elif busy_ms >= LOADED * total_ms / cores > 0:
            busy.append(sample)
    return busy


def difference(first: int | None, last: int | None) -> int | None:
    return None if first is None or last is None else last - first
