"""A program that the guard knows of."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from edgekit.device.shell.channel import OpenChannel
from edgekit.device.shell.guard import Guard

# The guard finds a program only once it has started: how long to wait for that before ending it.
START_WAIT_S = 2.0


class Command:
    """Starts ``argv``. As a context, an exception ends the program before it propagates."""

    def __init__(self, open_channel: OpenChannel, guard: Guard, argv: Sequence[str]) -> None:
        self._guard = guard
        self._is_over = False
        self._id = guard.begin()
        try:
            self.channel = open_channel(argv, guard.environment(self._id))
        except BaseException:
            guard.end(self._id)
            raise

    def done(self) -> None:
        """Forget it: it has ended by itself."""
        if not self._is_over:
            self._is_over = True
            self._guard.done(self._id)
            self.channel.close()

    def end(self) -> None:
        """End it; return when it has ended."""
        if not self._is_over:
            if not self.channel.has_started(START_WAIT_S):
                self.channel.close()  # a program that starts now ends at its mark
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
