"""From a DEVICE argument to a transport."""

from __future__ import annotations

from edgekit.device.base import Transport
from edgekit.device.local import LocalTransport
from edgekit.errors import DeviceError


def connect(device: str) -> Transport:
    """Connect to ``device``. Raises DeviceError for one that this version cannot reach."""
    if device == "local":
        return LocalTransport()
    raise DeviceError(
        f"the device '{device}' cannot be reached: this version of edgekit knows only 'local'",
        "use 'local', which is this host",
    )
