"""From a DEVICE argument to a transport."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from edgekit.device.base import Transport
from edgekit.device.local import LocalTransport
from edgekit.errors import DeviceError
from edgekit.progress import Progress


def _warn(text: str) -> None:
    print(f"warning: {text}", file=sys.stderr)


def connect(
    device: str, *, accept_new_host_key: bool = False, say: Callable[[str], None] = _warn
) -> Transport:
    """Connect to ``device``. The caller closes the connection.

    ``say`` receives messages for the user: a host key that was stored, an option of
    ~/.ssh/config that is ignored. Raises UsageError for a malformed ``device``, DeviceError
    if it cannot be reached, HostKeyError if its host key is not accepted.
    """
    if device == "local":
        return LocalTransport()
    if device.startswith("adb://"):
        raise DeviceError(
            f"the device '{device}' cannot be reached: edgekit does not support adb",
            "connect over SSH, or use 'local', which is this host",
        )
    from edgekit.device.ssh.address import parse_address

    address = parse_address(device)
    # late: importing paramiko is slow
    from edgekit.device.ssh.transport import SshTransport

    return SshTransport(device, address, accept_new_host_key=accept_new_host_key, say=say)


@contextmanager
def connection(device: str, accept_new_host_key: bool, progress: Progress) -> Iterator[Transport]:
    """A connection that is closed at the end of the block. Raises DeviceError."""
    # not a stage: a moving progress bar would overwrite the passphrase prompt
    progress.note(f"connecting to {device}")
    transport = connect(device, accept_new_host_key=accept_new_host_key)
    try:
        yield transport
    finally:
        transport.close()
