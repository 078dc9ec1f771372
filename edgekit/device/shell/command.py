"""A program that is registered with the guard."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import Self

from edgekit.device.shell.channel import OpenChannel
from edgekit.device.shell.guard import Guard

# How long to wait for the start of a program that is to be ended: before it, the guard cannot
# find the program.
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
        """Unregister a program that has ended by itself."""
        if not self._is_over:
            self._is_over = True
            self._guard.done(self._id)
            self.channel.close()

    def end(self) -> None:
        """End the program and return once it has ended."""
        if not self._is_over:
            if not self.channel.has_started(START_WAIT_S):
                self.channel.close()  # a program that starts later fails to write its mark
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
