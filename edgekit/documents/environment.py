"""A device as it was when it was measured: before, meanwhile, after."""

from __future__ import annotations

from edgekit.frozen import Extensible


class DeviceState(Extensible):
    """What changes on a device, at one moment. None is "unknown". 1 MB = 1,000,000 bytes.

    Frequencies are those of the fastest core: now, and the most it may have now. The temperature
    is the hottest of the CPU's zones. ``throttled``: the firmware's words of a Raspberry Pi
    (device/facts/throttled.py). ``cpu_busy_ms`` and ``cpu_total_ms`` count since boot, over all
    cores, in steps of 10 ms.
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
    """A device at one moment: its state, and what it is.

    ``frequency_nominal_mhz``: what the fastest core sustains: its base clock where it has one
    and boosts above it, else its highest. ``boot_time_s``: seconds since 1970.
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
    """What was seen while runs were timed; None is "unknown". 1 MB = 1,000,000 bytes.

    Frequencies are of the fastest core, from the samples that found the device at work where
    there are such: an idle one clocks down. ``throttled``: what was so at any time.
    ``others_percent_of_core``: CPU time of everything but the runner, 100 for one busy core.
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


class MeasuredEnvironment(DeviceEnvironment):
    """The device before the timed runs; beside that its state ``before`` and ``after``, what was
    seen ``during`` the runs, and ``warnings``: what makes the result doubtful, and what to do.
    """

    threads: int
    before: DeviceState
    during: During
    after: DeviceState
    warnings: tuple[str, ...]
