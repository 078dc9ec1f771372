"""A target file for a device that was probed. Pure: what is unknown is left out or refused."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from edgekit.documents.environment import DeviceEnvironment
from edgekit.documents.probe import CoreCluster, Hardware
from edgekit.target import MACHINES, Architecture
from edgekit.values import TFLITE_PYTHONS, RuntimeName, version_numbers

# The features that kernels for neural networks are chosen by, as Linux names them.
FEATURES = {
    "aarch64": ("asimd", "asimddp", "fphp", "asimdhp", "i8mm", "bf16", "sve", "sve2", "sme"),
    "armv7l": ("neon", "vfpv4", "asimd"),
    "x86_64": (
        "sse4_1", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx512f", "avx512bw", "avx512dq",
        "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8",
    ),
}  # fmt: skip
# QEMU's name for a core with all features that it can emulate.
ANY_CORE = "max"
# The oldest C library that each runtime runs with, the preferred runtime first.
NATIVE_GLIBC: dict[Architecture, dict[RuntimeName, str]] = {
    "x86_64": {"executorch": "2.28", "litert": "2.28"},
    "aarch64": {"executorch": "2.28", "litert": "2.34"},
    "armv7l": {},
}
TFLITE_GLIBC: dict[Architecture, str] = {"x86_64": "2.29", "aarch64": "2.27", "armv7l": "2.27"}
# Of a 64-bit kernel, asimd implies neon.
NEON = {"neon", "asimd"}


@dataclass(frozen=True)
class TargetDraft:
    """``keys``: of a target file; None if the device cannot be a target, for these ``problems``.

    ``notes``: what a reader of the file should know, a sentence each.
    """

    keys: dict[str, Any] | None
    problems: tuple[str, ...]
    notes: tuple[str, ...]


def draft_target(environment: DeviceEnvironment, hardware: Hardware) -> TargetDraft:
    architecture = _architecture(environment, hardware)
    problems = tuple(_problems(environment, hardware, architecture))
    if problems or architecture is None:
        return TargetDraft(None, problems, ())
    fast, runtimes = fast_clusters(hardware), _runtimes(architecture, hardware)
    threads = sum(cluster.physical_cores or len(cluster.cpus) for cluster in fast)
    clock_mhz = _clock_mhz(environment, fast)
    keys: dict[str, Any] = {
        "description": _plain(environment.model or environment.cpu or "unknown device"),
        "architecture": architecture,
        "cpu": _core(environment, fast),
        "features": [one for one in FEATURES[architecture] if one in environment.cpu_features],
        "cores": environment.cores,
        "clock_ghz": round(clock_mhz / 1000, 3) if clock_mhz else None,
        "threads": max(1, min(threads, environment.cores or 1, 256)),
        "memory_mb": round(environment.memory_mb) if environment.memory_mb else None,
        "glibc": hardware.glibc,
        "runtimes": runtimes,
        "pythons": [hardware.python] if _runs_tflite(runtimes, hardware) else None,
    }
    known = {key: value for key, value in keys.items() if value is not None}
    return TargetDraft(known, (), tuple(_notes(environment, hardware, known)))


def target_toml(draft: TargetDraft) -> str:
    """The text of a target file. The same device gives the same text. Requires ``draft.keys``."""
    lines = ["# Written by: edgekit targets probe", *(f"# {_plain(n)}" for n in draft.notes)]
    for key, value in (draft.keys or {}).items():
        lines.append(f"{key} = {json.dumps(value, ensure_ascii=False)}")
    return "\n".join(lines) + "\n"


def used_features(environment: DeviceEnvironment) -> list[str]:
    names = FEATURES.get(environment.architecture or "", ())
    return [name for name in names if name in environment.cpu_features]


def fast_clusters(hardware: Hardware) -> list[CoreCluster]:
    """The clusters that inference should use, the fastest first."""
    clusters = [one for one in hardware.clusters if not one.little]
    return sorted(clusters, key=lambda one: -(one.frequency_max_mhz or 0))


def _architecture(environment: DeviceEnvironment, hardware: Hardware) -> Architecture | None:
    """That of the system, whatever its kernel is; None if edgekit does not build for it."""
    machine, is_32_bit = environment.architecture, hardware.userland_bits == 32
    for architecture, machines in MACHINES.items():
        if machine in machines and (architecture == "armv7l") == (is_32_bit or machine[-1] == "l"):
            return architecture
    return None


def _runtimes(architecture: Architecture, hardware: Hardware) -> list[RuntimeName]:
    """Those that the C library is new enough for. tflite is for a system that lacks a native one.
    Beside a native one it is listed only if the device's Python fits it.
    """
    glibc, known = version_numbers(hardware.glibc or "0"), NATIVE_GLIBC[architecture]
    native = [name for name, oldest in known.items() if glibc >= version_numbers(oldest)]
    if native and (len(native) == len(known) or hardware.python not in TFLITE_PYTHONS):
        return native
    runs = glibc >= version_numbers(TFLITE_GLIBC[architecture])
    return [*native, "tflite"] if runs else native


def _runs_tflite(runtimes: list[RuntimeName], hardware: Hardware) -> bool:
    return "tflite" in runtimes and hardware.python in TFLITE_PYTHONS


def _problems(
    environment: DeviceEnvironment, hardware: Hardware, architecture: Architecture | None
) -> Iterator[str]:
    if architecture is None:
        bits = ", with a 32-bit system" if hardware.userland_bits == 32 else ""
        yield (
            f"architecture: {environment.architecture or 'unknown'}{bits}; edgekit builds for "
            f"{', '.join(MACHINES)} only"
        )
    elif architecture == "armv7l" and not NEON & set(environment.cpu_features):
        yield "CPU: it has no NEON, which the runtime for 32-bit systems needs"
    if hardware.libc == "musl":
        yield "C library: musl; edgekit's runners need glibc"
    elif hardware.glibc is None:
        yield "C library: unknown; edgekit's runners need glibc, and a target its version"
    elif architecture is not None and not _runtimes(architecture, hardware):
        needed = [*NATIVE_GLIBC[architecture].values(), TFLITE_GLIBC[architecture]]
        oldest = min(needed, key=version_numbers)
        yield f"C library: glibc {hardware.glibc}; edgekit's runners need {oldest} or newer"
    if not environment.cores:
        yield "cores: unknown"


def _core(environment: DeviceEnvironment, fast: list[CoreCluster]) -> str:
    if environment.architecture == "x86_64":
        return "x86-64"
    return next((one.gcc_name for one in fast[:1] if one.gcc_name), ANY_CORE)


def _clock_mhz(environment: DeviceEnvironment, fast: list[CoreCluster]) -> float | None:
    """The sustained clock of the fastest core: its base clock if it can boost."""
    if fast and (clock := fast[0].frequency_base_mhz or fast[0].frequency_max_mhz):
        return clock
    return environment.frequency_nominal_mhz


def _notes(
    environment: DeviceEnvironment, hardware: Hardware, keys: dict[str, Any]
) -> Iterator[str]:
    if environment.emulated:
        yield "The device is emulated: its clock and its latency are not those of a real board."
    if keys["cpu"] == ANY_CORE:
        yield (
            f"The core ({environment.cpu or 'unknown'}) has no known name in GCC and QEMU: "
            f"'{ANY_CORE}' stands for any core. edgekit check cannot find instructions that it "
            "lacks."
        )
    if any(cluster.little for cluster in hardware.clusters):
        layout = ", ".join(
            f"{len(one.cpus)}x {one.cpu or ('little' if one.little else 'big')}"
            for one in hardware.clusters
        )
        yield f"Cores: {layout}. threads counts the fast ones only."
    if "clock_ghz" not in keys:
        yield "The device does not report its highest clock: clock_ghz is unknown."
    if "tflite" in keys["runtimes"] and "pythons" not in keys:
        found = f"is {hardware.python}" if hardware.python else "is missing or unknown"
        yield (
            f"python3 {found}. The runtime tflite has wheels for Python "
            f"{TFLITE_PYTHONS[0]} to {TFLITE_PYTHONS[-1]}, so pythons is not set."
        )
    if "memory_mb" in keys:
        yield "memory_mb is the memory that the kernel manages, somewhat less than the RAM."


def _plain(text: str) -> str:
    """Text for a TOML string or comment, without control characters."""
    return "".join(char for char in text if char.isprintable())
