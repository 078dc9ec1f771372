"""A program on the device and its three streams, over one channel of a link."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress

import paramiko

from edgekit.device.base import Completed
from edgekit.device.shell.start import Start
from edgekit.device.shell.streams import LAST_OUTPUT_S, TICK_S, Drain
from edgekit.device.ssh.link import Link
from edgekit.device.ssh.paramiko_private import OTHER_SIGNAL
from edgekit.errors import DeviceError

# The data of one packet to OpenSSH: 32 KiB less its header.
PACKET_BYTES = 32_768 - 64
# How many bytes may be unconfirmed. OpenSSH accepts 2 MB, but then a small device drops packets,
# and TCP waits for its timers: an emulated Pi took 2.6 s for 14 MB, and 0.7 s with this limit.
# The limit allows 15 MB/s at a round trip of 20 ms.
IN_FLIGHT_BYTES = 300_000
# If a server confirms nothing for so long, the limit is doubled.
CONFIRM_LIMIT_S = 0.5


class SshChannel:
    """Runs ``argv`` with ``environment``. Implements device/shell/channel.Channel."""

    def __init__(
        self, link: Link, device: str, argv: Sequence[str], environment: Sequence[str] = ()
    ) -> None:
        self._link = link
        self._device = device
        self._program = argv[0]
        self._start = Start(device, argv[0])
        self._ahead = b""
        self._is_closed = False
        self._window, self._in_flight = 0, IN_FLIGHT_BYTES
        try:
            self._channel = link.open_session()
            self._channel.settimeout(TICK_S)
            self._channel.exec_command(self._start.line(argv, environment))
        except paramiko.ChannelException as error:
            raise DeviceError(
                f"{device} refuses another session: {error.text or error}",
                "does its sshd_config allow commands, and more than one session (MaxSessions)?",
            ) from None
        except (paramiko.SSHException, OSError, EOFError):
            raise self._lost_error(f"starting {self._program}") from None
        self._stderr = Drain(self._receive_stderr)

    def await_start(self) -> None:
        self._ahead = self._start.wait(self._receive, self._stderr.so_far)

    def has_started(self, timeout_s: float) -> bool:
        return self._channel.closed or self._start.is_over(timeout_s)

    def receive(self, count: int, deadline: float | None = None) -> bytes:
        if not self._start.is_over():
            self.await_start()
        if self._ahead:
            data, self._ahead = self._ahead[:count], self._ahead[count:]
            return data
        return self._receive(count, deadline)

    def send(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:
            self._await_room()
            try:
                sent = self._channel.send(rest[:PACKET_BYTES])
            except TimeoutError:
                continue  # the program does not read now; the link detects a dead device
            except (OSError, EOFError, paramiko.SSHException):
                sent = 0
            if not sent:
                if self._link.is_active() and not self._is_lost():
                    raise BrokenPipeError(f"{self._program} has ended")
                raise self._lost_error(f"sending to {self._program}")
            rest = rest[sent:]

    def close_stdin(self) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):  # it has ended already
            self._channel.shutdown_write()

    def has_ended(self) -> bool:
        return bool(self._channel.status_event.is_set())

    def exit_code(self, timeout_s: float | None = None) -> int:
        if not self._channel.status_event.wait(timeout_s):
            raise TimeoutError(f"{self._program} ran longer than {timeout_s:g} s")
        if number := getattr(self._channel, "exit_signal", 0):
            return -number
        if self._channel.exit_status < 0:
            if self._link.is_active() and self._channel.eof_received:
                return -OTHER_SIGNAL  # dropbear reports nothing for a signal without a name
            raise self._lost_error(f"running {self._program}")
        return int(self._channel.exit_status)

    def stderr(self) -> bytes:
        self._stderr.join(LAST_OUTPUT_S)
        return self._start.own_stderr(self._stderr.so_far())

    def completed(self, stdout: bytes, timeout_s: float | None) -> Completed:
        code, stderr = self.exit_code(timeout_s), self.stderr()
        self._start.check(code, stderr)
        return Completed(code, stdout, stderr)

    def close(self) -> None:
        self._is_closed = True
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()

    def _await_room(self) -> None:
        """Wait until few bytes are unconfirmed, or raise the limit if none are confirmed."""
        channel = self._channel
        with channel.lock:
            self._window = max(self._window, channel.out_window_size)
            until = time.monotonic() + CONFIRM_LIMIT_S
            while self._window - channel.out_window_size > self._in_flight and not channel.closed:
                if not channel.out_buffer_cv.wait(CONFIRM_LIMIT_S) or time.monotonic() > until:
                    self._in_flight *= 2

    def _lost_error(self, doing: str) -> DeviceError:
        if self._link.is_active() and not self._is_lost():
            return DeviceError(f"{self._device} closed the channel while {doing}, without a reason")
        return DeviceError(
            f"the connection to {self._device} was lost while {doing}: {self._link.reason}",
            "are the device and its network still on? The device ends all programs of edgekit",
        )

    def _is_lost(self) -> bool:
        return self._channel.closed and not (self._channel.eof_received or self._is_closed)

    def _receive(self, count: int, deadline: float | None) -> bytes:
        return self._read(self._channel.recv, count, deadline)

    def _receive_stderr(self, count: int) -> bytes:
        return self._read(self._channel.recv_stderr, count, None)

    def _read(self, receive: Callable[[int], bytes], count: int, deadline: float | None) -> bytes:
        while True:
            try:
                data = receive(count)
            except TimeoutError:
                if deadline is not None and time.monotonic() > deadline:
                    raise
                continue
            if not data and self._is_lost():
                raise self._lost_error(f"running {self._program}")
            return data
