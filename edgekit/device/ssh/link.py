"""One SSH connection: paramiko's, made to notice a silent peer and to tell why it ended."""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any, ClassVar

import paramiko
from paramiko.common import MSG_CHANNEL_REQUEST, cMSG_GLOBAL_REQUEST
from paramiko.message import Message
from paramiko.packet import Packetizer

# Its threads log what we tell as errors; without a handler Python prints that on stderr.
logging.getLogger("paramiko").addHandler(logging.NullHandler())
logging.getLogger("paramiko").propagate = False

# The protocol knows a dozen signals by name. Of the others, this is the one that a program meets.
OTHER_SIGNAL = signal.SIGBUS
HANDSHAKE_LIMIT_S = 30.0
PROMPT_LIMIT_S = 120.0


class _ListeningPacketizer(Packetizer):  # type: ignore[misc]
    """Knows when it heard from the peer last."""

    heard_at = time.monotonic()

    def read_message(self) -> Any:
        message = super().read_message()
        self.heard_at = time.monotonic()
        return message


def _on_channel_request(channel: Any, message: Message) -> None:
    """paramiko drops the signal that ended a program."""
    position = message.packet.tell()
    if message.get_text() == "exit-signal":
        message.get_boolean()
        channel.exit_signal = getattr(signal, f"SIG{message.get_text()}", OTHER_SIGNAL)
        channel.status_event.set()
    else:
        message.packet.seek(position)
        channel._handle_request(message)


class Link(paramiko.Transport):  # type: ignore[misc]
    """A paramiko Transport over ``sock``.

    ``host_key_algorithms``: what to ask for, best first. ``via``: the link that ``sock`` is a
    channel of.
    """

    def __init__(
        self, sock: Any, host_key_algorithms: Sequence[str], via: Link | None = None
    ) -> None:
        super().__init__(sock, packetizer_class=_ListeningPacketizer)
        self._preferred_keys = tuple(host_key_algorithms)
        self._via = via
        self._watch: _Watch | None = None
        self._reason: str | None = None
        self.banner_timeout = self.handshake_timeout = HANDSHAKE_LIMIT_S
        self.auth_timeout = self.channel_timeout = PROMPT_LIMIT_S

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """Without host certificates, which paramiko does not check."""
        return self._preferred_keys

    def watch(self, interval_s: float, count: int, give_up: Callable[[], None]) -> None:
        """From now on call ``give_up`` when the peer falls silent: nothing was heard for
        ``interval_s``, and none of ``count`` questions, one each interval, was answered.
        """
        self._watch = _Watch(self, interval_s, count, give_up)
        self._watch.start()

    def close(self) -> None:
        if self._watch:
            self._watch.stop()
        super().close()
        with suppress(Exception):
            self.packetizer.complete_handshake()  # else its timer keeps a thread alive
            self.sock.close()

    def end(self, reason: str) -> None:
        """Close it, and keep why."""
        self._reason = self._reason or reason
        self.close()

    @property
    def reason(self) -> str:
        """Why it ended, for a sentence that begins with 'the connection was lost'."""
        if self._reason:
            return self._reason
        if self._via and not self._via.is_active():
            return f"at a jump host, {self._via.reason}"
        error = self.saved_exception
        if error is None or isinstance(error, EOFError):
            return "the device closed it"
        return f"{getattr(error, 'strerror', None) or error}"

    def ask_alive(self) -> None:
        """Send a question that every server answers, if only by a refusal."""
        message = Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)
        with suppress(Exception):  # the connection ended: others tell
            self._send_user_message(message)

    def _parse_disconnect(self, message: Message) -> None:
        message.get_int()
        self._reason = self._reason or f"the device said '{message.get_text().strip()}'"

    _channel_handler_table: ClassVar = {
        **paramiko.Transport._channel_handler_table,
        MSG_CHANNEL_REQUEST: _on_channel_request,
    }


class _Watch(threading.Thread):
    """paramiko's own keep-alive neither asks for an answer nor misses one."""

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
        while not self._over.wait(self._left(heard_at, asked)):
            if heard_at != self._link.packetizer.heard_at:
                heard_at, asked = self._link.packetizer.heard_at, 0
            elif asked >= self._count:
                return self._give_up()
            else:
                asked += 1
                # a thread of its own: where the peer reads nothing, sending blocks
                threading.Thread(target=self._link.ask_alive, daemon=True).start()
        return None

    def _left(self, heard_at: float, asked: int) -> float:
        return max(0.0, heard_at + (asked + 1) * self._interval_s - time.monotonic())
