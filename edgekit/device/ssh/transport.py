"""The SSH transport: a connection, and a remote shell over it."""

from __future__ import annotations

from functools import partial

from edgekit.device.shell.transport import ShellTransport
from edgekit.device.ssh.address import Address
from edgekit.device.ssh.channel import SshChannel
from edgekit.device.ssh.connection import Connection, Say


class SshTransport(ShellTransport):
    def __init__(self, name: str, address: Address, *, accept_new_host_key: bool, say: Say) -> None:
        self._connection = Connection(
            name, address, accept_new_host_key=accept_new_host_key, say=say
        )
        try:
            super().__init__(name, partial(SshChannel, self._connection.link, name))
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        super().close()
        self._connection.close()
