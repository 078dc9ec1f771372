"""The methods of device/base.Transport over a remote shell. The device needs no SFTP."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path, PurePosixPath
from typing import IO

from edgekit.device.base import Advance, Completed, Stdin
from edgekit.device.shell.channel import Channel, OpenChannel
from edgekit.device.shell.command import Command
from edgekit.device.shell.guard import Guard
from edgekit.device.shell.process import RemoteProcess
from edgekit.device.shell.streams import Drain, Feeder
from edgekit.errors import StoreError

SOURCE = 'exec cat < "$1"'
READ_BYTES = 1 << 19


class ShellTransport:
    """A transport over programs that ``open_channel`` starts on the device ``name``.

    Raises DeviceError. A subclass owns the connection and closes it after this transport.
    """

    def __init__(self, name: str, open_channel: OpenChannel) -> None:
        self.name = name
        self._open_channel = open_channel
        self._guard = Guard(open_channel)

    def run(
        self, argv: Sequence[str], *, stdin: Stdin = b"", timeout_s: float | None = None
    ) -> Completed:
        until = None if timeout_s is None else time.monotonic() + timeout_s
        try:
            with self._open(argv) as command:
                feeder = Feeder(command.channel, _split(stdin))
                channel = command.channel
                output = Drain(channel.receive)
                stdout = output.result(_remaining_s(until), feeder.check, channel.has_ended)
                return channel.completed(stdout, _remaining_s(until))
        except TimeoutError:
            raise TimeoutError(f"{argv[0]} ran longer than {timeout_s} s") from None

    def start(self, argv: Sequence[str]) -> RemoteProcess:
        command = self._open(argv)
        try:
            command.channel.await_start()
        except BaseException:
            command.end()
            raise
        return RemoteProcess(command)

    def put(
        self,
        source: Path,
        target: PurePosixPath,
        *,
        advance: Advance | None = None,
    ) -> None:
        argv = ["dd", f"of={target}", "bs=65536", "status=none"]
        with source.open("rb") as file, self._open(argv) as command:
            command.channel.await_start()
            feeder = Feeder(command.channel, _read(file))
            for count in feeder.progress():
                if advance:
                    advance(count)
            self._finish(command.channel, f"{target} cannot be written on {self.name}")

    def get(self, source: PurePosixPath, target: Path) -> None:
        argv = ["sh", "-c", SOURCE, "edgekit-get", str(source)]
        handle, draft = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name}.")
        try:
            with os.fdopen(handle, "wb") as file, self._open(argv) as command:
                command.channel.close_stdin()
                while data := command.channel.receive(1 << 18):
                    file.write(data)
                self._finish(command.channel, f"{source} cannot be read on {self.name}")
            Path(draft).replace(target)
        finally:
            with suppress(FileNotFoundError):
                Path(draft).unlink()

    def own_cpu_ms(self) -> float:
        return 0.0

    def close(self) -> None:
        self._guard.close()

    def _open(self, argv: Sequence[str]) -> Command:
        return Command(self._open_channel, self._guard, argv)

    def _finish(self, channel: Channel, failure: str) -> None:
        if channel.exit_code() != 0:
            message = channel.stderr().decode(errors="replace").strip()
            raise StoreError(f"{failure}: {message.rpartition(': ')[2] or 'no reason was given'}")


def _remaining_s(until: float | None) -> float | None:
    return None if until is None else max(0.0, until - time.monotonic())


def _split(stdin: Stdin) -> Iterator[tuple[bytes, int]]:
    for data in [stdin] if isinstance(stdin, bytes) else stdin:
        yield data, len(data)


def _read(file: IO[bytes]) -> Iterator[tuple[bytes, int]]:
    while data := file.read(READ_BYTES):
        yield data, len(data)
