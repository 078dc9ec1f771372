"""From a DEVICE to a logged-in link, through proxy commands and jump hosts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import paramiko

from edgekit.device.ssh.address import Address
from edgekit.device.ssh.auth import log_in
from edgekit.device.ssh.hostkeys import HostKey, KnownHosts
from edgekit.device.ssh.link import HANDSHAKE_LIMIT_S, Link
from edgekit.device.ssh.options import HostOptions, home_folder, resolve
from edgekit.device.ssh.sockets import Proxy, open_socket
from edgekit.device.ssh.terminal import Terminal
from edgekit.errors import DeviceError

Say = Callable[[str], None]
# More jump hosts than this are taken to be a circle.
HOPS_LIMIT = 8


class Connection:
    """A connection to a device; ``link`` is its last hop. Raises DeviceError, HostKeyError."""

    def __init__(self, name: str, address: Address, *, accept_new_host_key: bool, say: Say) -> None:
        self._name = name
        self._accept = accept_new_host_key
        self._say = say
        self._links: list[Link] = []
        self._proxies: list[Proxy] = []
        home = home_folder()
        route = find_route(resolve(address, home), home)
        terminal = Terminal()
        try:
            for note in dict.fromkeys(note for hop in route for note in hop.notes):
                say(note)
            for hop in route:
                for option in hop.not_honoured:
                    say(f"{hop.alias}: edgekit ignores {option} of the ssh configuration")
                who = name if hop is route[-1] else f"the jump host {hop.alias}"
                self._links.append(self._connect(hop, who, terminal))
        except BaseException:
            self.close()
            raise
        self.link = self._links[-1]

    def close(self) -> None:
        """Close the first link first: the links through it end with it, and cannot block."""
        for link in self._links:
            link.close()
        for proxy in self._proxies:
            proxy.close()

    def _give_up(self) -> None:
        reason = "it stopped answering"
        for link in self._links:
            link.end(reason)

    def _connect(self, hop: HostOptions, who: str, terminal: Terminal) -> Link:
        known = KnownHosts(hop)
        sock = self._socket(hop, who)
        link = Link(sock, known.algorithms(), via=self._links[-1] if self._links else None)
        try:
            link.restrict(hop)
            self._shake_hands(link, hop, who)
            self._check_host_key(known, link, hop)
            ask = terminal.for_host(hop)
            try:
                log_in(link, hop, who, ask)
            except (paramiko.SSHException, EOFError, OSError):
                raise DeviceError(
                    f"{who} ended the connection during login: {link.reason}",
                    "if you have many keys, set IdentitiesOnly yes and IdentityFile, so that only"
                    " the right one is offered",
                ) from None
            link.watch(hop.alive_interval_s, hop.alive_count, self._give_up)
        except BaseException:
            link.close()
            raise
        return link

    def _socket(self, hop: HostOptions, who: str) -> Any:
        if not self._links:
            if hop.proxy_command is None:
                return open_socket(hop, who)
            self._proxies.append(Proxy(hop.proxy_command))
            return self._proxies[-1].socket
        last = self._links[-1]
        try:
            return last.open_channel(
                "direct-tcpip", (hop.hostname, hop.port), ("127.0.0.1", 0),
                timeout=hop.connect_limit_s,
            )  # fmt: skip
        except paramiko.ChannelException as error:
            why = error.text or str(error)
        except (paramiko.SSHException, EOFError, OSError) as error:
            why = str(error) if last.is_active() else last.reason
        raise DeviceError(
            f"{who} cannot be reached at {hop.hostname}, port {hop.port}, from the previous jump"
            f" host: {why}",
            "can the jump host resolve that name, and does its sshd allow forwarding?",
        )

    def _shake_hands(self, link: Link, hop: HostOptions, who: str) -> None:
        limit_s = max(HANDSHAKE_LIMIT_S, hop.connect_limit_s)
        link.banner_timeout = hop.connect_limit_s
        try:
            link.start_client(timeout=2 * limit_s)
        except paramiko.IncompatiblePeer as error:
            raise DeviceError(
                f"{who} and edgekit have no algorithm in common: {error}",
                "is its SSH server very old, or does the ssh configuration restrict too much?",
            ) from None
        except (paramiko.SSHException, EOFError, OSError) as error:
            raise self._no_server_error(link, hop, who, error) from None
        if not link.initial_kex_done:
            raise _handshake_error(who)

    def _no_server_error(
        self, link: Link, hop: HostOptions, who: str, error: Exception
    ) -> DeviceError:
        if self._proxies and len(self._links) == 0:
            message = self._proxies[-1].last_words()
            return DeviceError(
                f"{who} cannot be reached: its ProxyCommand did not connect"
                + (f": {message}" if message else ""),
                f"check the command: {hop.proxy_command}",
            )
        if link.packetizer.handshake_timed_out():
            return _handshake_error(who)
        cause = error.__context__
        if isinstance(error, EOFError) or isinstance(cause, (EOFError, ConnectionError)):
            return DeviceError(
                f"{who} accepted the connection on port {hop.port} and closed it at once",
                "is that the port of its SSH server, and has it blocked this host for a while?",
            )
        if isinstance(cause, TimeoutError):
            return DeviceError(
                f"{who} accepted the connection on port {hop.port} and sent nothing",
                "is it still starting, or does that port belong to something other than SSH?",
            )
        return DeviceError(
            f"{who} answered on port {hop.port}, but not as an SSH server: {error}",
            "is that the port of its SSH server?",
        )

    def _check_host_key(self, known: KnownHosts, link: Link, hop: HostOptions) -> None:
        shown = link.get_remote_server_key()
        key = HostKey(shown.get_name(), shown.asbytes())
        if known.check(key):
            return
        if not (self._accept or hop.strict in ("accept-new", "no")):
            raise known.unknown(key)
        try:
            where = f"stored in {known.store(key)}"
        except (OSError, IndexError) as error:
            # the user accepted the key, so connect; the next connection asks again
            where = f"it cannot be stored: {getattr(error, 'strerror', 'no UserKnownHostsFile')}"
        self._say(f"accepted the host key of {known.name}: {key}; {where}")


def _handshake_error(who: str) -> DeviceError:
    return DeviceError(
        f"{who} did not finish the SSH handshake", "is it overloaded, or is the network bad?"
    )


def find_route(options: HostOptions, home: Path, depth: int = 0) -> list[HostOptions]:
    """All hosts from here to the device, the device last. Only the first may need a proxy."""
    if depth > HOPS_LIMIT:
        raise DeviceError(
            f"the ssh configuration: ProxyJump of {options.alias} is circular",
            f"set 'ProxyJump none' for the jump host itself (Host {options.alias})",
        )
    hops = [resolve(address, home) for address in options.proxy_jump]
    # a ProxyJump under 'Host *' applies to the jump host, too
    if not hops or any(hop.alias == options.alias for hop in hops):
        return [options]
    return [*find_route(hops[0], home, depth + 1), *hops[1:], options]
