"""What building and booting share: errors, progress, programs, the folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

BEAT_S = 3.0
# Program -> the Debian package that brings it.
DEBIAN_PACKAGE = {
    "apt-get": "apt",
    "mke2fs": "e2fsprogs",
    "mmdebstrap": "mmdebstrap",
    "qemu-system-aarch64": "qemu-system-arm",
    "ssh": "openssh-client",
    "ssh-keygen": "openssh-client",
    "tar": "tar",
}
TO_BUILD = ("apt-get", "mmdebstrap", "mke2fs", "tar")
TO_BOOT = ("qemu-system-aarch64", "ssh-keygen", "ssh")


class PiError(Exception):
    """``message`` says what happened, ``hint`` what to do."""

    def __init__(self, message: str, hint: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


def default_folder() -> Path:
    """Where images and machines are kept: the user's cache."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "edgekit" / "emulated-pi"


def find_program(name: str) -> str | None:
    """Its path; an ordinary user's PATH often lacks the sbin folders."""
    path = os.environ.get("PATH", os.defpath)
    return shutil.which(name, path=os.pathsep.join([path, "/usr/sbin", "/sbin"]))


def missing_packages(programs: Sequence[str] = (*TO_BUILD, *TO_BOOT)) -> list[str]:
    """Names of the Debian packages that are still to be installed."""
    return sorted({DEBIAN_PACKAGE[name] for name in programs if not find_program(name)})


def require(programs: Sequence[str]) -> None:
    """Raises PiError with the command that installs what is missing."""
    packages = missing_packages(programs)
    if packages:
        names = " ".join(packages)
        command = f"sudo apt-get install --no-install-recommends {names}"
        raise PiError(f"this machine lacks {names}", command)


def say(text: str) -> None:
    print(text, flush=True)


@contextmanager
def working(title: str) -> Iterator[None]:
    """Say what is being done, and every few seconds that it still is."""
    say(title)
    over, start = threading.Event(), time.monotonic()

    def beat() -> None:
        while not over.wait(BEAT_S):
            say(f"  ... {title}: {time.monotonic() - start:.0f} s")

    thread = threading.Thread(target=beat, daemon=True)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def run(command: Sequence[str]) -> str:
    """Run a program to its end; its stdout. Raises PiError with what it said."""
    program = find_program(command[0]) or command[0]
    done = subprocess.run(
        [program, *command[1:]], capture_output=True, text=True, errors="replace", check=False
    )
    if done.returncode != 0:
        raise PiError(f"{command[0]} failed: {(done.stderr or done.stdout).strip()[-2000:]}")
    return done.stdout
