"""Starting a program in a login shell, and finding where its output begins.

A login shell's start-up files may print. A mark on both streams separates that output from the
program's.
"""

from __future__ import annotations

import secrets
import shlex
import threading
import time
from collections.abc import Callable, Sequence

from edgekit.errors import DeviceError, RunnerError

# How long a login shell's start-up files may take, and how much they may print.
START_LIMIT_S = 60.0
NOISE_LIMIT_BYTES = 1_000_000

# $0 is the mark, the rest the command. If the connection is already lost, writing the mark fails
# and the shell ends.
START = (
    'case $1 in */*) [ -x "$1" ] && [ ! -d "$1" ] ;; *) command -v "$1" >/dev/null 2>&1 ;; esac'
    " && state=ready || state=absent; "
    'echo "$0-$state" >&2 && echo "$0-$state" || exit 1; '
    '[ $state = ready ] || exit 127; exec "$@"'
)


class Start:
    """The start of one program: the command line for a channel, and the reader of its output."""

    def __init__(self, device: str, program: str) -> None:
        self._device = device
        self._program = program
        self._mark = f"edgekit-{secrets.token_hex(8)}"
        self._is_over = threading.Event()

    def line(self, argv: Sequence[str], environment: Sequence[str]) -> str:
        """The command for the login shell; ``environment`` is a list of ``NAME=value``."""
        words = ["env", "LC_ALL=C", *environment, "sh", "-c", START, self._mark, *argv]
        return "exec " + shlex.join(words)

    def is_over(self, timeout_s: float = 0.0) -> bool:
        """Whether the mark is read within the time."""
        return self._is_over.wait(timeout_s)

    def wait(
        self, receive: Callable[[int, float], bytes], stderr_so_far: Callable[[], bytes]
    ) -> bytes:
        """Read stdout up to the mark. Returns the program's output after it, as far as read.

        ``receive`` takes a count and a deadline. Raises RunnerError if the program cannot be
        started, DeviceError if the login shell runs no command.
        """
        deadline = time.monotonic() + START_LIMIT_S
        ready, absent = (f"{self._mark}-{state}\n".encode() for state in ("ready", "absent"))
        seen = b""
        while ready not in seen and absent not in seen:
            try:
                data = receive(4096, deadline)
            except TimeoutError:
                output = seen + b"\n" + stderr_so_far()
                raise self._no_shell(output, f"nothing after {START_LIMIT_S:g} s") from None
            seen += data
            if not data or len(seen) > NOISE_LIMIT_BYTES:
                raise self._no_shell(seen + b"\n" + stderr_so_far(), "nothing")
        self._is_over.set()
        if absent in seen:
            raise self._cannot_start("it does not exist, or is not executable")
        return seen.partition(ready)[2]

    def own_stderr(self, stderr: bytes) -> bytes:
        """The program's part of ``stderr``."""
        _, mark, own = stderr.partition(f"{self._mark}-ready\n".encode())
        return own if mark else stderr

    def check(self, exit_code: int, stderr: bytes) -> None:
        """Raise RunnerError if the shell reports that it could not execute the program.

        ``stderr``: from own_stderr. The shell begins its messages with $0, which is the mark.
        """
        if exit_code in (126, 127) and stderr.startswith(f"{self._mark}:".encode()):
            raise self._cannot_start(stderr.decode(errors="replace").strip().rpartition(": ")[2])

    def _cannot_start(self, why: str) -> RunnerError:
        return RunnerError(
            f"{self._program} cannot be started on {self._device}: {why}",
            "is it executable (chmod +x), and does its file system allow programs (no noexec)?",
        )

    def _no_shell(self, output: bytes, otherwise: str) -> DeviceError:
        lines = output.decode(errors="replace").split("\n")
        text = " ".join(line.strip() for line in lines if line.strip())[:300]
        return DeviceError(
            f"{self._device} accepts the login, but its login shell runs no command: it printed"
            f" {repr(text) if text else otherwise}",
            "edgekit needs a POSIX shell there: the command 'true' must exit with code 0",
        )
