"""The result of targets probe as text for a terminal."""

from __future__ import annotations

from rich.table import Table

from edgekit.device.facts.target_file import used_features
from edgekit.documents.environment import DeviceEnvironment
from edgekit.documents.probe import CoreCluster, Hardware, ProbeDocument
from edgekit.report.terminal import grid, render

UNKNOWN = "unknown"
TITLES = (
    "processors", "cores", "core", "kind", "clock", "lowest", "base", "highest", "governor",
)  # fmt: skip


def render_probe(document: ProbeDocument) -> str:
    environment, hardware = document.environment, document.hardware
    rows = [
        ("device", document.device + (" (EMULATED)" if environment.emulated else "")),
        ("model", environment.model or UNKNOWN),
        ("system", _system(environment, hardware)),
        ("processor", f"{environment.cpu or UNKNOWN}, {environment.cores or UNKNOWN} processors"),
        ("features", ", ".join(used_features(environment)) or _no_features(environment)),
        ("governor", environment.governor or UNKNOWN),
        ("memory", _memory(environment)),
        ("swap", _swap(environment, hardware)),
        ("load", UNKNOWN if environment.load_1min is None else f"{environment.load_1min:g}"),
        ("temperature", _temperatures(environment, hardware)),
        ("throttling", _throttling(environment)),
    ]
    return grid(rows) + "\n" + _clusters(hardware.clusters) + "\n" + grid(_target(document))


def _system(environment: DeviceEnvironment, hardware: Hardware) -> str:
    bits = f"{hardware.userland_bits}-bit system" if hardware.userland_bits else None
    libc = f"glibc {hardware.glibc}" if hardware.glibc else hardware.libc
    parts = [
        environment.os or "operating system unknown",
        f"kernel {environment.kernel or UNKNOWN}",
        environment.architecture or "architecture unknown",
        bits,
        libc or "C library unknown",
        f"Python {hardware.python}" if hardware.python else None,
    ]
    return ", ".join(part for part in parts if part)


def _no_features(environment: DeviceEnvironment) -> str:
    return "none that edgekit uses" if environment.cpu_features else UNKNOWN


def _memory(environment: DeviceEnvironment) -> str:
    if environment.memory_mb is None:
        return UNKNOWN
    available = environment.memory_available_mb
    text = f"{environment.memory_mb:.0f} MB"
    return text if available is None else f"{text}, {available:.0f} MB available"


def _swap(environment: DeviceEnvironment, hardware: Hardware) -> str:
    if environment.swap_total_mb is None and hardware.swap_areas is None:
        return UNKNOWN
    if not environment.swap_total_mb and not hardware.swap_areas:
        return "none"
    areas = [f"{one.name} ({one.kind})" for one in hardware.swap_areas or ()]
    total, used = environment.swap_total_mb or 0, environment.swap_used_mb
    text = f"{total:.0f} MB" + ("" if used is None else f", {used:.0f} MB used")
    return f"{text}: {', '.join(areas)}" if areas else text


def _temperatures(environment: DeviceEnvironment, hardware: Hardware) -> str:
    zones = [
        f"{zone.name} {UNKNOWN if zone.temperature_c is None else f'{zone.temperature_c:.0f} C'}"
        for zone in hardware.thermal_zones
    ]
    if not zones and environment.temperature_c is not None:
        return f"{environment.temperature_c:.0f} C"
    return ", ".join(zones) or UNKNOWN


def _throttling(environment: DeviceEnvironment) -> str:
    if environment.throttled is None:
        return UNKNOWN
    return ", ".join(environment.throttled) or "none since boot"


def _clusters(clusters: tuple[CoreCluster, ...]) -> str:
    """A table of the clusters, without the columns of which nothing is known."""
    rows = [_cluster(one, any(other.little for other in clusters)) for one in clusters]
    titles = [title for title in TITLES if any(row[title] for row in rows)]
    table = Table(box=None, pad_edge=False, padding=(0, 3, 0, 0))
    for title in titles:
        table.add_column(title)
    for row in rows:
        table.add_row(*(row[title] or UNKNOWN for title in titles))
    return render(table) if rows else ""


def _cluster(one: CoreCluster, has_little: bool) -> dict[str, str]:
    return {
        "processors": _numbers(one.cpus),
        "cores": str(one.physical_cores or ""),
        "core": one.cpu or "",
        "kind": "" if not has_little else "little" if one.little else "big",
        "clock": _mhz(one.frequency_mhz),
        "lowest": _mhz(one.frequency_min_mhz),
        "base": _mhz(one.frequency_base_mhz),
        "highest": _mhz(one.frequency_max_mhz),
        "governor": one.governor or "",
    }


def _numbers(cpus: tuple[int, ...]) -> str:
    whole = cpus == tuple(range(cpus[0], cpus[-1] + 1))
    return f"{cpus[0]}-{cpus[-1]}" if whole and len(cpus) > 1 else ",".join(map(str, cpus))


def _mhz(value: float | None) -> str:
    return "" if value is None else f"{value:.0f} MHz"


def _target(document: ProbeDocument) -> list[tuple[str, str]]:
    rows = [("note", note) for note in document.notes]
    if document.target is None:
        return [*rows, *(("no target", problem) for problem in document.target_problems)]
    written = document.output
    text = f"written to {written}" if written else "--output FILE.toml writes one for this device"
    return [*rows, ("target", text)]
