"""A temporary folder on a device, removed even if the connection is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath

from edgekit.device.base import Transport
from edgekit.errors import DeviceError, StoreError

# Removing files that were just written may take a while on a slow card.
CLEAN_UP_S = 30.0

# The folder exists as long as this shell's stdin is open. It closes when the client ends, is
# killed or loses the connection; then the device removes the folder. The folder's name has the
# shell's process id: it tells folders in use from those that a power failure left.
HOLD = """
umask 077
folder=$(mktemp -d "${1:-${TMPDIR:-/tmp}}/edgekit-$$-XXXXXX") || exit 1
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' HUP INT TERM
printf '%s\\n' "$folder"
cat >/dev/null
"""


@contextmanager
def scratch(transport: Transport, parent: PurePosixPath | None = None) -> Iterator[PurePosixPath]:
    """Make a folder in ``parent``, by default in the device's folder for temporary files.

    Raises StoreError if it cannot be made.
    """
    holder = transport.start(["sh", "-c", HOLD, "edgekit-scratch", str(parent or "")])
    try:
        line = holder.stdout.readline()
        if not line.endswith(b"\n"):
            message = holder.wait(timeout_s=10).stderr.decode(errors="replace").strip()
            raise StoreError(f"no temporary folder can be made on {transport.name}: {message}")
        yield PurePosixPath(line.decode().rstrip("\n"))
    finally:
        with suppress(DeviceError, OSError, TimeoutError):  # then the device cleans up by itself
            holder.stdin.close()
            holder.wait(timeout_s=CLEAN_UP_S)
        holder.kill()
