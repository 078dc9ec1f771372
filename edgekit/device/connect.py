"""From a DEVICE argument to a transport."""

from __future__ import annotations

from edgekit.device.base import Transport
from edgekit.device.local import LocalTransport
from edgekit.errors import UsageError


def connect(device: str) -> Transport:
    """Connect to ``device``. Raises UsageError for one that this version cannot reach."""
    if device == "local":
        return LocalTransport()
    raise UsageError(
        f"the device '{device}' cannot be used: this version reaches only 'local', this host",
        "use 'local'",
    )
