"""One SSH connection. It detects a silent peer and reports why the connection ended."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from edgekit.device.ssh.options import HostOptions
from edgekit.device.ssh.paramiko_private import Transport
from edgekit.errors import DeviceError

# paramiko's threads log errors that edgekit reports; without a handler Python prints them.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

HANDSHAKE_LIMIT_S = 30.0
PROMPT_LIMIT_S = 120.0


class Link(Transport):
    """A connection over ``sock``.

    ``host_key_algorithms``: to request, best first. ``via``: the link that carries ``sock``.
    """

    def __init__(
        self, sock: Any, host_key_algorithms: Sequence[str], via: Link | None = None
    ) -> None:
        super().__init__(sock)
        self.prefer("keys", host_key_algorithms)
        self._via = via
        self._watcher: _Watch | None = None
        self._end_reason: str | None = None
        self.banner_timeout = self.handshake_timeout = HANDSHAKE_LIMIT_S
        self.auth_timeout = self.channel_timeout = PROMPT_LIMIT_S

    def restrict(self, options: HostOptions) -> None:
        """Offer only the algorithms that the options allow. Raises DeviceError if none is left."""
        self.use_compression(options.compression)
        for what, names in options.algorithms.items():
            available = getattr(self, f"preferred_{what}")
            # host keys are in order already: the known ones first
            order = available if what == "keys" else names
            allowed = [name for name in order if name in names and name in available]
            if not allowed:
                raise DeviceError(
                    f"the ssh configuration of {options.alias} allows only {','.join(names)}:"
                    " edgekit supports none of these"
                )
            self.prefer(what, allowed)

    def watch(self, interval_s: float, count: int, give_up: Callable[[], None]) -> None:
        """From now on, call ``give_up`` if the peer is silent.

        After ``interval_s`` without data the peer is asked for an answer, up to ``count`` times,
        once per interval. It is silent if it answers none.
        """
        self._watcher = _Watch(self, interval_s, count, give_up)
        self._watcher.start()

    def close(self) -> None:
        if self._watcher:
            self._watcher.stop()
        super().close()
        with suppress(Exception):
            self.packetizer.complete_handshake()  # else its timer keeps a thread alive
            self.sock.close()

    def end(self, reason: str) -> None:
        """Close the connection and store the reason."""
        self._end_reason = self._end_reason or reason
        self.close()

    @property
    def reason(self) -> str:
        """Why it ended, for a sentence that begins with 'the connection was lost'."""
        if self.farewell is not None:
            return f"the device's message is '{self.farewell}'"
        if self._end_reason:
            return self._end_reason
        if self._via and not self._via.is_active():
            return f"at a jump host, {self._via.reason}"
        error = self.saved_exception
        if error is None or isinstance(error, EOFError):
            return "the device closed it"
        return f"{getattr(error, 'strerror', None) or error}"


class _Watch(threading.Thread):
    """A keep-alive. paramiko's own does not request answers and so cannot detect silence."""

    def __init__(
        self, link: Link, interval_s: float, count: int, give_up: Callable[[], None]
    ) -> None:
        super().__init__(daemon=True, name="edgekit-ssh-watch")
        self._link = link
        self._interval_s = interval_s
        self._count = count
        self._give_up = give_up
        self._over = threading.Event()

    def stop(self) -> None:
        self._over.set()

    def run(self) -> None:
        asked = 0
        heard_at = self._link.packetizer.heard_at = time.monotonic()
        while not self._over.wait(self._remaining_s(heard_at, asked)):
            if heard_at != self._link.packetizer.heard_at:
                heard_at, asked = self._link.packetizer.heard_at, 0
            elif asked >= self._count:
                return self._give_up()
            else:
                asked += 1
                # a separate thread: sending blocks if the peer reads nothing
                threading.Thread(target=self._link.ask_alive, daemon=True).start()
        return None

    def _remaining_s(self, heard_at: float, asked: int) -> float:
        return max(0.0, heard_at + (asked + 1) * self._interval_s - time.monotonic())
