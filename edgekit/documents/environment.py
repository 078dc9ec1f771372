"""The state of a device before, during and after a measurement."""

from __future__ import annotations

from edgekit.frozen import Extensible, Omitted


class DeviceState(Extensible):
    """The changing facts of a device, at one moment. None: unknown. 1 MB = 1,000,000 bytes.

    Frequencies: of the fastest core, now, and its present limit. Temperature: of the CPU's hottest
    zone. ``throttled``: from a Raspberry Pi's firmware (device/facts/throttled.py).
    ``cpu_busy_ms``, ``cpu_total_ms``: since boot, over all cores, in steps of 10 ms.
    """

    frequency_mhz: float | None = None
    frequency_limit_mhz: float | None = None
    temperature_c: float | None = None
    throttled: tuple[str, ...] | None = None
    load_1min: float | None = None
    memory_available_mb: float | None = None
    swap_used_mb: float | None = None
    cpu_busy_ms: int | None = None
    cpu_total_ms: int | None = None


class DeviceEnvironment(DeviceState):
    """A device at one moment: its state and its fixed facts.

    ``frequency_nominal_mhz``: the sustained clock of the fastest core: its base clock if it can
    boost, else its highest clock. ``boot_time_s``: seconds since 1970.
    """

    emulated: bool | None = None
    architecture: str | None = None
    model: str | None = None
    cpu: str | None = None
    cpu_features: tuple[str, ...] = ()
    cores: int | None = None
    governor: str | None = None
    frequency_nominal_mhz: float | None = None
    memory_mb: float | None = None
    swap_total_mb: float | None = None
    os: str | None = None
    kernel: str | None = None
    uptime_s: float | None = None
    boot_time_s: int | None = None


class During(Extensible):
    """A device while runs were timed. None: unknown. 1 MB = 1,000,000 bytes.

    Frequencies: of the fastest core, from samples under load if there are any, because an idle
    core clocks down. ``throttled``: at any time. ``others_percent_of_core``: CPU time of all other
    processes than the runner; 100 is one busy core.
    """

    samples: int
    frequency_min_mhz: float | None
    frequency_max_mhz: float | None
    frequency_limit_min_mhz: float | None
    temperature_max_c: float | None
    throttled: tuple[str, ...] | None
    load_1min_max: float | None
    memory_available_min_mb: float | None
    swap_used_max_mb: float | None
    others_percent_of_core: float | None


class NoiseFinding(Extensible):
    """A source of noise during timed runs (device/facts/noise.py).

    ``available``: the device reports it. ``state``: what it was; None if unknown. ``problem`` and
    ``advice``: where it ``disturbs``, in which way and what to do about it.
    """

    source: str
    available: bool
    state: str | None
    disturbs: bool
    problem: str | None
    advice: str | None


class MeasuredEnvironment(DeviceEnvironment):
    """The device before the timed runs, and its state ``before``, ``during`` and ``after`` them.

    ``warnings``: what makes the result doubtful, and what to do about it. ``noise``: every source
    of noise, those that did not disturb too; empty in documents of older versions. ``software``:
    name -> version of the device's own software that computed, such as Python and NumPy; None, and
    no key in JSON, if the bundle has all of it.
    """

    threads: int
    before: DeviceState
    during: During
    after: DeviceState
    warnings: tuple[str, ...]
    noise: Omitted[tuple[NoiseFinding, ...]] = ()
    software: Omitted[dict[str, str] | None] = None
