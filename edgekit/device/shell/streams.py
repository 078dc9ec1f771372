"""Threads that read and feed the streams of a program on a device."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from queue import SimpleQueue

from edgekit.device.shell.channel import Channel

# How often a waiting thread checks its deadline.
TICK_S = 1.0
# How long to wait for output that is still on its way when a program has ended.
LAST_OUTPUT_S = 5.0


class Drain(threading.Thread):
    """Reads a stream to its end."""

    def __init__(self, receive: Callable[[int], bytes]) -> None:
        super().__init__(daemon=True, name="edgekit-drain")
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
        """The whole stream. ``meanwhile`` is called repeatedly while waiting.

        A service that the program started may hold the stream open. So this also returns when the
        program has ended and nothing has come for LAST_OUTPUT_S. Raises TimeoutError, the error
        that ended the reading, and what ``meanwhile`` raises.
        """
        end = time.monotonic() + (timeout_s if timeout_s is not None else float("inf"))
        parts, since = -1, time.monotonic()
        while self.is_alive():
            meanwhile()
            if time.monotonic() >= end:
                raise TimeoutError
            if len(self._parts) != parts or not has_ended():
                parts, since = len(self._parts), time.monotonic()
            elif time.monotonic() - since > LAST_OUTPUT_S:
                break
            self.join(min(TICK_S, max(0.0, end - time.monotonic())))
        meanwhile()
        if self._error:
            raise self._error
        return self.so_far()


class Feeder(threading.Thread):
    """Sends to a program's stdin and closes it.

    ``chunks``: bytes, and the size of the part of the source that they encode. If the iterator
    fails, stdin stays open: the program must not accept an incomplete input. It is a thread so
    that an interruption cannot cut a packet in two.
    """

    def __init__(self, channel: Channel, chunks: Iterable[tuple[bytes, int]]) -> None:
        super().__init__(daemon=True, name="edgekit-feeder")
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
            pass  # the program ended; its exit code shows whether that is an error
        except Exception as error:
            self._error = error
        self._sent.put(None)

    def progress(self) -> Iterator[int]:
        """The size of each chunk once it is sent. Raises the error that ended the sending."""
        while (count := self._sent.get()) is not None:
            yield count
        self.check()

    def check(self) -> None:
        """Raise the error that ended the sending, if any."""
        if self._error:
            raise self._error
