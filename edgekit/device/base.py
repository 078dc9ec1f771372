"""The interface between edgekit and a device: run a program there, put and get files."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol

# Called with the number of bytes sent since the last call.
Advance = Callable[[int], None]
# The bytes, or chunks of an input that does not fit into memory.
Stdin = bytes | Iterable[bytes]
# Set for a program that edgekit waits for, and so for its children: if the connection is lost,
# the device ends what carries it (device/shell/guard).
COMMAND_VARIABLE = "EDGEKIT_COMMAND"


@dataclass(frozen=True)
class Completed:
    """A program that ended. ``returncode`` is negative for a signal, as in subprocess."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Process(Protocol):
    """A running program whose stdin and stdout are binary streams.

    It does not outlive the connection: if that is lost, the device ends the program.
    """

    stdin: IO[bytes]
    stdout: IO[bytes]

    def wait(self, timeout_s: float | None = None) -> Completed:
        """Wait for the end; ``stdout`` of the result is empty. Raises TimeoutError."""
        ...

    def kill(self) -> None:
        """End it and return once it has ended. Safe to call on a program that has ended."""
        ...


class Transport(Protocol):
    """A connection to a device. Arguments are lists; quoting is the transport's business.

    Each of run, start, put and get is one round trip. All of them raise DeviceError if the
    connection is lost.
    """

    name: str

    def run(
        self, argv: Sequence[str], *, stdin: Stdin = b"", timeout_s: float | None = None
    ) -> Completed:
        """Run a program to its end. A timeout or a lost connection ends the program.

        Raises TimeoutError, DeviceError; RunnerError if it cannot be started.
        """
        ...

    def start(self, argv: Sequence[str]) -> Process:
        """Start a program and return without waiting for its end."""
        ...

    def put(
        self,
        source: Path,
        target: PurePosixPath,
        *,
        advance: Advance | None = None,
    ) -> None:
        """Copy a file to the device.

        ``target`` is incomplete until this returns: use a temporary name. Raises DeviceError;
        StoreError with the device's message if it cannot write the file.
        """
        ...

    def own_cpu_ms(self) -> float:
        """CPU time that this thread and the ended children of this process have used on the device
        so far: 0 if the device is another machine.
        """
        ...

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Copy a file from the device."""
        ...

    def close(self) -> None:
        """End the connection and all programs that run over it. Safe to call twice."""
        ...
