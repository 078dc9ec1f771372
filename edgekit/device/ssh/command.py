"""A program that the guard knows of."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from edgekit.device.ssh.channel import Channel
from edgekit.device.ssh.guard import Guard
from edgekit.device.ssh.link import Link

# How long an ended command may take to start before: the guard finds it when it has.
START_WAIT_S = 2.0


class Command:
    """Starts ``argv``. Left by an exception, it is ended on the device before that goes on."""

    def __init__(self, link: Link, guard: Guard, device: str, argv: Sequence[str]) -> None:
        self._guard = guard
        self._is_over = False
        self._id = guard.begin()
        try:
            self.channel = Channel(link, device, argv, guard.environment(self._id))
        except BaseException:
            guard.end(self._id)
            raise

    def done(self) -> None:
        """It has ended by itself."""
        if not self._is_over:
            self._is_over = True
            self._guard.done(self._id)
            self.channel.close()

    def end(self) -> None:
        """End it; comes back when it has ended."""
        if not self._is_over:
            if not self.channel.has_started(START_WAIT_S):
                self.channel.close()  # what starts now, ends at its mark
            self._guard.end(self._id)
            self._is_over = True
            self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.done()
        else:
            self.end()
