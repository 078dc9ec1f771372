"""Emulated Pis for tests: real kernel, real OpenSSH, and a process that can be frozen or killed.

from emulated.pi import booted

with booted("zero2w", memory_mb=300) as pi:
    pi.ssh("uname -m")

The fixture ``pi4`` is one machine for the whole session: leave it as it was found.
"""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from watching import patience_s

ROOT = Path(__file__).resolve().parent.parent.parent
SCRIPT = ROOT / "scripts" / "emulated_pi.py"
if str(SCRIPT.parent) not in sys.path:
    sys.path.append(str(SCRIPT.parent))

from pi_emulator.common import default_folder, missing_packages  # noqa: E402
from pi_emulator.machine import Machine, find_machine  # noqa: E402

# Asked for once: a test may move $HOME, the image stays where it is.
FOLDER = default_folder()
# A session that is killed leaves machines that end by themselves.
LIFETIME_S = 3600
_numbers = itertools.count(1)


def no_pi() -> str | None:
    """Why no Pi can be emulated here; None where it can."""
    packages = missing_packages()
    return f"needs {' '.join(packages)} (make test installs them, as root)" if packages else None


@dataclass(frozen=True)
class Pi:
    """A machine that answers. ``home``: a $HOME in which ssh and edgekit know it by its alias."""

    alias: str
    home: Path
    folder: Path

    @property
    def device(self) -> str:
        """What edgekit takes as its DEVICE."""
        return self.alias

    @property
    def ssh_config(self) -> Path:
        return self.folder / "ssh_config"

    @property
    def environment(self) -> dict[str, str]:
        """The environment for an edgekit that is to reach it, and use its usual store there."""
        own = {name: value for name, value in os.environ.items() if name != "EDGEKIT_ROOT"}
        return own | {"HOME": str(self.home)}

    @property
    def machine(self) -> Machine:
        found = find_machine(self.folder)
        assert found is not None, f"{self.alias} has no record"
        return found

    def ssh(
        self, command: str, *, user: str = "pi", stdin: str = "", timeout_s: float = 120
    ) -> subprocess.CompletedProcess[str]:
        """Run a shell's command line by OpenSSH's client. ``user``: pi or root."""
        ssh = ["ssh", "-F", str(self.ssh_config), "-o", "BatchMode=yes", "-l", user, self.alias]
        return subprocess.run(
            [*ssh, command],
            input=stdin, capture_output=True, text=True, timeout=patience_s(timeout_s), check=False,
        )  # fmt: skip

    def kill(self) -> None:
        """As if the power were cut. A connection to it breaks off."""
        self._signal(signal.SIGKILL, "ended")

    def freeze(self) -> None:
        """As if the network were gone: a connection stays open and nothing comes."""
        self._signal(signal.SIGSTOP, "frozen")

    def thaw(self) -> None:
        self._signal(signal.SIGCONT, "running")

    def _signal(self, number: int, state: str) -> None:
        """Return when it has come to pass: that takes a moment on a busy host."""
        machine = self.machine
        assert machine.state() != "ended"
        os.kill(machine.pid, number)
        while machine.state() not in (state, "ended"):
            time.sleep(0.01)


@contextmanager
def booted(
    model: str = "pi4", *, memory_mb: int | None = None, port: int | None = None
) -> Iterator[Pi]:
    """A machine of one's own; the image is built where it is missing.

    ``model``: zero2w, pi4 or pi5. ``memory_mb``: in 1,000,000 bytes; default: the board's.
    It is gone afterwards, in whatever state it is.
    """
    alias = f"test-{os.getpid()}-{next(_numbers)}"
    options = ["--name", alias, "--lifetime-s", str(LIFETIME_S)]
    if memory_mb is not None:
        options += ["--memory-mb", str(memory_mb)]
    if port is not None:
        options += ["--port", str(port)]
    folder = FOLDER / "machines" / alias
    done = emulated_pi("boot", model, *options)
    assert done.returncode == 0, done.stdout + done.stderr
    try:
        with tempfile.TemporaryDirectory(prefix="edgekit-home-") as home:
            config = Path(home) / ".ssh" / "config"
            config.parent.mkdir(mode=0o700)
            config.write_text(f'Include "{folder}/ssh_config"\n')
            yield Pi(alias, Path(home), folder)
    finally:
        done = emulated_pi("stop", alias)
        assert done.returncode == 0, done.stderr


def emulated_pi(
    command: str, *arguments: str, folder: Path = FOLDER, **options
) -> subprocess.CompletedProcess[str]:
    """Run scripts/emulated_pi.py as a user does."""
    call = [sys.executable, str(SCRIPT), command, "--folder", str(folder), *arguments]
    return subprocess.run(call, capture_output=True, text=True, timeout=600, check=False, **options)
