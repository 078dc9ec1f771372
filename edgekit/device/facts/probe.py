"""One POSIX shell script that prints all that the parsers need, in named sections."""

from __future__ import annotations

from edgekit.device.base import Transport
from edgekit.device.facts.parse import parse_environment
from edgekit.device.facts.shell import PRELUDE
from edgekit.documents.environment import DeviceEnvironment
from edgekit.errors import DeviceError

LIMIT_S = 60.0

MARK = "@@edgekit "

# Read-only; needs only a shell, cat and uname. A section is empty if the device lacks its source.
SCRIPT = (
    PRELUDE
    + r"""
section() { printf '\n@@edgekit %s\n' "$1"; }
show() { section "$1"; shift; for file; do [ -r "$file" ] && cat "$file" && echo; done; }
policy() { section "$1"; each "$2"; echo "$values"; }
section uname; uname -s -r -m
show cpuinfo proc/cpuinfo
show meminfo proc/meminfo
show loadavg proc/loadavg
show uptime proc/uptime
show os_release etc/os-release
show model sys/firmware/devicetree/base/model
show compatible sys/firmware/devicetree/base/compatible
show dmi_vendor sys/class/dmi/id/sys_vendor
show dmi_product sys/class/dmi/id/product_name
show clocksources sys/devices/system/clocksource/clocksource0/available_clocksource
policy governor scaling_governor
policy frequency_khz scaling_cur_freq
policy limit_khz scaling_max_freq
policy max_khz cpuinfo_max_freq
policy base_khz base_frequency
section temperature; temperatures; echo "$values"
firmware
section throttled; echo "$throttled"
section clock; echo "$clock"
section stat
while read -r key rest; do
  case $key in cpu|btime) echo "$key $rest" ;; esac
done <proc/stat
exit 0
"""
)


def environment_of(transport: Transport) -> DeviceEnvironment:
    """The state of a device now. Raises DeviceError, also if the script takes too long."""
    try:
        return parse_environment(probe(transport))
    except TimeoutError:
        raise DeviceError(
            f"{transport.name} did not report its state within {LIMIT_S:g} s",
            "is it overloaded, or is its disk failing?",
        ) from None


def probe(transport: Transport, root: str = "/") -> dict[str, str]:
    """Run the script on the device: section name -> text. ``root`` replaces the device's /."""
    done = transport.run(["sh", "-c", SCRIPT, "edgekit-probe", root], timeout_s=LIMIT_S)
    return split_sections(done.stdout.decode(errors="replace"))


def split_sections(text: str) -> dict[str, str]:
    sections: dict[str, str] = {}
    for block in text.replace("\0", "\n").split("\n" + MARK)[1:]:
        name, _, body = block.partition("\n")
        sections[name] = body.strip()
    return sections
