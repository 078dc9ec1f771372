"""The fixed facts of a device that a measurement does not need: clusters, zones, swap, libc."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

from edgekit.device.base import Transport
from edgekit.device.facts.cores import CoreName, processors
from edgekit.device.facts.libc import glibc_version, userland_bits
from edgekit.device.facts.probe import LIMIT_S, split_sections
from edgekit.device.facts.shell import PRELUDE
from edgekit.documents.probe import CoreCluster, Hardware, SwapArea, ThermalZone
from edgekit.errors import DeviceError

# Read-only, like the probe's script. `$policies` is the prelude's. The lists of siblings need cat:
# recent kernels give nothing to the shell's read, which reads byte by byte.
SCRIPT = (
    PRELUDE
    + r"""
section() { printf '\n@@edgekit %s\n' "$1"; }
show() { section "$1"; shift; for file; do [ -r "$file" ] && cat "$file" && echo; done; }
existing() { for file; do [ ! -e "$file" ] || echo "$file"; done; }
show cpuinfo proc/cpuinfo
show swaps proc/swaps
show performance_cpus sys/devices/cpu_core/cpus
show efficient_cpus sys/devices/cpu_atom/cpus
section policies
for policy in $policies; do
  [ -d "$policy" ] || continue
  cpus=; read -r cpus <$policy/related_cpus
  number=${policy%/cpufreq}; line="${cpus:-${number##*[!0-9]}}"
  for name in scaling_governor scaling_cur_freq cpuinfo_min_freq cpuinfo_max_freq base_frequency; do
    value=; read -r value <$policy/$name; line="$line|$value"
  done
  echo "$line"
done
section siblings
cat sys/devices/system/cpu/cpu[0-9]*/topology/thread_siblings_list
section zones
for zone in sys/class/thermal/thermal_zone[0-9]*; do
  [ -d "$zone" ] || continue
  kind=; read -r kind <$zone/type
  value=; read -r value <$zone/temp
  echo "${value:--} $kind"
done
section long_bit; getconf LONG_BIT
section loaders; existing lib/ld-linux*.so.? lib64/ld-linux*.so.? lib/ld-musl-*
section libc
getconf GNU_LIBC_VERSION || {
  existing lib/libc-2.*.so lib64/libc-2.*.so lib/*/libc-2.*.so usr/lib/libc-2.*.so
  for loader in lib/ld-linux*.so.? lib64/ld-linux*.so.?; do
    [ -x "$loader" ] && "$loader" --version
  done
}
section python; python3 --version
exit 0
"""
)


def hardware_of(transport: Transport, root: str = "/") -> Hardware:
    """Run the script on the device. Raises DeviceError, also if the script takes too long."""
    try:
        done = transport.run(["sh", "-c", SCRIPT, "edgekit-hardware", root], timeout_s=LIMIT_S)
    except TimeoutError:
        raise DeviceError(
            f"{transport.name} did not report its hardware within {LIMIT_S:g} s",
            "is it overloaded, or is its disk failing?",
        ) from None
    return parse_hardware(split_sections(done.stdout.decode(errors="replace")))


def parse_hardware(sections: Mapping[str, str]) -> Hardware:
    libc, loaders = sections.get("libc", ""), sections.get("loaders", "")
    version = glibc_version(libc)
    musl = version is None and "ld-musl" in loaders
    return Hardware(
        clusters=tuple(_clusters(sections)),
        thermal_zones=tuple(_zones(sections.get("zones", ""))),
        swap_areas=_swap_areas(sections.get("swaps", "")),
        libc="glibc" if version else "musl" if musl else None,
        glibc=f"{version[0]}.{version[1]}" if version else None,
        userland_bits=userland_bits(sections.get("long_bit", ""), loaders),
        python=_python(sections.get("python", "")),
    )


def _python(text: str) -> str | None:
    """The version from ``python3 --version``: 3.9 of "Python 3.9.2"."""
    match = re.match(r"Python (3\.\d+)", text)
    return match[1] if match else None


def cpu_list(text: str) -> frozenset[int]:
    """Parse a list of processors as the kernel writes it: ``0-3,8`` or ``0 1 2 3``."""
    found: set[int] = set()
    for first, last in re.findall(r"(\d+)(?:-(\d+))?", text):
        found |= set(range(int(first), int(last or first) + 1))
    return frozenset(found)


def _clusters(sections: Mapping[str, str]) -> Iterable[CoreCluster]:
    """Group processors by core and highest clock. On x86 the highest (boost) clock differs between
    equal cores, so there the kernel's lists of performance and efficient cores decide.
    """
    cores = processors(sections.get("cpuinfo", ""))
    policies = _policies(sections.get("policies", ""))
    efficient = cpu_list(sections.get("efficient_cpus", ""))
    siblings = [cpu_list(line) for line in sections.get("siblings", "").splitlines()]
    groups: dict[tuple[object, ...], list[int]] = {}
    for cpu, core in cores.items():
        policy = policies.get(cpu, {})
        key = (core, policy.get("max_khz")) if core else (None, cpu in efficient)
        groups.setdefault(key, []).append(cpu)
    slow = {cpu for cpu, core in cores.items() if (core.little if core else cpu in efficient)}
    for cpus in groups.values():
        known = [policies[cpu] for cpu in cpus if cpu in policies]
        little = cpus[0] in slow and len(slow) < len(cores)
        yield _cluster(cpus, cores[cpus[0]], little, known, siblings)


def _cluster(
    cpus: list[int],
    core: CoreName | None,
    little: bool,
    policies: list[dict[str, str]],
    siblings: list[frozenset[int]],
) -> CoreCluster:
    governors = sorted({p["governor"] for p in policies if p["governor"]})
    return CoreCluster(
        cpus=tuple(cpus),
        physical_cores=len({group for group in siblings if group & set(cpus)}) or None,
        cpu=core.name if core else None,
        gcc_name=core.gcc if core else None,
        little=little,
        governor=", ".join(governors) or None,
        frequency_mhz=_highest_mhz(policies, "now_khz"),
        frequency_min_mhz=_lowest_mhz(policies, "min_khz"),
        frequency_max_mhz=_highest_mhz(policies, "max_khz"),
        frequency_base_mhz=_highest_mhz(policies, "base_khz"),
    )


def _policies(text: str) -> dict[int, dict[str, str]]:
    """Processor -> the fields of its frequency policy."""
    found: dict[int, dict[str, str]] = {}
    for line in text.splitlines():
        cpus, *fields = line.split("|")
        names = ("governor", "now_khz", "min_khz", "max_khz", "base_khz")
        policy = dict(zip(names, fields, strict=False))
        if len(policy) == len(names):
            found |= dict.fromkeys(cpu_list(cpus), policy)
    return found


def _mhz(policies: list[dict[str, str]], name: str) -> list[float]:
    return [int(p[name]) / 1000 for p in policies if p[name].isdecimal() and int(p[name])]


def _highest_mhz(policies: list[dict[str, str]], name: str) -> float | None:
    return max(_mhz(policies, name), default=None)


def _lowest_mhz(policies: list[dict[str, str]], name: str) -> float | None:
    return min(_mhz(policies, name), default=None)


def _zones(text: str) -> Iterable[ThermalZone]:
    for line in text.splitlines():
        value, _, name = line.partition(" ")
        known = re.fullmatch(r"-?\d+", value)
        yield ThermalZone(
            name=name.strip() or "unknown", temperature_c=int(value) / 1000 if known else None
        )


def _swap_areas(text: str) -> tuple[SwapArea, ...] | None:
    """Parse /proc/swaps: a header, then name, type, size and used kB. None if it is missing."""
    if not text.startswith("Filename"):
        return None
    rows = [line.split() for line in text.splitlines()[1:]]
    return tuple(
        SwapArea(
            name=row[0],
            kind="zram" if "zram" in row[0] else "partition" if row[1] == "partition" else "file",
            size_mb=int(row[2]) * 1024 / 1e6,
            used_mb=int(row[3]) * 1024 / 1e6,
        )
        for row in rows
        if len(row) >= 4 and row[2].isdecimal() and row[3].isdecimal()
    )
