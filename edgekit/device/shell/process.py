"""A running program on the device, with stdin and stdout as file objects."""

from __future__ import annotations

import io
from contextlib import suppress
from typing import IO, Any, cast

from edgekit.device.base import Completed
from edgekit.device.shell.channel import Channel
from edgekit.device.shell.command import Command
from edgekit.errors import DeviceError

BUFFER_BYTES = 1 << 18


class RemoteProcess:
    """Implements device/base.Process."""

    def __init__(self, command: Command) -> None:
        self._command = command
        self.stdin = cast(IO[bytes], io.BufferedWriter(_Stdin(command.channel), BUFFER_BYTES))
        self.stdout = cast(IO[bytes], io.BufferedReader(_Stdout(command.channel), BUFFER_BYTES))

    def wait(self, timeout_s: float | None = None) -> Completed:
        done = self._command.channel.completed(b"", timeout_s)
        self._command.done()
        self._close()
        return done

    def kill(self) -> None:
        self._command.end()
        self._close()

    def _close(self) -> None:
        with suppress(BrokenPipeError, DeviceError):  # buffered input of an ended program
            self.stdin.close()


class _Stdin(io.RawIOBase):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self._channel.send(bytes(data))
        return len(data)

    def close(self) -> None:
        if not self.closed:
            self._channel.close_stdin()
        super().close()


class _Stdout(io.RawIOBase):
    def __init__(self, channel: Channel) -> None:
        self._channel = channel

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        data = self._channel.receive(len(buffer))
        buffer[: len(data)] = data
        return len(data)
