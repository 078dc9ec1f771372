"""The document of ``targets probe``: what a device is."""

from __future__ import annotations

from typing import Any, Literal

from edgekit.documents.base import Document
from edgekit.documents.environment import DeviceEnvironment
from edgekit.frozen import Extensible


class CoreCluster(Extensible):
    """Processors of one kind with one clock range. None: unknown.

    ``cpus``: their numbers in Linux. ``physical_cores``: fewer than ``cpus`` with hyper-threading.
    ``gcc_name``: GCC's and QEMU's name of the core. ``little``: slow cores beside faster ones.
    """

    cpus: tuple[int, ...]
    physical_cores: int | None
    cpu: str | None
    gcc_name: str | None
    little: bool
    governor: str | None
    frequency_mhz: float | None
    frequency_min_mhz: float | None
    frequency_max_mhz: float | None
    frequency_base_mhz: float | None


class ThermalZone(Extensible):
    name: str
    temperature_c: float | None


class SwapArea(Extensible):
    """``kind``: of the memory behind it; zram is compressed RAM. 1 MB = 1,000,000 bytes."""

    name: str
    kind: Literal["zram", "partition", "file"]
    size_mb: float
    used_mb: float


class Hardware(Extensible):
    """Fixed facts of a device beside its environment. None: unknown.

    ``userland_bits``: 32 also on a 64-bit kernel with a 32-bit system. ``python``: the version of
    ``python3``, such as 3.11; None also if there is none.
    """

    clusters: tuple[CoreCluster, ...] = ()
    thermal_zones: tuple[ThermalZone, ...] = ()
    swap_areas: tuple[SwapArea, ...] | None = None
    libc: Literal["glibc", "musl"] | None = None
    glibc: str | None = None
    userland_bits: int | None = None
    python: str | None = None


class ProbeDocument(Document):
    """The document of ``targets probe``.

    ``target``: the keys of a target file for this device; None if it cannot be a target, for the
    reasons in ``target_problems``. ``notes``: what a reader of the target should know.
    ``output``: the target file that was written.
    """

    device: str
    environment: DeviceEnvironment
    hardware: Hardware
    target: dict[str, Any] | None
    target_problems: tuple[str, ...]
    notes: tuple[str, ...]
    output: str | None = None
