"""One POSIX shell script that prints everything the parsers want, in named sections."""

from __future__ import annotations

from edgekit.device.base import Transport

MARK = "@@edgekit "

# Read-only, no tool beyond a shell and cat; what a device does not have is an empty section.
SCRIPT = r"""
section() { printf '\n@@edgekit %s\n' "$1"; }
show() { section "$1"; shift; for f in "$@"; do [ -r "$f" ] && cat "$f" 2>/dev/null && echo; done; }
section uname; uname -s -r -m 2>/dev/null
show cpuinfo /proc/cpuinfo
show meminfo /proc/meminfo
show loadavg /proc/loadavg
show os_release /etc/os-release
show model /sys/firmware/devicetree/base/model
show compatible /sys/firmware/devicetree/base/compatible
show dmi_vendor /sys/class/dmi/id/sys_vendor
show clocksources /sys/devices/system/clocksource/clocksource0/available_clocksource
show governor /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_governor
show frequency_khz /sys/devices/system/cpu/cpu[0-9]*/cpufreq/scaling_cur_freq
show temperature /sys/class/thermal/thermal_zone0/temp
exit 0
"""


def probe(transport: Transport) -> dict[str, str]:
    """Run the script on the device; its sections by name."""
    done = transport.run(["sh", "-c", SCRIPT], timeout_s=30)
    return split_sections(done.stdout.decode(errors="replace"))


def split_sections(text: str) -> dict[str, str]:
    sections: dict[str, str] = {}
    for block in text.replace("\0", "\n").split("\n" + MARK)[1:]:
        name, _, body = block.partition("\n")
        sections[name] = body.strip()
    return sections
