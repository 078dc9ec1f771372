"""A program that the guard knows of."""

from __future__ import annotations

from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Self

from edgekit.device.ssh.channel import Channel
from edgekit.device.ssh.guard import Guard

if TYPE_CHECKING:
    from edgekit.device.ssh.link import Link


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
