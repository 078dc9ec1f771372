"""A device that is a folder on this host: any shell, every round trip counted, faults on demand."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence

from edgekit.device.base import Completed, Stdin
from edgekit.device.local import LocalProcess, LocalTransport
from edgekit.errors import DeviceError


class TransportDouble(LocalTransport):
    """``shell`` stands in for every ``sh``; ``edit`` may change a script's text before it runs.

    ``break_after``: the connection is lost when so many bytes of an upload are on the device;
    ``garble``: a byte near the end of an upload arrives changed.
    """

    name = "double"

    def __init__(self, shell: Sequence[str] = ("sh",)) -> None:
        self.shell = list(shell)
        self.edit: Callable[[str], str] = lambda text: text
        self.round_trips = 0
        self.sent_bytes = 0
        self.break_after: int | None = None
        self.garble = False

    def run(
        self, argv: Sequence[str], *, stdin: Stdin = b"", timeout_s: float | None = None
    ) -> Completed:
        self.round_trips += 1
        upload = not isinstance(stdin, bytes)
        data = b"".join(stdin) if upload else stdin
        if upload and self.garble:
            data = data[:-30] + bytes([data[-30] ^ 1]) + data[-29:]
        if upload and self.break_after is not None:
            super().run(self._translated(argv), stdin=data[: self.break_after])
            raise DeviceError("the connection was lost")
        self.sent_bytes += len(data)
        return super().run(self._translated(argv), stdin=data, timeout_s=timeout_s)

    def start(self, argv: Sequence[str]) -> LocalProcess:
        self.round_trips += 1
        return super().start(self._translated(argv))

    def _translated(self, argv: Sequence[str]) -> list[str]:
        if argv[0] != "sh":
            return list(argv)
        return [*self.shell, argv[1], self.edit(argv[2]), *argv[3:]]


def available_shells() -> list[list[str]]:
    """The shells that devices have, as far as this host has them too."""
    wanted = (["dash"], ["busybox", "sh"], ["bash", "--posix"])
    return [shell for shell in wanted if shutil.which(shell[0])]
