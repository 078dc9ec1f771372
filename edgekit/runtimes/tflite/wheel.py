"""The tflite-runtime wheels of an architecture, for each Python that there is one for:

python -m edgekit.runtimes.tflite.wheel armv7l
"""

from __future__ import annotations

import sys
from pathlib import Path

from edgekit.progress import Progress, Silent
from edgekit.runtimes.base import OtherWheel
from edgekit.runtimes.wheel import RuntimeWheel
from edgekit.target import Architecture
from edgekit.values import TFLITE_PYTHONS as PYTHONS

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


def wheel(architecture: Architecture, python: str) -> RuntimeWheel:
    return RuntimeWheel(
        package="tflite-runtime",
        module=MODULE,
        version=VERSION,
        platform=PLATFORMS[architecture],
        size_mb=2,
        sha256={architecture: SHA256[architecture][python]},
        kept=(f"{MODULE}/",),
        fetcher="edgekit.runtimes.tflite.wheel",
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


def other_wheel(architecture: Architecture) -> OtherWheel:
    """What doctor says of an architecture's wheels. The newest one stands for all."""
    return wheel(architecture, PYTHONS[-1]).of_another(architecture)


if __name__ == "__main__":
    for name in sys.argv[1:]:
        for version in PYTHONS:
            print(wheel(name, version).fetched(name, Silent()))  # type: ignore[arg-type]
