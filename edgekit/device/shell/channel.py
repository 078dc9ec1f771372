"""The interface between a transport and this folder: one program on the device."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from edgekit.device.base import Completed


class Channel(Protocol):
    """A program that was requested, and its three streams.

    Every method but close raises DeviceError if the connection is lost. Methods that read or wait
    for the start also raise RunnerError if the program cannot be started.
    """

    def await_start(self) -> None:
        """Return once the program runs."""
        ...

    def has_started(self, timeout_s: float) -> bool:
        """Whether the program is known to run, or to have ended, within the time."""
        ...

    def send(self, data: bytes) -> None:
        """Write to stdin. Raises BrokenPipeError: the program has ended or closed its stdin."""
        ...

    def close_stdin(self) -> None:
        """Close stdin. Safe to call on a program that has ended."""
        ...

    def receive(self, count: int, deadline: float | None = None) -> bytes:
        """Up to ``count`` bytes of stdout, b"" at its end.

        Raises TimeoutError after ``deadline`` (time.monotonic).
        """
        ...

    def stderr(self) -> bytes:
        """The whole stderr of a program that has ended."""
        ...

    def has_ended(self) -> bool: ...

    def exit_code(self, timeout_s: float | None = None) -> int:
        """Wait for the end; negative for a signal. Raises TimeoutError."""
        ...

    def completed(self, stdout: bytes, timeout_s: float | None) -> Completed:
        """Wait for the end. Raises TimeoutError."""
        ...

    def close(self) -> None:
        """Close the channel. Safe to call twice."""
        ...


class OpenChannel(Protocol):
    """Start ``argv`` on the device with more environment variables (``NAME=value``).

    Raises DeviceError: the connection is lost, or the device refuses.
    """

    def __call__(self, argv: Sequence[str], environment: Sequence[str] = ()) -> Channel: ...
