"""A temporary folder on a device, removed even if the connection is lost."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import PurePosixPath

from edgekit.device.base import COMMAND_VARIABLE, Transport
from edgekit.errors import DeviceError, StoreError

# Removing files that were just written may take a while on a slow card.
CLEAN_UP_S = 30.0

# The folder exists as long as this shell's stdin is open. It closes when the client ends, is
# killed or loses the connection; then the device removes the folder. The traps stand before the
# folder is made, and remove it by the process id in its name: mktemp may be ended before it has
# printed the name. The guard on the device ends what carries its variable, and after some seconds
# by force: the removal, which may take longer, does not carry it. A lost connection brings several
# signals (sshd's and the guard's); a second one must not end the shell before its removal.
HOLD = f"""
umask 077
parent=${{1:-${{TMPDIR:-/tmp}}}}
trap 'unset {COMMAND_VARIABLE}; rm -rf "$parent/edgekit-$$-"*' EXIT
trap 'trap "" HUP INT TERM; exit 1' HUP INT TERM
mktemp -d "$parent/edgekit-$$-XXXXXX" || {{ trap "" HUP INT TERM; exit 1; }}
cat >/dev/null
trap "" HUP INT TERM
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
