"""The tflite-runtime wheels of an architecture, for each Python that there is one for:

python -m edgekit.runtimes.tflite.wheel armv7l 3.11
"""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from edgekit.errors import EXIT_USAGE
from edgekit.progress import Progress, Silent
from edgekit.runtimes.base import WheelState
from edgekit.runtimes.wheel import RuntimeWheel
from edgekit.target import Architecture
from edgekit.values import TFLITE_PYTHONS

VERSION = "2.14.0"
# As the names of the wheels have it. All need only glibc 2.27 (x86_64: 2.29).
PLATFORMS: dict[Architecture, str] = {
    "x86_64": "manylinux2014",
    "aarch64": "manylinux_2_34",
    "armv7l": "manylinux_2_34",
}
SHA256: dict[Architecture, dict[str, str]] = {
    "x86_64": {
        "3.9": "4aa740210a0fd9e4db4a46e9778914846b136e161525681b41575ca4896158fb",
        "3.10": "bb11df4283e281cd609c621ac9470ad0cb5674408593272d7593a2c6bde8a808",
        "3.11": "195ab752e7e57329a68e54dd3dd5439fad888b9bff1be0f0dc042a3237a90e4d",
    },
    "aarch64": {
        "3.9": "be198b7dc4401204be54a15884d9e336389790eb707439524540f5a9329fdd02",
        "3.10": "d38c6885f5e9673c11a61ccec5cad7c032ab97340718d26b17794137f398b780",
        "3.11": "ce9fa5d770a9725c746dcbf6f59f3178233b3759f09982e8b2db8d2234c333b0",
    },
    "armv7l": {
        "3.9": "eca7672adca32727bbf5c0f1caf398fc17bbe222f2a684c7a2caea6fc6767203",
        "3.10": "7fe33f763263d1ff2733a09945a7547ab063d8bc311fd2a1be8144d850016ad3",
        "3.11": "c4e66a74165b18089c86788400af19fa551768ac782d231a9beae2f6434f7949",
    },
}
MODULE = "tflite_runtime"
FETCHER = "edgekit.runtimes.tflite.wheel"


def wheel(architecture: Architecture, python: str) -> RuntimeWheel:
    return RuntimeWheel(
        package="tflite-runtime",
        module=MODULE,
        version=VERSION,
        platform=PLATFORMS[architecture],
        size_mb=2,
        sha256={architecture: SHA256[architecture][python]},
        kept=(f"{MODULE}/",),
        fetcher=FETCHER,
        extra="litert",
        python=python,
        of_python=True,
    )


def libraries(
    architecture: Architecture, pythons: tuple[str, ...], progress: Progress
) -> dict[str, Path]:
    """The files of the wheels, by their paths below a bundle's library folder: for each Python a
    folder that the runner puts on the module path.

    Raises RuntimeFailure: a wheel cannot be fetched.
    """
    found = {}
    for python in pythons:
        one = wheel(architecture, python)
        folder = one.fetched(architecture, progress)
        for path in sorted(folder.iterdir()):
            if path.suffix in (".py", ".so"):
                found[f"{one.abi}/{MODULE}/{path.name}"] = path
    return found


def wheel_state(architecture: Architecture, pythons: Sequence[str]) -> WheelState:
    """The wheels of an architecture, for doctor: those for ``pythons``; all if it is empty."""
    wheels = [wheel(architecture, one) for one in with_wheel(pythons)]
    missing = [one for one in wheels if not one.is_fetched(architecture)]
    size_mb = sum(one.size_mb for one in missing)
    shown = ", ".join(one.python for one in missing or wheels)
    detail = f"Python {shown}: fetched" if wheels else "no wheel for the targets' Python"
    if missing:
        detail = f"Python {shown}: {size_mb} MB; fetched by the first build"
    command = [sys.executable, "-m", FETCHER, architecture, *(one.python for one in missing)]
    return WheelState(
        name=f"tflite-runtime ({architecture})",
        is_there=not missing,
        detail=detail,
        command=shlex.join(command),
    )


def with_wheel(pythons: Sequence[str]) -> tuple[str, ...]:
    """Those that there is a wheel for, the oldest first; all if none is named."""
    return tuple(one for one in TFLITE_PYTHONS if one in (pythons or TFLITE_PYTHONS))


def fetch_named(values: Sequence[str]) -> int:
    """Fetch the wheels of an architecture, for all versions of Python or the named ones."""
    architecture = next((one for one in PLATFORMS if one in values[:1]), None)
    pythons = values[1:]
    if architecture is None or not set(pythons) <= set(TFLITE_PYTHONS):
        names = f"{'|'.join(PLATFORMS)} [{'|'.join(TFLITE_PYTHONS)}]..."
        print(f"usage: python -m {FETCHER} {names}", file=sys.stderr)
        return EXIT_USAGE
    for python in with_wheel(pythons):
        print(wheel(architecture, python).fetched(architecture, Silent()))
    return 0


if __name__ == "__main__":
    sys.exit(fetch_named(sys.argv[1:]))
