"""A canary: a fixed piece of work, counted on the device before and after timed runs.

A device whose clock falls, or whose host takes its time away, does less of it afterwards, also
where nothing else reports that.
"""

from __future__ import annotations

from edgekit.device.base import Transport

LIMIT_S = 20.0

# Counts how often a short loop runs in a tenth of a second, four times; the first warms up. The
# time is that of /proc/uptime, in steps of 10 ms: a window begins at the edge of a step.
SCRIPT = r"""
exec 2>/dev/null
now() { read -r up rest </proc/uptime && up=${up%.*}${up#*.}; }
window() {
  now; start=$up
  while [ "$up" = "$start" ]; do now; done
  end=$((up + 10)); count=0
  while [ "$up" -lt "$end" ]; do
    i=0; while [ $i -lt 25 ]; do i=$((i + 1)); done
    count=$((count + 1)); now
  done
}
now || exit 0
window
for number in 1 2 3; do window; echo $count; done
"""


def sing(transport: Transport) -> int | None:
    """The work that the device does in a tenth of a second: the best of three. Takes 0.4 s.

    None if the device cannot be asked. Raises DeviceError if the connection is lost.
    """
    try:
        done = transport.run(["sh", "-c", SCRIPT, "edgekit-canary"], timeout_s=LIMIT_S)
    except TimeoutError:
        return None
    counts = [int(word) for word in done.stdout.split() if word.isdigit()]
    return max(counts, default=0) or None


def speed_ratio(before: int | None, after: int | None) -> float | None:
    """The speed after the runs to that before them."""
    return after / before if before and after else None
