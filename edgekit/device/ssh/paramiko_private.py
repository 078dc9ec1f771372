"""All that edgekit uses of paramiko beyond its documented interface.

paramiko may change these names in any release: pyproject.toml bounds its version, and
tests/unit/device/test_ssh_private.py names them.
"""

from __future__ import annotations

import signal
import socket
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import Any, ClassVar

import paramiko
from paramiko.agent import AgentSSH
from paramiko.auth_handler import AuthHandler
from paramiko.common import (
    MSG_CHANNEL_REQUEST,
    MSG_USERAUTH_INFO_REQUEST,
    cMSG_GLOBAL_REQUEST,
    cMSG_USERAUTH_REQUEST,
)
from paramiko.message import Message
from paramiko.packet import Packetizer

# The protocol names a dozen signals. Of the others, a program is most likely ended by this one.
OTHER_SIGNAL = signal.SIGBUS


class _ListeningPacketizer(Packetizer):  # type: ignore[misc]
    """Records when the last message came from the peer."""

    heard_at = time.monotonic()

    def read_message(self) -> Any:
        message = super().read_message()
        self.heard_at = time.monotonic()
        return message


def _on_channel_request(channel: Any, message: Message) -> None:
    """Store the signal that ended a program as ``exit_signal``: paramiko discards it."""
    position = message.packet.tell()
    if message.get_text() == "exit-signal":
        message.get_boolean()
        channel.exit_signal = getattr(signal, f"SIG{message.get_text()}", OTHER_SIGNAL)
        channel.status_event.set()
    else:
        message.packet.seek(position)
        channel._handle_request(message)


class Transport(paramiko.Transport):  # type: ignore[misc]
    """paramiko's Transport with a choice of algorithms, keep-alive and the peer's reason.

    ``farewell``: the peer's message when it ended the connection. ``packetizer.heard_at``: the
    time of the last message from the peer (time.monotonic).
    """

    def __init__(self, sock: Any) -> None:
        super().__init__(sock, packetizer_class=_ListeningPacketizer)
        self.farewell: str | None = None

    @property
    def preferred_keys(self) -> tuple[str, ...]:
        """The preferred host key algorithms. No certificates: paramiko does not verify them."""
        return tuple(self._preferred_keys)

    def prefer(self, what: str, names: Sequence[str]) -> None:
        """Offer only ``names``, best first, as ``ciphers``, ``macs``, ``kex``, ``keys``, ..."""
        setattr(self, f"_preferred_{what}", tuple(names))

    def ask_alive(self) -> None:
        """Send a request that every server answers, if only with a refusal."""
        message = Message()
        message.add_byte(cMSG_GLOBAL_REQUEST)
        message.add_string("keepalive@openssh.com")
        message.add_boolean(True)
        with suppress(Exception):  # the connection has ended; others report that
            self._send_user_message(message)

    def _parse_disconnect(self, message: Message) -> None:
        message.get_int()
        self.farewell = self.farewell or message.get_text().strip()

    _channel_handler_table: ClassVar = {
        **paramiko.Transport._channel_handler_table,
        MSG_CHANNEL_REQUEST: _on_channel_request,
    }


class Probe(AuthHandler):  # type: ignore[misc]
    """Asks whether the server would accept a key. paramiko itself signs without asking.

    ``kind`` and ``data``: of the public key or the certificate, in SSH's wire format.
    """

    def __init__(self, transport: Transport, kind: str, data: bytes) -> None:
        super().__init__(transport)
        self._kind = kind
        self._data = data
        self._is_welcome = False

    def ask(self, user: str) -> bool:
        event = threading.Event()
        with self.transport.lock:
            self.auth_event = event
            self.auth_method = "publickey"
            self.username = user
            self._request_auth()
        try:
            self.wait_for_response(event)
        except paramiko.AuthenticationException:
            if not self.transport.is_active():
                raise
        return self._is_welcome

    def _parse_service_accept(self, _: Message) -> None:
        request = Message()
        request.add_byte(cMSG_USERAUTH_REQUEST)
        request.add_string(self.username)
        request.add_string("ssh-connection")
        request.add_string("publickey")
        request.add_boolean(False)
        request.add_string(self._finalize_pubkey_algorithm(self._kind))
        request.add_string(self._data)
        self.transport._send_message(request)

    def _parse_acceptable(self, _: Message) -> None:
        self._is_welcome = True
        self.auth_event.set()

    @property
    def _client_handler_table(self) -> dict[int, Any]:
        # this message number has another meaning in other login methods
        return {**super()._client_handler_table, MSG_USERAUTH_INFO_REQUEST: self._parse_acceptable}


class Agent(AgentSSH):  # type: ignore[misc]
    """The agent that listens at ``path``. Raises OSError, paramiko.SSHException."""

    def __init__(self, path: str, limit_s: float) -> None:
        super().__init__()
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(limit_s)
        try:
            connection.connect(path)
            self._connect(connection)
        except BaseException:
            connection.close()
            raise

    def close(self) -> None:
        self._close()
