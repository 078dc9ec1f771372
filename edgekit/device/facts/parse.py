"""From the probe's sections to facts. Pure: tested on recorded output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Environment:
    """A device at one moment. None is "not told by this device". 1 MB = 1,000,000 bytes."""

    emulated: bool | None
    architecture: str | None
    model: str | None
    cpu: str | None
    cpu_features: tuple[str, ...]
    cores: int | None
    governor: str | None
    frequency_mhz: float | None
    temperature_c: float | None
    load_1min: float | None
    memory_mb: float | None
    memory_available_mb: float | None
    swap_used_mb: float | None
    os: str | None
    kernel: str | None

    def to_dict(self) -> dict[str, Any]:
        return asdict(self)


def parse_environment(sections: Mapping[str, str]) -> Environment:
    cpuinfo = sections.get("cpuinfo", "")
    memory = _memory_mb(sections.get("meminfo", ""))
    uname = sections.get("uname", "").split()
    frequencies = [float(word) for word in sections.get("frequency_khz", "").split()]
    features = _field(cpuinfo, "flags") or _field(cpuinfo, "Features") or ""
    swap = (memory.get("SwapTotal"), memory.get("SwapFree"))
    return Environment(
        emulated=is_emulated(sections),
        architecture=uname[2] if len(uname) > 2 else None,
        model=sections.get("model") or None,
        cpu=cpu_name(cpuinfo),
        cpu_features=tuple(features.split()),
        cores=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or None,
        governor=", ".join(sorted(set(sections.get("governor", "").split()))) or None,
        frequency_mhz=max(frequencies) / 1000 if frequencies else None,
        temperature_c=_temperature(sections.get("temperature", "")),
        load_1min=_first_number(sections.get("loadavg", "")),
        memory_mb=memory.get("MemTotal"),
        memory_available_mb=memory.get("MemAvailable"),
        swap_used_mb=round(swap[0] - swap[1], 3)
        if swap[0] is not None and swap[1] is not None
        else None,
        os=_os_name(sections.get("os_release", "")),
        kernel=uname[1] if len(uname) > 1 else None,
    )


# Arm's implementer 0x41, by part number (Arm's Main ID Register, MIDR_EL1).
ARM_PARTS = {
    "0xd03": "Cortex-A53",
    "0xd05": "Cortex-A55",
    "0xd07": "Cortex-A57",
    "0xd08": "Cortex-A72",
    "0xd0b": "Cortex-A76",
    "0xd0c": "Neoverse-N1",
}


def cpu_name(cpuinfo: str) -> str | None:
    """x86 names its processor; Arm gives an implementer and a part number."""
    name = _field(cpuinfo, "model name")
    if name:
        return name
    part = _field(cpuinfo, "CPU part")
    if part is None:
        return None
    if _field(cpuinfo, "CPU implementer") == "0x41" and part in ARM_PARTS:
        return ARM_PARTS[part]
    return f"part {part}"


def is_emulated(sections: Mapping[str, str]) -> bool | None:
    """Whether instructions are emulated: a QEMU machine without KVM's clock.

    A virtual machine with hardware support runs at the processor's own speed: not emulated.
    """
    if not sections.get("cpuinfo"):
        return None
    if "linux,dummy-virt" in sections.get("compatible", ""):
        return True
    if (cpu_name(sections["cpuinfo"]) or "").startswith("QEMU"):
        return True
    if sections.get("dmi_vendor") == "QEMU":
        return "kvm-clock" not in sections.get("clocksources", "")
    return False


def _field(cpuinfo: str, name: str) -> str | None:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else None


def _memory_mb(meminfo: str) -> dict[str, float]:
    rows = re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE)
    return {name: int(value) * 1024 / 1e6 for name, value in rows}


def _temperature(text: str) -> float | None:
    value = _first_number(text)
    return value / 1000 if value is not None else None


def _first_number(text: str) -> float | None:
    match = re.match(r"\s*(-?\d+(\.\d+)?)", text)
    return float(match[1]) if match else None


def _os_name(os_release: str) -> str | None:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', os_release, re.MULTILINE)
    return match[1] if match else None
