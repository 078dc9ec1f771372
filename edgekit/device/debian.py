"""A folder with another architecture's Python and NumPy, of Debian packages: for programs in Python
under an emulated CPU.

python -m edgekit.device.debian armv7l 3.11

The packages are unpacked, not installed: nothing of them runs here, and no privilege is needed.
"""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from edgekit.cache import cache_folder, make_folder_once
from edgekit.errors import DeviceError, EdgekitError, UsageError
from edgekit.target import Architecture

ARCHITECTURES: dict[Architecture, str] = {"armv7l": "armhf", "aarch64": "arm64"}
# Python -> the release of Debian that has it, with a NumPy that tflite-runtime takes: bullseye's is
# too old, trixie's Python too new.
SUITES = {"3.11": "bookworm"}
PACKAGES = "libstdc++6,python3-minimal,python3-numpy"
UNWANTED = ("./dev/*", "./usr/share/doc", "./usr/share/man", "./usr/share/locale", "./var")
# Debian chooses these libraries while it installs: name -> the folder that has it.
CHOSEN = {"libblas.so.3": "blas", "liblapack.so.3": "lapack"}
# What apt says of a mirror that is being synchronized, or is busy.
UNDER_WAY = re.compile(r"Hashes of expected file|Hash Sum mismatch|  (404|50\d)  ")
PAUSES_S = (20, 60, 60)
CHOICES = f"architectures: {', '.join(ARCHITECTURES)}; Python: {', '.join(SUITES)}"
INDEX, ONLY_PACKAGES = "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"


@dataclass(frozen=True)
class PythonRoot:
    """A folder with ``usr/bin/python3``. ``version``: Python's, such as 3.11."""

    root: Path
    version: str

    @property
    def python(self) -> Path:
        return self.root / "usr/bin/python3"

    @property
    def packages(self) -> Path:
        """The folder of the system's Python packages."""
        return self.root / "usr/lib/python3/dist-packages"


def command_for(architecture: Architecture, python: str) -> str:
    """The command that makes a root."""
    return shlex.join([sys.executable, "-m", __spec__.name, architecture, python])


def root_folder(architecture: Architecture, python: str) -> Path:
    """The folder of a root in the cache, which may not exist yet."""
    return cache_folder() / "roots" / f"{SUITES[python]}-{architecture}"


def python_of(root: Path) -> PythonRoot | None:
    """The root as one of a Python; None if it has none."""
    program = root / "usr/bin/python3"
    version = program.resolve().name.removeprefix("python")
    return PythonRoot(root, version) if program.is_file() and "." in version else None


def make_root(architecture: Architecture, python: str) -> Path:
    """Return the root; if it is missing, make it, which fetches some 30 MB.

    Raises UsageError: no release of Debian has that Python. DeviceError: mmdebstrap failed.
    """
    if architecture not in ARCHITECTURES or python not in SUITES:
        raise UsageError(f"there is no root for {architecture} with Python {python}", CHOICES)
    return make_folder_once(
        root_folder(architecture, python), lambda draft: _fill(draft, architecture, SUITES[python])
    )


def _fill(draft: Path, architecture: Architecture, suite: str) -> None:
    if shutil.which("mmdebstrap") is None:
        raise DeviceError("mmdebstrap is not installed", "sudo apt-get install mmdebstrap")
    fetch = [
        "mmdebstrap", "--variant=extract", "--mode=chrootless", "--format=tar", "--quiet",
        f"--architectures={ARCHITECTURES[architecture]}", f"--include={PACKAGES}",
        *_apt_options(), suite, "-", *_mirror(),
    ]  # fmt: skip
    unpack = ["tar", "-x", "-C", str(draft), "--no-same-owner"]
    unpack += [f"--exclude={path}" for path in UNWANTED]
    for pause_s in (*PAUSES_S, None):
        text = _unpack(fetch, unpack)
        if text is None:
            break
        if pause_s is None or not UNDER_WAY.search(text):
            raise DeviceError(
                f"Debian's packages for {architecture} could not be unpacked: {text[-1000:]}",
                "is a mirror of Debian reachable? try again later",
            )
        time.sleep(pause_s)
    for name, folder in CHOSEN.items():
        for path in draft.glob(f"usr/lib/*/{folder}/{name}"):
            (path.parent.parent / name).symlink_to(f"{folder}/{name}")


def _unpack(fetch: list[str], unpack: list[str]) -> str | None:
    """Unpack what the first command prints by the second; what they said if one of them failed."""
    with tempfile.TemporaryFile() as log:
        with subprocess.Popen(
            fetch, stdout=subprocess.PIPE, stderr=log, stdin=subprocess.DEVNULL
        ) as fetching:
            unpacked = subprocess.run(unpack, stdin=fetching.stdout, stderr=log, check=False)
        if not fetching.returncode and not unpacked.returncode:
            return None
        log.seek(0)
        return log.read().decode(errors="replace").strip()


def _mirror() -> list[str]:
    """This host's mirror of Debian; nothing if it has none: mmdebstrap then uses its own."""
    rows = _ask("apt-get", "indextargets", "--no-release-info", "--format", INDEX, ONLY_PACKAGES)
    found = [row.split() for row in rows]
    return [uri for uri, suite, part in found if suite in SUITES.values() and part == "main"][:1]


def _apt_options() -> list[str]:
    """How this host's apt reaches its mirror: proxies, retries, checks."""
    kept = re.compile(r"Acquire::(http|https|Check-|Retries).* \".+\";")
    return [f"--aptopt={line}" for line in _ask("apt-config", "dump") if kept.fullmatch(line)]


def _ask(*command: str) -> list[str]:
    """The lines that a program prints; none if it is not there."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return []
    return done.stdout.splitlines()


def main(values: Sequence[str]) -> int:
    """Make the root that the command line names. Prints its folder, or the error."""
    try:
        if len(values) != 2:
            raise UsageError(f"usage: python -m {__spec__.name} ARCHITECTURE PYTHON", CHOICES)
        architecture, python = values
        print(make_root(architecture, python))  # type: ignore[arg-type]
    except EdgekitError as error:
        hint = [f"  {error.hint}"] if error.hint else []
        print(f"error: {error.message}", *hint, sep="\n", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
