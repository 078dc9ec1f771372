"""The socket of a first link: TCP, or a ProxyCommand."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import tempfile
from contextlib import suppress

from edgekit.device.ssh.options import HostOptions
from edgekit.errors import DeviceError

PROXY_END_LIMIT_S = 2.0


def open_socket(options: HostOptions, who: str) -> socket.socket:
    """A TCP connection. Raises DeviceError."""
    host, port = options.hostname, options.port
    try:
        addresses = socket.getaddrinfo(host, port, options.family, socket.SOCK_STREAM)
    except (socket.gaierror, UnicodeError) as error:
        why = getattr(error, "strerror", None) or "it is not a valid name"
        raise DeviceError(
            f"{who} cannot be reached: the name '{host}' cannot be resolved ({why})",
            "is it spelt right? On a local network, NAME.local or the address may work",
        ) from None
    failure: OSError = OSError("no address")
    for family, kind, protocol, _, place in addresses:
        sock = socket.socket(family, kind, protocol)
        try:
            sock.settimeout(options.connect_limit_s)
            if options.bind_address:
                sock.bind((options.bind_address, 0))
            sock.connect(place)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            return sock
        except OSError as error:
            sock.close()
            failure = error
        except BaseException:
            sock.close()
            raise
    raise _unreachable(options, who, failure)


def _unreachable(options: HostOptions, who: str, error: OSError) -> DeviceError:
    place = f"{who} cannot be reached at {options.hostname}, port {options.port}"
    if isinstance(error, TimeoutError):
        return DeviceError(
            f"{place}: no answer within {options.connect_limit_s:g} s",
            "is it on, and on this network? ConnectTimeout in ~/.ssh/config sets the limit",
        )
    if isinstance(error, ConnectionRefusedError):
        return DeviceError(
            f"{place}: connection refused", "is its SSH server running, and on that port?"
        )
    return DeviceError(f"{place}: {error.strerror or error}", "is it on, and on this network?")


class Proxy:
    """A ProxyCommand: a program whose stdin and stdout are the connection."""

    def __init__(self, command: str) -> None:
        self.socket, theirs = socket.socketpair()
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 - closed in close
        shell = os.environ.get("SHELL") or "/bin/sh"
        try:
            # a separate session: Ctrl-C must not end it before the programs on the device
            self._process = subprocess.Popen(
                [shell, "-c", f"exec {command}"],
                stdin=theirs.fileno(), stdout=theirs.fileno(), stderr=self._stderr,
                start_new_session=True,
            )  # fmt: skip
        except OSError as error:
            self.socket.close()
            raise DeviceError(f"the ProxyCommand cannot be started: {error.strerror}") from None
        finally:
            theirs.close()

    def last_words(self) -> str:
        """The last line of its stderr."""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(PROXY_END_LIMIT_S)
        self._stderr.seek(0)
        lines = self._stderr.read().decode(errors="replace").split("\n")
        return next((line.strip() for line in reversed(lines) if line.strip()), "")

    def close(self) -> None:
        self.socket.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, number)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(PROXY_END_LIMIT_S)
                break
        self._stderr.close()
