"""A folder on a device that is gone afterwards, however the end comes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath

from edgekit.device.base import Transport
from edgekit.errors import DeviceError, StoreError

# Removing files that were just written may take a while on a slow card.
CLEAN_UP_S = 30.0

# It lives as long as this shell's stdin is open: a client that leaves, is killed or loses the
# connection closes it, and the device itself cleans up. Its process stands in the folder's name:
# what a device that was switched off left behind can be told from what is in use.
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
    """Make a folder in ``parent`` (else where the device keeps temporary files).

    Raises StoreError: it cannot be made.
    """
    holder = transport.start(["sh", "-c", HOLD, "edgekit-scratch", str(parent or "")])
    try:
        line = holder.stdout.readline()
        if not line.endswith(b"\n"):
            said = holder.wait(timeout_s=10).stderr.decode(errors="replace").strip()
            raise StoreError(f"no temporary folder can be made on {transport.name}: {said}")
        yield PurePosixPath(line.decode().rstrip("\n"))
    finally:
        with suppress(DeviceError, OSError, TimeoutError):  # the device cleans up by itself then
            holder.stdin.close()
            holder.wait(timeout_s=CLEAN_UP_S)
        holder.kill()
