"""A program on the device and its three streams, over one channel of a link."""

from __future__ import annotations

import secrets
import shlex
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from queue import SimpleQueue

import paramiko

from edgekit.device.base import Completed
from edgekit.device.ssh.link import OTHER_SIGNAL, Link
from edgekit.errors import DeviceError, RunnerError

# How long a login shell's start-up files may take, and what they may print.
START_LIMIT_S = 60.0
NOISE_LIMIT_BYTES = 1_000_000
# A channel's calls come back this often, to see whether their time is over.
TICK_S = 1.0
# What fits into one packet to OpenSSH: 32 KiB less its header.
PACKET_BYTES = 32_768 - 64
# How much may be on its way. OpenSSH takes 2 MB at once; a small device then drops packets, and TCP
# waits for its timers: an emulated Pi took 14 MB in 2.6 s so, in 0.7 s with this. It is enough for
# 15 MB/s over a round trip of 20 ms.
IN_FLIGHT_BYTES = 300_000
# A server that confirms nothing until more has come is given more.
CONFIRM_LIMIT_S = 0.5
# What is still on its way when a program has ended.
LAST_WORDS_S = 5.0

# $0 is the mark, the rest the command. Everything before the mark is what the login shell's
# start-up files said. Where the connection is lost by now, writing the mark ends it.
START = (
    'case $1 in */*) [ -x "$1" ] && [ ! -d "$1" ] ;; *) command -v "$1" >/dev/null 2>&1 ;; esac'
    " && state=ready || state=absent; "
    'echo "$0-$state" >&2 && echo "$0-$state" || exit 1; '
    '[ $state = ready ] || exit 127; exec "$@"'
)


class Channel:
    """Runs ``argv`` with ``environment``. Every method raises DeviceError where the connection
    is lost, and what reads also RunnerError where the program cannot be started.
    """

    def __init__(
        self, link: Link, device: str, argv: Sequence[str], environment: Sequence[str] = ()
    ) -> None:
        self._link = link
        self._device = device
        self._program = argv[0]
        self._mark = f"edgekit-{secrets.token_hex(8)}"
        self._started = threading.Event()
        self._ahead = b""
        self._is_closed = False
        self._window, self._in_flight = 0, IN_FLIGHT_BYTES
        line = ["env", "LC_ALL=C", *environment, "sh", "-c", START, self._mark, *argv]
        try:
            self._channel = link.open_session()
            self._channel.settimeout(TICK_S)
            self._channel.exec_command("exec " + shlex.join(line))
        except paramiko.ChannelException as error:
            raise DeviceError(
                f"{device} refuses another session: {error.text or error}",
                "does its sshd_config allow commands, and more than one session (MaxSessions)?",
            ) from None
        except (paramiko.SSHException, OSError, EOFError):
            raise self.lost(f"starting {self._program}") from None
        self._stderr = Drain(self._receive_stderr)

    def receive(self, count: int, deadline: float | None = None) -> bytes:
        """Up to ``count`` bytes of stdout, b"" at its end.

        Raises TimeoutError after ``deadline`` (time.monotonic).
        """
        if not self._started.is_set():
            self.await_start()
        if self._ahead:
            data, self._ahead = self._ahead[:count], self._ahead[count:]
            return data
        return self._receive(count, deadline)

    def send(self, data: bytes) -> None:
        """Raises BrokenPipeError: the program has ended or closed its stdin."""
        rest = memoryview(data)
        while rest:
            self._await_room()
            try:
                sent = self._channel.send(rest[:PACKET_BYTES])
            except TimeoutError:
                continue  # the program reads nothing now; whether its device lives, the link sees
            except (OSError, EOFError, paramiko.SSHException):
                sent = 0
            if not sent:
                if self._link.is_active() and not self._is_lost():
                    raise BrokenPipeError(f"{self._program} has ended")
                raise self.lost(f"sending to {self._program}")
            rest = rest[sent:]

    def _await_room(self) -> None:
        """Come back when what is on its way is little enough, or nothing is confirmed any more."""
        channel = self._channel
        with channel.lock:
            self._window = max(self._window, channel.out_window_size)
            until = time.monotonic() + CONFIRM_LIMIT_S
            while self._window - channel.out_window_size > self._in_flight and not channel.closed:
                if not channel.out_buffer_cv.wait(CONFIRM_LIMIT_S) or time.monotonic() > until:
                    self._in_flight *= 2

    def close_stdin(self) -> None:
        with suppress(OSError, EOFError, paramiko.SSHException):  # it has ended already
            self._channel.shutdown_write()

    def exit_code(self, timeout_s: float | None = None) -> int:
        """Wait for the end; negative for a signal. Raises TimeoutError."""
        if not self._channel.status_event.wait(timeout_s):
            raise TimeoutError(f"{self._program} ran longer than {timeout_s:g} s")
        if number := getattr(self._channel, "exit_signal", 0):
            return -number
        if self._channel.exit_status < 0:
            if self._link.is_active() and self._channel.eof_received:
                return -OTHER_SIGNAL  # dropbear says nothing of a signal that has no name
            raise self.lost(f"running {self._program}")
        return int(self._channel.exit_status)

    def stderr(self) -> bytes:
        """What an ended program said there."""
        self._stderr.join(LAST_WORDS_S)
        said = self._stderr.so_far()
        _, mark, own = said.partition(f"{self._mark}-ready\n".encode())
        return own if mark else said

    def has_ended(self) -> bool:
        return bool(self._channel.status_event.is_set())

    def completed(self, stdout: bytes, timeout_s: float | None) -> Completed:
        """Wait for the end. Raises TimeoutError, and RunnerError where it could not be started."""
        code, stderr = self.exit_code(timeout_s), self.stderr()
        # the shell calls itself by $0, which is the mark
        if code in (126, 127) and stderr.startswith(f"{self._mark}:".encode()):
            raise self._cannot_start(stderr.decode(errors="replace").strip().rpartition(": ")[2])
        return Completed(code, stdout, stderr)

    def close(self) -> None:
        self._is_closed = True
        with suppress(OSError, EOFError, paramiko.SSHException):
            self._channel.close()

    def lost(self, doing: str) -> DeviceError:
        if self._link.is_active() and not self._is_lost():
            return DeviceError(f"{self._device} broke off while {doing}, and did not say why")
        return DeviceError(
            f"the connection to {self._device} was lost while {doing}: {self._link.reason}",
            "is the device still on, and its network? Everything that ran there is ended",
        )

    def _is_lost(self) -> bool:
        return self._channel.closed and not (self._channel.eof_received or self._is_closed)

    def await_start(self) -> None:
        """Come back when the program runs. Raises RunnerError where it cannot."""
        deadline = time.monotonic() + START_LIMIT_S
        ready, absent = (f"{self._mark}-{state}\n".encode() for state in ("ready", "absent"))
        seen = b""
        while ready not in seen and absent not in seen:
            try:
                data = self._receive(4096, deadline)
            except TimeoutError:
                raise self._no_start(seen, f"nothing after {START_LIMIT_S:g} s") from None
            seen += data
            if not data or len(seen) > NOISE_LIMIT_BYTES:
                raise self._no_start(seen, "nothing")
        self._started.set()
        if absent in seen:
            raise self._cannot_start("it is not there, or may not be executed")
        self._ahead = seen.partition(ready)[2]

    def has_started(self, timeout_s: float) -> bool:
        """Whether somebody read that it runs, or will until then."""
        return self._channel.closed or self._started.wait(timeout_s)

    def _cannot_start(self, why: str) -> RunnerError:
        return RunnerError(
            f"{self._program} cannot be started on {self._device}: {why}",
            "is it executable (chmod +x), and does its file system allow programs (no noexec)?",
        )

    def _no_start(self, seen: bytes, otherwise: str) -> DeviceError:
        text = (seen + b"\n" + self._stderr.so_far()).decode(errors="replace").split("\n")
        said = " ".join(line.strip() for line in text if line.strip())[:300]
        return DeviceError(
            f"{self._device} lets us in, but its login shell runs no command: it said"
            f" {repr(said) if said else otherwise}",
            "edgekit needs a POSIX shell there: ssh DEVICE true must work, with exit code 0",
        )

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
                raise self.lost(f"running {self._program}")
            return data


class Drain(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        super().__init__(daemon=True, name="edgekit-ssh-drain")
        self._receive = receive
        self._parts: list[bytes] = []
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            while data := self._receive(1 << 16):
                self._parts.append(data)
        except Exception as error:
            self._error = error

    def so_far(self) -> bytes:
        return b"".join(self._parts)

    def result(
        self,
        timeout_s: float | None,
        meanwhile: Callable[[], None],
        has_ended: Callable[[], bool],
    ) -> bytes:
        """All of it. Raises TimeoutError, what ended the reading, and what ``meanwhile`` raises,
        which is called now and then.

        Where the program has ended and nothing has come for LAST_WORDS_S, something that it
        started holds the stream open, a service say: that is not waited for.
        """
        end = time.monotonic() + (timeout_s if timeout_s is not None else float("inf"))
        parts, since = -1, time.monotonic()
        while self.is_alive():
            meanwhile()
            if time.monotonic() >= end:
                raise TimeoutError
            if len(self._parts) != parts or not has_ended():
                parts, since = len(self._parts), time.monotonic()
            elif time.monotonic() - since > LAST_WORDS_S:
                break
            self.join(min(TICK_S, max(0.0, end - time.monotonic())))
        meanwhile()
        if self._error:
            raise self._error
        return self.so_far()


class Feeder(threading.Thread):
    """Sends to a program's stdin and closes it. ``chunks``: bytes, and how much of the source
    each stands for. Where they break off, stdin is not closed: half is not the whole.

    In a thread of its own: an interruption must not cut a packet in two.
    """

    def __init__(self, channel: Channel, chunks: Iterable[tuple[bytes, int]]) -> None:
        super().__init__(daemon=True, name="edgekit-ssh-feeder")
        self._channel = channel
        self._chunks = chunks
        self._sent: SimpleQueue[int | None] = SimpleQueue()
        self._error: Exception | None = None
        self.start()

    def run(self) -> None:
        try:
            for data, count in self._chunks:
                self._channel.send(data)
                self._sent.put(count)
            self._channel.close_stdin()
        except BrokenPipeError:
            pass  # the program ended; its exit code tells whether that is well
        except Exception as error:
            self._error = error
        self._sent.put(None)

    def progress(self) -> Iterator[int]:
        """What was sent, as it is. Raises what ended the sending."""
        while (count := self._sent.get()) is not None:
            yield count
        self.check()

    def check(self) -> None:
        """Raise what ended the sending, if anything did."""
        if self._error:
            raise self._error
