"""The seam between edgekit and a device: run a program there, put and get files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

# Told how many more bytes were sent.
Advance = Callable[[int], None]
# All at once, or piece by piece: what does not fit into memory.
Stdin = bytes | Iterable[bytes]


@dataclass(frozen=True)
class Completed:
    """A program that ended. ``returncode`` is negative for a signal, as subprocess has it."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Process(Protocol):
    """A running program whose stdin and stdout are binary streams.

    It does not outlive the connection: where that is lost, the device ends the program.
    """

    stdin: IO[bytes]
    stdout: IO[bytes]

    def wait(self, timeout_s: float | None = None) -> Completed:
        """Wait for the end; ``stdout`` of the result is empty. Raises TimeoutError."""
        ...

    def kill(self) -> None:
        """End it now, and only return when it has; safe to call on one that has ended."""
        ...


class Transport(Protocol):
    """A connection to a device. Arguments are lists; quoting is the transport's business.

    Each of run, start, put and get is one round trip. All of them raise DeviceError where the
    device cannot be reached any more.
    """

    name: str

    def run(
        self, argv: Sequence[str], *, stdin: Stdin = b"", timeout_s: float | None = None
    ) -> Completed:
        """Run a program to its end. It is ended where the time or the connection ends first.

        Raises TimeoutError, DeviceError; RunnerError where it cannot be started.
        """
        ...

    def start(self, argv: Sequence[str]) -> Process:
        """Start a program and talk to it."""
        ...

    def put(
        self,
        source: Path,
        target: PurePosixPath,
        *,
        advance: Advance | None = None,
    ) -> None:
        """Copy a file to the device.

        ``target`` is not there whole before this returns: write to a temporary name.
        Raises DeviceError; StoreError with the device's words where it cannot write the file.
        """
        ...

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Copy a file from the device."""
        ...

    def close(self) -> None:
        """End the connection and all that runs over it; safe to call twice."""
        ...
