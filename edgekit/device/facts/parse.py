"""Parsers of the sections that the scripts print. Pure: tested on recorded output."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from edgekit.device.facts.cores import cpu_name
from edgekit.device.facts.throttled import throttled_words
from edgekit.documents.environment import DeviceEnvironment, DeviceState

# The kernel reports CPU time to user space in ticks of 1/100 s (USER_HZ).
MS_PER_TICK = 10


def parse_state(sections: Mapping[str, str]) -> DeviceState:
    return DeviceState(**_state(sections))


def parse_environment(sections: Mapping[str, str]) -> DeviceEnvironment:
    cpuinfo = sections.get("cpuinfo", "")
    memory = _memory_mb(sections.get("meminfo", ""))
    uname = sections.get("uname", "").split()
    features = _field(cpuinfo, "flags") or _field(cpuinfo, "Features") or ""
    boot_time = re.search(r"^btime (\d+)$", sections.get("stat", ""), re.MULTILINE)
    return DeviceEnvironment(
        **_state(sections),
        emulated=is_emulated(sections),
        architecture=uname[2] if len(uname) > 2 else None,
        model=_model(sections),
        cpu=cpu_name(cpuinfo),
        cpu_features=tuple(features.split()),
        cores=len(re.findall(r"^processor\s*:", cpuinfo, re.MULTILINE)) or None,
        governor=", ".join(sorted(set(sections.get("governor", "").split()))) or None,
        frequency_nominal_mhz=_highest_mhz(sections.get("base_khz", ""))
        or _highest_mhz(sections.get("max_khz", "")),
        memory_mb=memory.get("MemTotal"),
        swap_total_mb=memory.get("SwapTotal"),
        os=_os_name(sections.get("os_release", "")),
        kernel=uname[1] if len(uname) > 1 else None,
        uptime_s=_first_number(sections.get("uptime", "")),
        boot_time_s=int(boot_time[1]) if boot_time else None,
    )


def is_emulated(sections: Mapping[str, str]) -> bool | None:
    """Whether instructions are emulated: a QEMU machine without KVM's clock.

    A virtual machine with hardware support runs at the processor's speed and is not emulated.
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


def _state(sections: Mapping[str, str]) -> dict[str, Any]:
    memory = _memory_mb(sections.get("meminfo", ""))
    swap = (memory.get("SwapTotal"), memory.get("SwapFree"))
    temperatures = _numbers(sections.get("temperature", ""))
    busy_ms, total_ms = _cpu_ms(sections.get("stat", ""))
    return {
        "frequency_mhz": _measured_mhz(sections.get("clock", ""))
        or _highest_mhz(sections.get("frequency_khz", "")),
        "frequency_limit_mhz": _highest_mhz(sections.get("limit_khz", "")),
        "temperature_c": max(temperatures) / 1000 if temperatures else None,
        "throttled": throttled_words(sections.get("throttled", "")),
        "load_1min": _first_number(sections.get("loadavg", "")),
        "memory_available_mb": memory.get("MemAvailable"),
        "swap_used_mb": round(swap[0] - swap[1], 3)
        if swap[0] is not None and swap[1] is not None
        else None,
        "cpu_busy_ms": busy_ms,
        "cpu_total_ms": total_ms,
    }


def _cpu_ms(stat: str) -> tuple[int | None, int | None]:
    """Busy and total time: user, nice, system, idle, iowait, irq, softirq, steal.

    The later columns (guests) are already part of user and nice.
    """
    row = re.search(r"^cpu\s+([\d ]+)$", stat, re.MULTILINE)
    if row is None:
        return None, None
    ticks = [int(word) for word in row[1].split()][:8]
    return MS_PER_TICK * (sum(ticks) - sum(ticks[3:5])), MS_PER_TICK * sum(ticks)


def _model(sections: Mapping[str, str]) -> str | None:
    cpuinfo = sections.get("cpuinfo", "")
    return (
        sections.get("model")
        or sections.get("dmi_product")
        or _field(cpuinfo, "Model")
        or _field(cpuinfo, "Hardware")
    )


def _field(cpuinfo: str, name: str) -> str | None:
    match = re.search(rf"^{re.escape(name)}\s*:\s*(.+)$", cpuinfo, re.MULTILINE)
    return match[1].strip() if match else None


def _memory_mb(meminfo: str) -> dict[str, float]:
    rows = re.findall(r"^(\w+):\s+(\d+) kB$", meminfo, re.MULTILINE)
    return {name: int(value) * 1024 / 1e6 for name, value in rows}


def _highest_mhz(text: str) -> float | None:
    return max(_numbers(text), default=0.0) / 1000 or None


def _measured_mhz(text: str) -> float | None:
    """The answer of ``vcgencmd measure_clock arm``: frequency(48)=600117184."""
    match = re.search(r"^frequency\(\d+\)=(\d+)$", text, re.MULTILINE)
    return round(int(match[1]) / 1e6, 1) if match else None


def _numbers(text: str) -> list[float]:
    return [float(word) for word in text.split() if re.fullmatch(r"-?\d+(\.\d+)?", word)]


def _first_number(text: str) -> float | None:
    match = re.match(r"\s*(-?\d+(\.\d+)?)", text)
    return float(match[1]) if match else None


def _os_name(os_release: str) -> str | None:
    match = re.search(r'^PRETTY_NAME="?([^"\n]+)"?$', os_release, re.MULTILINE)
    return match[1] if match else None
