"""The seam between edgekit and a device: run a program there, put and get files."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Protocol


@dataclass(frozen=True)
class Completed:
    """A program that ended. ``returncode`` is negative for a signal, as subprocess has it."""

    returncode: int
    stdout: bytes
    stderr: bytes


class Process(Protocol):
    """A running program whose stdin and stdout are binary streams."""

    stdin: IO[bytes]
    stdout: IO[bytes]

    def wait(self, timeout_s: float | None = None) -> Completed:
        """Wait for the end; ``stdout`` of the result is empty. Raises TimeoutError."""
        ...

    def kill(self) -> None:
        """End it now; safe to call on one that has ended."""
        ...


class Transport(Protocol):
    """A connection to a device. Arguments are lists; quoting is the transport's business."""

    name: str

    def run(
        self, argv: Sequence[str], *, stdin: bytes = b"", timeout_s: float | None = None
    ) -> Completed:
        """Run a program to its end. Raises TimeoutError, DeviceError."""
        ...

    def start(self, argv: Sequence[str]) -> Process:
        """Start a program and talk to it."""
        ...

    def put(self, source: Path, target: PurePosixPath) -> None:
        """Copy a file to the device."""
        ...

    def get(self, source: PurePosixPath, target: Path) -> None:
        """Copy a file from the device."""
        ...

    def scratch(self) -> AbstractContextManager[PurePosixPath]:
        """A folder on the device that is gone afterwards."""
        ...
