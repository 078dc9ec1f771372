"""Samples of a device's state while runs are timed, from one light process on the device."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import chain, repeat
from threading import Event, Thread

from edgekit.device.base import Process, Transport
from edgekit.device.facts.parse import parse_state
from edgekit.device.facts.shell import PRELUDE
from edgekit.documents.environment import DeviceState
from edgekit.errors import EdgekitError

# Prints one line for each line of stdin. The client keeps the time: the device's shell does not
# start `sleep` or any other process, and waits in `read` between two ticks. When the client or
# the connection ends, stdin ends, and so does the loop.
SCRIPT = (
    PRELUDE
    + r"""
while read -r tick; do
  read -r stat <proc/stat
  memory=
  while read -r key value unit; do
    case $key in
      MemAvailable:|SwapTotal:) memory="$memory$key $value $unit;" ;;
      SwapFree:) memory="$memory$key $value $unit"; break ;;
    esac
  done <proc/meminfo
  read -r load <proc/loadavg
  each scaling_cur_freq; frequencies=$values
  each scaling_max_freq; limits=$values
  temperatures
  firmware
  printf 'stat %s|meminfo %s|loadavg %s|frequency_khz %s|limit_khz %s|temperature %s|throttled %s|clock %s\n' \
    "$stat" "$memory" "$load" "$frequencies" "$limits" "$values" "$throttled" "$clock" || exit
done
"""  # noqa: E501
)

# The first intervals are shorter, because short runs end within the first second.
RAMP_S = (0.1, 0.2, 0.4)
# How long the device may take to answer before the watch ends.
ANSWER_S = 5.0


class Watch:
    """The samples so far; complete after the ``with`` block. ``own_cpu_ms``: what edgekit itself
    has used on the device in the block (Transport.own_cpu_ms).
    """

    own_cpu_ms: float = 0.0

    def __init__(self, process: Process, every_s: float, own_cpu_ms: Callable[[], float]) -> None:
        self._process = process
        self._every_s = every_s
        self._read_own_ms = own_cpu_ms
        self._own_before_ms = 0.0
        self._samples: list[DeviceState] = []
        self._first = Event()
        self._stopping = Event()
        self._thread = Thread(target=self._sample, name="edgekit-watch", daemon=True)

    @property
    def samples(self) -> tuple[DeviceState, ...]:
        return tuple(self._samples)

    def begin(self) -> None:
        """Return after the first sample, so that the shell's start does not disturb timed runs."""
        self._thread.start()
        self._first.wait(ANSWER_S)
        self._own_before_ms = self._read_own_ms()

    def end(self) -> None:
        """Take the last sample and end the process."""
        self.own_cpu_ms = self._read_own_ms() - self._own_before_ms
        self._stopping.set()
        self._thread.join(ANSWER_S)
        with suppress(OSError):  # it has ended
            self._process.stdin.close()
        with suppress(TimeoutError, EdgekitError):
            self._process.wait(timeout_s=ANSWER_S)
        self._process.kill()

    def _sample(self) -> None:
        # a watch that fails gives fewer samples, but must not fail the measurement
        with suppress(OSError, ValueError, EdgekitError):
            for pause_s in chain(RAMP_S, repeat(self._every_s)):
                self._take()
                self._first.set()
                if self._stopping.wait(pause_s):
                    self._take()
                    break
        self._first.set()

    def _take(self) -> None:
        self._process.stdin.write(b"\n")
        self._process.stdin.flush()
        line = self._process.stdout.readline()
        if not line.endswith(b"\n"):
            raise EdgekitError("the watch on the device has ended")
        self._samples.append(parse_sample(line.decode(errors="replace")))


@contextmanager
def watch(transport: Transport, every_s: float = 1.0, root: str = "/") -> Iterator[Watch]:
    """Sample a device's state at the block's start, every ``every_s`` seconds, and at its end.

    >>> with watch(transport) as watching:
    ...     report = measure(...)
    >>> watching.samples

    Raises DeviceError if the watch cannot be started. A watch that fails later gives fewer
    samples and no error. ``root`` replaces the device's /.
    """
    process = transport.start(["sh", "-c", SCRIPT, "edgekit-watch", root])
    watching = Watch(process, every_s, transport.own_cpu_ms)
    try:
        watching.begin()
        yield watching
    finally:
        watching.end()


def parse_sample(line: str) -> DeviceState:
    """Parse one line of the script: sections as in the probe, separated by bars."""
    sections: dict[str, str] = {}
    for part in line.strip().split("|"):
        name, _, body = part.partition(" ")
        sections[name] = body.replace(";", "\n").strip()
    return parse_state(sections)
